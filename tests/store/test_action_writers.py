"""Several processes on one store: each takes calls, and an action is still one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from connector.domain.actions import ActionReceipt, Caps, Conflict
from connector.domain.lanes import Millis
from connector.store.database import open_database
from connector.store.sql import SqlStore, open_store
from connector.testing.contracts.actions import ActionHarness, make_harness, make_request
from connector.testing.fakes.clock import START
from tests.stores import delete_all

_NOW = Millis(START)


@pytest.fixture(params=["sqlite", "postgresql"])
async def two(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[tuple[SqlStore, SqlStore]]:
    """Two stores at one address, as two processes have them."""
    on_file = request.param == "sqlite"
    url = f"sqlite:///{tmp_path}/s.db" if on_file else request.getfixturevalue("postgres_url")
    first, second = await open_store(url), await open_store(url)
    yield first, second
    await first.aclose()
    await second.aclose()
    database = open_database(url)
    await database.write(delete_all)
    await database.aclose()


async def harnesses(two: tuple[SqlStore, SqlStore]) -> list[ActionHarness]:
    harness = await make_harness(two[0])
    return [harness, ActionHarness(two[1], harness.lane, harness.fence)]


async def test_three_concurrent_requests_on_two_processes_have_one_effect(
    two: tuple[SqlStore, SqlStore],
) -> None:
    pair = await harnesses(two)
    for key in range(10):
        calls = [harness.add(make_request(key=str(key))) for harness in (*pair, pair[0])]
        answers = await asyncio.gather(*calls)
        assert sorted(a.accepted for a in answers if isinstance(a, ActionReceipt)) == [0, 0, 1]
    assert len(await pair[0].all_actions()) == 10


async def test_a_cap_holds_for_two_processes_together(two: tuple[SqlStore, SqlStore]) -> None:
    pair, caps = await harnesses(two), Caps(per_person=3, total=0)
    calls = [pair[n % 2].add(make_request(key=str(n)), caps=caps) for n in range(10)]
    answers = await asyncio.gather(*calls)
    held = [a.held for a in answers if isinstance(a, ActionReceipt)]
    assert (len(held), sum(held)) == (10, 7)


async def test_two_contents_for_one_key_give_one_conflict(
    two: tuple[SqlStore, SqlStore],
) -> None:
    pair = await harnesses(two)
    answers = await asyncio.gather(*(d.add(make_request(amount=n + 1)) for n, d in enumerate(pair)))
    assert {type(answer) for answer in answers} == {ActionReceipt, Conflict}


# ── plans ────────────────────────────────────────────────────────────────────────────────────────
