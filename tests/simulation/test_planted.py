"""What the simulation is worth: faults of the workers that were found once are put back, one at a
time, and must be found again."""

from __future__ import annotations

import inspect
import random
import re
from dataclasses import fields
from typing import Any

import pytest

from connector.domain.lanes import LaneId, Millis
from connector.store.sql import store_on

from .aimed import ACQUIRE, CLAIMS, COMMITS, GROUPS, RELOAD_CALLS, SETTLE, WRITE_CLAIMS
from .crowds import PAGE_STORED
from .database import Disk, FaultyDatabase
from .planted import PLANTED
from .scenario import simulate

SEEDS = 500
"""Lives within which a planted fault must be found. Each of them contains the act that aims at the
fault, among others; in any life it is one act of about fifteen."""


def seeds_until_found(name: str, most: int) -> tuple[int, list[str]]:
    """How many lives it takes, and what was found; `most` and nothing where it was not."""
    with pytest.MonkeyPatch.context() as patch:
        plant, act = PLANTED[name]
        plant(patch)
        for seed in range(most):
            if found := simulate(seed, act=act)[0]:
                return seed + 1, found
    return most, []


@pytest.mark.campaign
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_is_found(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    seeds, found = seeds_until_found(name, SEEDS)
    with capsys.disabled():
        print(f"\n{name}: {f'{seeds} seeds, {found[0]}' if found else f'not in {seeds} seeds'}")
    assert found


def test_a_redirect_that_is_repeated_is_found() -> None:
    """One of them in every run, so that a simulation that finds nothing is noticed."""
    _, found = seeds_until_found("a_redirect_is_repeated", 10)
    assert any(re.search(r"was applied \d+ times", fault) for fault in found), found


class Checked(pytest.MonkeyPatch):
    """Refuses to put a function in the place of one that is called in another way."""

    def setattr(self, target: Any, name: Any, value: Any = None, raising: bool = True) -> None:
        before = getattr(target, name, None)
        if inspect.isfunction(before) and inspect.isfunction(value):
            of = inspect.signature(before).parameters.values()
            fixed = [p for p in of if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
            by_name = {p.name: p for p in fixed if p.kind is p.KEYWORD_ONLY}
            inspect.signature(value).bind(*(p for p in fixed if p.name not in by_name), **by_name)
        super().setattr(target, name, value, raising)


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_takes_the_place_of_what_there_is(name: str) -> None:
    patch = Checked()
    try:
        PLANTED[name][0](patch)
    finally:
        patch.undo()


def test_the_store_has_the_calls_that_traps_name() -> None:
    store = store_on(FaultyDatabase(Disk(), random.Random(1)), "sqlite://")
    ports = [getattr(store, each.name) for each in fields(store)]
    calls = {f"{type(port).__name__}.{name}" for port in ports for name in dir(port)}
    names = (CLAIMS, WRITE_CLAIMS, *COMMITS, GROUPS, SETTLE, *RELOAD_CALLS, ACQUIRE, PAGE_STORED)
    missing = [name for name in names if not any(re.search(name, call) for call in calls)]
    assert not missing


async def test_a_call_is_named_after_the_class_that_makes_it() -> None:
    database, names = FaultyDatabase(Disk(), random.Random(1)), list[str]()
    database.on_commit = lambda name, result: names.append(name)
    store = store_on(database, "sqlite://")
    await store.outbox.ready(LaneId(1), now=Millis(1), limit=1)
    await store.leases.acquire("store", "me", now=Millis(1), ttl=1)
    assert names == ["SqlOutbox.ready", "SqlLeases.acquire"]
