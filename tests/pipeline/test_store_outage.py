"""Waiting for a store that is unavailable."""

from __future__ import annotations

import pytest

from connector.domain.errors import Problem, StoreError
from connector.pipeline.store_outage import until_available
from connector.testing.fakes.clock import FakeClock


class Sleeper(FakeClock):
    """A clock on which each sleep lasts `factor` times as long, as in a process that is frozen."""

    def __init__(self, factor: int = 1) -> None:
        super().__init__()
        self._factor = factor

    async def sleep(self, seconds: float) -> None:
        self.move(seconds * self._factor)


class Unavailable:
    """Work that fails as often as this before it succeeds."""

    def __init__(self, failures: int, problem: Problem = Problem.STORE_UNAVAILABLE) -> None:
        self.calls = 0
        self._failures, self._problem = failures, problem

    async def __call__(self) -> int:
        self.calls += 1
        if self.calls <= self._failures:
            raise StoreError(self._problem)
        return self.calls


async def test_it_is_waited_for(silenced_logs: None) -> None:
    assert await until_available(Unavailable(3), Sleeper(), timeout=30.0) == 4


async def test_not_longer_than_the_timeout(silenced_logs: None) -> None:
    work = Unavailable(100)
    with pytest.raises(StoreError):
        await until_available(work, Sleeper(), timeout=30.0)
    assert work.calls == 31


async def test_without_a_timeout_it_is_not_waited_for(silenced_logs: None) -> None:
    work = Unavailable(1)
    with pytest.raises(StoreError):
        await until_available(work, Sleeper(), timeout=0.0)
    assert work.calls == 1


async def test_the_time_in_which_the_process_was_frozen_does_not_count(silenced_logs: None) -> None:
    assert await until_available(Unavailable(3), Sleeper(factor=60), timeout=30.0) == 4


async def test_other_problems_are_raised_at_once() -> None:
    work = Unavailable(1, Problem.STORE_SCHEMA)
    with pytest.raises(StoreError):
        await until_available(work, Sleeper())
    assert work.calls == 1
