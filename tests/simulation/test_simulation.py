"""The guarantees of ARCHITECTURE.md under random lives of the daemon, on virtual time.

The real daemon, all its workers and one or two processes of it on one store, against the sandboxes;
what fails, who is killed and in which order tasks run comes from a seed. A failure prints the seed
and what happened; the same seed does the same again, on any machine.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from .scenario import simulate

QUICK = range(70)
MANY = range(1_000, 11_000)
_CHUNK = 100


def check(seed: int) -> None:
    found, world = simulate(seed)
    if found:
        head = f"seed {seed} (again, with every request: python -m tests.simulation.again {seed})"
        pytest.fail("\n".join([head, world.explain(), "", *found]), pytrace=False)


@pytest.mark.parametrize("seed", QUICK)
def test_every_guarantee_holds(seed: int) -> None:
    check(seed)


@pytest.mark.campaign
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("start", range(MANY.start, MANY.stop, _CHUNK))
def test_every_guarantee_holds_for_many_seeds(start: int) -> None:
    for seed in range(start, start + _CHUNK):
        check(seed)


def test_a_seed_does_the_same_again() -> None:
    first, second = simulate(3, traces=True)[1], simulate(3, traces=True)[1]
    assert first.lines == second.lines
    assert len(first.lines) > 100


def test_a_seed_does_the_same_with_other_hashes() -> None:
    """The order of a set decides nothing: in these lives processes end with several requests under
    way."""

    def lives(hashes: str) -> bytes:
        command = [sys.executable, "-m", "tests.simulation.again", "--digests", "40", "88"]
        environment = os.environ | {"PYTHONHASHSEED": hashes}
        return subprocess.run(command, env=environment, check=True, capture_output=True).stdout

    first = lives("1")
    assert first == lives("2")
    assert len(first.splitlines()) == 2
