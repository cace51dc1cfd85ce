"""How long to wait before trying again, and when not to."""

from __future__ import annotations

import asyncio

import pytest
import tenacity
from hypothesis import given
from hypothesis import strategies as st

from connector.domain.errors import (
    AmbiguousError,
    Blocked,
    DeliveryError,
    Problem,
    Rejected,
    RetryLater,
)
from connector.net.retry import Backoff, retry_read
from connector.testing.fakes.clock import FakeClock


@given(
    base=st.floats(0.01, 10),
    maximum=st.floats(0.01, 3600),
    attempts=st.integers(1, 30),
    at_least=st.floats(0, 100),
)
def test_backoff_is_between_half_and_all_of_the_doubled_delay(
    base: float, maximum: float, attempts: int, at_least: float
) -> None:
    wait = Backoff(base, maximum)(attempts, at_least)
    whole = min(maximum, base * 2 ** (attempts - 1))
    assert max(at_least, whole / 2) <= wait <= max(at_least, whole) * (1 + 1e-9)


@given(attempts=st.integers(31, 10**9))
def test_the_thousandth_attempt_waits_the_maximum_delay(attempts: int) -> None:
    assert 150 <= Backoff(1.0, 300.0)(attempts) <= 300


def test_a_backoff_does_not_depend_on_tenacitys_internal_state(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def private(*_: object) -> None:
        raise TypeError("only tenacity creates the state of a retried call")

    monkeypatch.setattr(tenacity.RetryCallState, "__init__", private)
    assert 2 <= Backoff(1.0, 300.0)(3) <= 4


@pytest.mark.parametrize("attempts", [0, -1])
def test_no_attempt_yet_waits_as_long_as_the_first(attempts: int) -> None:
    assert 0.5 <= Backoff(1.0, 300.0)(attempts) <= 1.0


def test_two_lanes_do_not_retry_at_the_same_time() -> None:
    backoff = Backoff(1.0, 300.0)
    assert len({backoff(8) for _ in range(20)}) > 1


class Flaky:
    """Fails as scripted, then answers."""

    def __init__(self, clock: FakeClock, *failures: DeliveryError) -> None:
        self._clock = clock
        self._failures = list(failures)
        self.calls: list[float] = []

    async def __call__(self) -> str:
        self.calls.append(self._clock.monotonic())
        if self._failures:
            raise self._failures.pop(0)
        return "read"

    @property
    def pauses(self) -> list[float]:
        return [b - a for a, b in zip(self.calls, self.calls[1:], strict=False)]


async def run(clock: FakeClock, flaky: Flaky, attempts: int = 3) -> str:
    # As callers do: a function that returns an awaitable, and no coroutine function.
    task = asyncio.create_task(retry_read(lambda: flaky(), clock=clock, attempts=attempts))
    await clock.advance(10_000)
    return await task


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


async def test_a_read_that_works_is_made_once(clock: FakeClock) -> None:
    flaky = Flaky(clock)
    assert await run(clock, flaky) == "read"
    assert len(flaky.calls) == 1


async def test_a_read_is_repeated_with_growing_pauses(clock: FakeClock) -> None:
    flaky = Flaky(clock, AmbiguousError(Problem.TIMED_OUT), RetryLater(Problem.NOT_CONNECTED))
    assert await run(clock, flaky) == "read"
    first, second = flaky.pauses
    assert 0.25 <= first <= 0.5
    assert 0.5 <= second <= 1.0


async def test_retry_after_of_the_server_is_honoured(clock: FakeClock) -> None:
    flaky = Flaky(clock, RetryLater(Problem.KLAVIYO_THROTTLED, after=42.0))
    assert await run(clock, flaky) == "read"
    assert flaky.pauses == [pytest.approx(42.0)]


@pytest.mark.parametrize("attempts", [1, 2, 5])
async def test_it_gives_up_with_the_last_error(clock: FakeClock, attempts: int) -> None:
    failures = [AmbiguousError(Problem.TIMED_OUT, str(n)) for n in range(10)]
    flaky = Flaky(clock, *failures)
    with pytest.raises(AmbiguousError) as caught:
        await run(clock, flaky, attempts)
    assert len(flaky.calls) == attempts
    assert caught.value is failures[attempts - 1]


@pytest.mark.parametrize(
    "failure",
    [Rejected(Problem.KLAVIYO_REFUSED), Blocked(Problem.KLAVIYO_KEY, scope="account")],
)
async def test_an_error_that_a_retry_cannot_fix_is_not_retried(
    clock: FakeClock, failure: DeliveryError
) -> None:
    flaky = Flaky(clock, failure)
    with pytest.raises(type(failure)):
        await run(clock, flaky)
    assert len(flaky.calls) == 1


async def test_a_programming_error_is_not_retried(clock: FakeClock) -> None:
    calls = 0

    async def broken() -> None:
        nonlocal calls
        calls += 1
        raise KeyError("ours")

    task = asyncio.create_task(retry_read(broken, clock=clock))
    await clock.advance(100)
    with pytest.raises(KeyError):
        await task
    assert calls == 1
