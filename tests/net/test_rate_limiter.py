"""No window of the remote API's length, wherever it begins, holds more than our share."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connector.domain.lanes import QuotaUsage
from connector.net.rate_limit import Limit, RateLimiter
from connector.testing.fakes.clock import FakeClock

E = "POST /api/events"
OTHER = "GET /api/accounts"


def make_limiter(
    limit: Limit, share: float = 1.0, clock: FakeClock | None = None, **more: Any
) -> RateLimiter:
    return RateLimiter(
        "acct", {E: limit, OTHER: Limit(1, 15)}, clock=clock or FakeClock(), share=share, **more
    )


def busiest(stamps: Sequence[float], seconds: float) -> int:
    """The most stamps in any window of this length, by brute force; both ends count."""
    ordered = sorted(stamps)
    return max(
        (bisect_left(ordered, at + seconds + 1e-9) - i for i, at in enumerate(ordered)), default=0
    )


def ours(allowed: int, share: float) -> tuple[int, float]:
    """How many requests of ours a window may hold, and the shortest window that says so."""
    part = allowed * share
    return (1, 1 / part) if part < 1 else (math.floor(part), 1.0)


def assert_kept(stamps: Sequence[float], limit: Limit, share: float) -> None:
    burst, second = ours(limit.burst, share)
    steady, minute = ours(limit.steady, share)
    assert busiest(stamps, second) <= burst
    assert busiest(stamps, 60 * minute) <= steady
    if limit.daily:
        daily, day = ours(limit.daily, share)
        assert busiest(stamps, 86_400 * day) <= daily


SMALL = st.builds(Limit, st.integers(1, 12), st.integers(1, 60))
SHARES = st.floats(0.01, 1.0)
MOVES = st.one_of(
    st.floats(0, 0.3), st.floats(0.9, 1.1), st.floats(0, 30), st.sampled_from([1.0, 60.0, 1.02])
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("reserve"), st.integers(1, 80), st.booleans()),
        st.tuples(st.just("give back"), st.integers(1, 80), st.integers(0, 80)),
        st.tuples(st.just("move"), MOVES, st.none()),
        st.tuples(st.just("wait"), st.none(), st.none()),
    ),
    max_size=60,
)


@settings(deadline=None, max_examples=300)
@given(limit=SMALL, share=SHARES, reserve=st.sampled_from([0.0, 0.2, 0.5]), steps=STEPS)
def test_no_window_ever_holds_more_than_our_share(
    limit: Limit, share: float, reserve: float, steps: list[tuple[str, Any, Any]]
) -> None:
    clock = FakeClock()
    limiter = make_limiter(limit, share, clock, live_reserve=reserve)
    used: list[float] = []
    wait = 0.0
    for what, first, second in steps:
        if what == "reserve":
            grant = limiter.reserve(E, first, backfill=second)
            used += [clock.monotonic()] * grant.count
            wait = grant.wait
            assert 0 <= grant.count <= first
            assert (grant.count == 0) == (grant.wait > 0)
            assert sum(spend.count for spend in grant.usage) == grant.count
        elif what == "give back":
            grant = limiter.reserve(E, first)
            unused = min(second, grant.count)
            limiter.release(E, grant, unused)
            used += [clock.monotonic()] * (grant.count - unused)
        elif what == "move":
            clock.move(first)
        else:
            clock.move(wait)
    assert_kept(used, limit, share)


@settings(deadline=None, max_examples=60)
@given(limit=SMALL, share=SHARES, want=st.integers(1, 20))
def test_our_share_can_be_fully_used(limit: Limit, share: float, want: int) -> None:
    clock = FakeClock()
    limiter = make_limiter(limit, share, clock)
    burst, second = ours(limit.burst, share)
    steady, minute = ours(limit.steady, share)
    rate = min(burst / second, steady / (60 * minute))
    # Long enough for the first windows' worth not to matter, short enough to be quick.
    until = clock.monotonic() + max(200 / rate, 180 * minute)
    began = clock.monotonic()
    granted = asked = 0
    while clock.monotonic() < until:
        grant = limiter.reserve(E, want)
        granted += grant.count
        clock.move(grant.wait)
        asked += 1
        assert asked < 50_000
    assert granted >= 0.95 * rate * (until - began)


@settings(deadline=None, max_examples=100)
@given(limit=SMALL, share=SHARES)
def test_waiting_for_the_returned_delay_is_enough(limit: Limit, share: float) -> None:
    clock = FakeClock()
    limiter = make_limiter(limit, share, clock)
    for _ in range(20):
        while limiter.reserve(E, 5).count:
            pass
        clock.move(limiter.reserve(E, 1).wait + 1e-3)
        assert limiter.reserve(E, 1).count == 1


def drain(limiter: RateLimiter, endpoint: str = E, **how: Any) -> int:
    return sum(iter(lambda: limiter.reserve(endpoint, 7, **how).count, 0))


@pytest.mark.parametrize(
    ("limit", "share", "at_once"),
    [
        (Limit(350, 3500), 1.0, 350),
        (Limit(350, 3500), 0.5, 175),
        (Limit(10, 150), 0.99, 9),
        (Limit(10, 4), 1.0, 4),
        (Limit(1, 15), 0.5, 1),
    ],
)
def test_the_share_is_granted_at_once_and_not_one_more(
    limit: Limit, share: float, at_once: int
) -> None:
    assert drain(make_limiter(limit, share)) == at_once


def test_a_share_below_one_request_stretches_the_window() -> None:
    clock = FakeClock()
    limiter = make_limiter(Limit(1, 15), 0.02, clock)
    assert limiter.reserve(E, 5).count == 1
    wait = limiter.reserve(E, 1).wait
    # 0.3 requests a minute are one in 200 s; a fiftieth of a second's one is one in 50 s.
    assert wait == pytest.approx(200 * 1.02)
    clock.move(199)
    assert limiter.reserve(E, 1).count == 0
    clock.move(6)
    assert limiter.reserve(E, 5).count == 1


@settings(deadline=None, max_examples=200)
@given(
    limit=st.builds(Limit, st.integers(5, 20), st.integers(20, 60)),
    reserve=st.floats(0.1, 0.8),
    steps=STEPS,
)
def test_a_backfill_never_uses_the_live_reserve(
    limit: Limit, reserve: float, steps: list[tuple[str, Any, Any]]
) -> None:
    clock = FakeClock()
    limiter = make_limiter(limit, 1.0, clock, live_reserve=reserve)
    backfilled: list[float] = []
    for what, first, _ in steps:
        if what in ("reserve", "give back"):
            grant = limiter.reserve(E, first, backfill=True)
            backfilled += [clock.monotonic()] * grant.count
        else:
            clock.move(first or 0.5)
    assert busiest(backfilled, 1) <= max(1, math.floor(limit.burst * (1 - reserve)))
    assert busiest(backfilled, 60) <= max(1, math.floor(limit.steady * (1 - reserve)))


def test_live_traffic_has_its_reserve_after_a_backfill_used_its_maximum() -> None:
    limiter = make_limiter(Limit(10, 150), live_reserve=0.2)
    assert drain(limiter, backfill=True) == 8
    assert limiter.reserve(E, 1, backfill=True).wait > 0
    assert drain(limiter) == 2
    assert limiter.reserve(E, 1, backfill=True).count == 0


def test_a_quota_of_one_still_lets_a_backfill_progress() -> None:
    assert make_limiter(Limit(1, 15), live_reserve=0.5).reserve(E, 1, backfill=True).count == 1


def test_endpoints_do_not_share_a_quota() -> None:
    limiter = make_limiter(Limit(3, 30))
    assert (drain(limiter, E), drain(limiter, OTHER)) == (3, 1)


def test_a_daily_limit_is_kept() -> None:
    clock = FakeClock()
    limit = Limit(10, 150, daily=20)
    limiter = make_limiter(limit, 0.5, clock)
    used: list[float] = []
    for _ in range(3 * 24 * 4):
        count = drain(limiter)
        used += [clock.monotonic()] * count
        clock.move(900)
    assert_kept(used, limit, 0.5)
    assert len(used) >= 29


# ── restart ──────────────────────────────────────────────────────────────────────────────────────


@settings(deadline=None, max_examples=300)
@given(
    limit=SMALL,
    share=SHARES,
    before=st.lists(st.tuples(st.integers(1, 80), MOVES), max_size=15),
    down=MOVES,
    after=st.lists(st.tuples(st.integers(1, 80), MOVES), max_size=15),
)
def test_a_window_that_spans_a_restart_holds_no_more_than_our_share(
    limit: Limit,
    share: float,
    before: list[tuple[int, float]],
    down: float,
    after: list[tuple[int, float]],
) -> None:
    clock = FakeClock()
    used: list[float] = []
    saved: list[QuotaUsage] = []
    for steps in (before, after):
        limiter = make_limiter(limit, share, clock)
        limiter.load(saved)
        for want, move in steps:
            grant = limiter.reserve(E, want)
            used += [clock.monotonic()] * grant.count
            saved += grant.usage
            clock.move(move)
        clock.move(down)
    assert_kept(used, limit, share)


def test_usage_of_other_accounts_is_ignored() -> None:
    clock = FakeClock()
    limiter = make_limiter(Limit(3, 30), clock=clock)
    second = clock.now() // 1000
    limiter.load([QuotaUsage("another", E, second, 3), QuotaUsage("acct", "GET /gone", second, 3)])
    assert drain(limiter) == 3


def test_usage_of_the_last_minute_counts_and_older_usage_does_not() -> None:
    clock = FakeClock()
    second = clock.now() // 1000
    limiter = make_limiter(Limit(10, 10), clock=clock)
    limiter.load([QuotaUsage("acct", E, second - 63, 9), QuotaUsage("acct", E, second - 55, 4)])
    assert drain(limiter) == 6


def test_usage_in_the_future_counts_as_now() -> None:
    """The wall clock was put back while we were down."""
    clock = FakeClock()
    limiter = make_limiter(Limit(10, 10), clock=clock)
    limiter.load([QuotaUsage("acct", E, clock.now() // 1000 + 9_999, 10)])
    assert drain(limiter) == 0
    clock.move(62)
    assert drain(limiter) == 10


# ── what the remote API answers ──────────────────


def test_nothing_is_granted_before_retry_after_has_passed() -> None:
    clock = FakeClock()
    limiter = make_limiter(Limit(3, 30), clock=clock)
    limiter.slow_down(E, 30)
    limiter.slow_down(E, 5)
    assert limiter.reserve(E, 1).wait == pytest.approx(30)
    assert limiter.reserve(OTHER, 1).count == 1
    clock.move(29.9)
    assert limiter.reserve(E, 1).count == 0
    clock.move(0.2)
    assert limiter.reserve(E, 1).count == 1


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({"ratelimit-remaining": "0", "ratelimit-reset": "2"}, 2.0),
        ({"ratelimit-remaining": "0", "ratelimit-reset": "0"}, 1.0),
        ({"ratelimit-remaining": "0"}, 1.0),
        ({"ratelimit-remaining": "0", "ratelimit-reset": "soon"}, 1.0),
        ({"ratelimit-remaining": "0", "ratelimit-reset": "86400"}, 60.0),
        ({"ratelimit-remaining": "1", "ratelimit-reset": "9"}, 0.0),
        ({}, 0.0),
    ],
)
def test_a_remaining_header_of_zero_stops_grants(headers: dict[str, str], wait: float) -> None:
    limiter = make_limiter(Limit(10, 150))
    limiter.observe(E, headers)
    grant = limiter.reserve(E, 1)
    assert (grant.count, grant.wait) == (int(wait == 0), pytest.approx(wait))


def test_a_window_that_we_used_up_ourselves_needs_no_further_wait() -> None:
    clock = FakeClock()
    limiter = make_limiter(Limit(3, 150), clock=clock)
    assert limiter.reserve(E, 3).count == 3
    clock.move(0.9)
    limiter.observe(E, {"ratelimit-remaining": "0", "ratelimit-reset": "0"})
    clock.move(0.2)
    assert limiter.reserve(E, 1).count == 1


def test_released_permits_can_be_granted_again() -> None:
    limiter = make_limiter(Limit(10, 10))
    first = limiter.reserve(E, 10)
    assert first.count == 10
    limiter.release(E, first, 4)
    assert drain(limiter) == 4


def test_a_release_returns_only_its_own_permits() -> None:
    clock = FakeClock()
    limiter = make_limiter(Limit(2, 150), clock=clock)
    early = limiter.reserve(E, 1)
    clock.move(0.9)
    assert limiter.reserve(E, 1).count == 1
    clock.move(0.05)
    limiter.release(E, early, 1)
    # The late one still counts: only one more fits into the second that it is in.
    clock.move(0.1)
    assert drain(limiter) == 1


def test_the_remaining_quota_is_reported_for_every_window() -> None:
    limiter = make_limiter(Limit(10, 150, daily=1000), 0.5)
    limiter.reserve(E, 2)
    assert list(limiter.remaining()) == [
        (E, "second", 3),
        (E, "minute", 73),
        (E, "day", 498),
        (OTHER, "second", 1),
        (OTHER, "minute", 7),
    ]


def test_time_waited_for_quota_is_reported() -> None:
    waits: list[tuple[str, float]] = []
    limiter = make_limiter(Limit(1, 15), on_wait=lambda *wait: waits.append(wait))
    limiter.reserve(E, 1)
    grant = limiter.reserve(E, 1)
    assert waits == [(E, grant.wait)]


@given(st.lists(st.one_of(st.floats(0, 70), st.just("slow down")), max_size=30))
def test_used_up_is_what_would_have_to_wait(steps: list[float | str]) -> None:
    clock = FakeClock()
    limiter = make_limiter(Limit(2, 5), clock=clock)
    for step in steps:
        if isinstance(step, str):
            limiter.slow_down(E, 3.0)
        else:
            clock.move(step)
        used_up = limiter.is_used_up(E)
        assert used_up is (limiter.reserve(E, 1).count == 0)
