"""The breaker of a lane against a model of it: failures in a row, waits, the dead rate, probes."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from connector.domain.errors import Problem
from connector.domain.outcomes import (
    Accepted,
    Ambiguous,
    Dead,
    Held,
    Outcome,
    Pending,
    Retry,
    Skipped,
    Unsent,
)
from connector.pipeline.breaker import DEAD_RATE_WINDOW, OPEN_AFTER, LaneBreaker

BASE, CAP, PROBE_EVERY = 1.0, 300.0, 30.0
# The wait is a difference of two clock readings, so it may exceed its bound in the last digits.
ROUNDING = 1e-6
CAUSES = (Problem.KLAVIYO_REFUSED, Problem.MAPPING_FAILED)


def backoff(attempts: int, at_least: float) -> float:
    """Without jitter, so that waits can be computed."""
    return max(at_least, min(CAP, BASE * 2.0 ** min(attempts - 1, 30)))


def make_breaker() -> LaneBreaker:
    return LaneBreaker(backoff, probe_every=PROBE_EVERY)


def outcomes(seq: int) -> st.SearchStrategy[Outcome]:
    # Drawn from what is built already: nested strategies took most of the time of these tests.
    return st.sampled_from(
        [
            Accepted(seq, "r"),
            *(Dead(seq, cause) for cause in CAUSES),
            *(Retry(seq, Problem.KLAVIYO_UNAVAILABLE, after) for after in (0.0, 17.0)),
            *(Ambiguous(seq, Problem.TIMED_OUT, after) for after in (0.0, 17.0)),
            Retry(seq, Problem.ACTION_UNKNOWN_PERSON, grace=900_000),
            Held(seq, Problem.NO_IDENTITY),
            Skipped(seq, "disabled"),
            Unsent(seq),
        ]
    )


DELIVERIES = st.one_of([st.tuples(*map(outcomes, range(n))) for n in range(1, 5)])


class BreakerMachine(RuleBasedStateMachine):
    """Failures in a row open it, a success closes it, and nothing else does."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = make_breaker()
        self.now = 1_000.0
        self.failures = 0
        self.blocked_until = 0.0
        self.probe_at = 0.0

    @rule(seconds=st.floats(0, 1_000))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(delivery=DELIVERIES, held=st.booleans())
    def a_delivery_ends(self, delivery: tuple[Outcome, ...], held: bool) -> None:
        was_open = self.failures >= OPEN_AFTER
        change = self.breaker.record(delivery, self.now, held=held)
        own_fault = [o for o in delivery if isinstance(o, Retry) and o.grace is not None]
        failed = [o for o in delivery if isinstance(o, Retry | Ambiguous) and o not in own_fault]
        answered = bool(own_fault) or any(isinstance(o, Dead) for o in delivery)
        ended = any(isinstance(o, Accepted) for o in delivery) or (answered and not held)
        if failed:
            self.failures += 1 if len(delivery) == 1 else OPEN_AFTER
            if self.failures >= OPEN_AFTER:
                wait = backoff(self.failures - OPEN_AFTER + 1, failed[-1].after)
                self.blocked_until = max(self.blocked_until, self.now + wait)
            assert change == ("opened" if not was_open and self.breaker.is_open else None)
            if change == "opened":
                assert self.breaker.failing_with is failed[-1].problem
        elif ended:
            self.failures, self.blocked_until = 0, 0.0
            assert change == ("closed" if was_open else None)
            assert self.breaker.failing_with is None
        else:
            assert change is None

    @rule(seconds=st.floats(0, 10))
    def the_store_fails(self, seconds: float) -> None:
        self.breaker.delay(self.now, seconds)
        self.blocked_until = max(self.blocked_until, self.now + seconds)

    @rule()
    def a_probe_starts(self) -> None:
        self.breaker.schedule_probe(self.now)
        self.breaker.open()
        self.probe_at = self.now + PROBE_EVERY
        self.failures = max(self.failures, OPEN_AFTER)

    @rule()
    def something_outside_changes(self) -> None:
        self.breaker.probe_now()
        self.probe_at = self.blocked_until = 0.0

    @rule()
    def the_lane_runs_again(self) -> None:
        self.breaker.reset()
        self.failures, self.blocked_until = 0, 0.0

    @invariant()
    def it_is_open_after_failures_in_a_row(self) -> None:
        assert self.breaker.is_open == (self.failures >= OPEN_AFTER)
        assert not (self.breaker.failing_with and not self.breaker.is_open)

    @invariant()
    def waits_end_and_are_bounded(self) -> None:
        assert (
            self.breaker.wait(self.now) == max(0.0, self.blocked_until - self.now) <= CAP + ROUNDING
        )
        assert self.breaker.until_probe(self.now) == max(0.0, self.probe_at - self.now)
        assert self.breaker.until_probe(self.now) <= PROBE_EVERY + ROUNDING


TestBreaker = BreakerMachine.TestCase


@given(deliveries=st.lists(DELIVERIES, max_size=120))
def test_the_dead_rate_is_that_of_the_last_records(
    deliveries: list[tuple[Outcome, ...]],
) -> None:
    breaker = make_breaker()
    recent: list[Problem | None] = []
    for delivery in deliveries:
        recent += [
            o.problem if isinstance(o, Dead) else None
            for o in delivery
            if isinstance(o, Dead | Accepted)
        ]
        recent = recent[-DEAD_RATE_WINDOW:]
        found = breaker.dead_rate(delivery)
        causes = Counter(cause for cause in recent if cause)
        most = causes.most_common(1)[0] if causes else (None, 0)
        full = len(recent) == DEAD_RATE_WINDOW
        assert found == (most if full and most[1] > DEAD_RATE_WINDOW / 2 else None)
        if found:
            recent = []


@given(delivery=DELIVERIES, held=st.booleans(), attempts=st.integers(1, 1_000))
def test_a_retry_waits_and_every_other_outcome_stays_as_it_is(
    delivery: tuple[Outcome, ...], held: bool, attempts: int
) -> None:
    found = make_breaker().with_waits(delivery, lambda seq: attempts, held=held)
    assert [o.seq for o in found] == [o.seq for o in delivery]
    for before, after in zip(delivery, found, strict=True):
        if isinstance(before, Retry | Ambiguous):
            assert type(after) is type(before)
            assert after.after == backoff(attempts, before.after)
        elif isinstance(before, Dead) and held:
            assert after == Retry(before.seq, before.problem, PROBE_EVERY / 2)
        else:
            assert after == before


def test_a_success_ends_every_wait_but_not_that_of_a_probe() -> None:
    breaker = make_breaker()
    breaker.schedule_probe(0.0)
    breaker.record(
        [Retry(0, Problem.TIMED_OUT), Retry(1, Problem.TIMED_OUT, 60.0)], 0.0, held=False
    )
    assert breaker.wait(0.0) == 60.0
    breaker.record([Accepted(0, "r")], 1.0, held=False)
    assert (breaker.wait(1.0), breaker.until_probe(1.0)) == (0.0, PROBE_EVERY - 1.0)


# ── bulk requests that are not answered ──────────────────────────────────────────────────────────

LOST = [Pending(n, "?r", n, "r", Problem.SERVER_FAULT) for n in range(5)]
QUEUED = [Pending(n, "job", n, "r") for n in range(5)]


def test_bulk_requests_without_an_answer_get_smaller_and_rarer() -> None:
    breaker, now, sizes, waits = make_breaker(), 0.0, [], []
    for _ in range(6):
        sizes.append(breaker.bulk_size(10_000))
        breaker.record(LOST, now, held=False, bulk=True)
        waits.append(breaker.bulk_wait(now))
        now += breaker.retry_in(now)
    assert sizes == [10_000, 1_000, 100, 10, 1, 1]
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0]
    assert breaker.failing_with is Problem.SERVER_FAULT


def test_a_single_success_does_not_bring_full_bulk_requests_back() -> None:
    breaker = make_breaker()
    for _ in range(3):
        breaker.record(LOST, 0.0, held=False, bulk=True)
    assert breaker.record([Accepted(0, "r")], 0.0, held=False) is None
    assert not breaker.is_open
    assert (breaker.bulk_size(10_000), breaker.bulk_wait(0.0)) == (10, 4.0)
    assert breaker.failing_with is Problem.SERVER_FAULT


def test_each_bulk_request_that_is_answered_lets_the_next_one_be_larger() -> None:
    breaker = make_breaker()
    for _ in range(20):
        breaker.record(LOST, 0.0, held=False, bulk=True)
    sizes = []
    for _ in range(4):
        change = breaker.record(QUEUED, 1_000.0, held=False, bulk=True)
        sizes.append(breaker.bulk_size(10_000))
        assert breaker.bulk_wait(1_000.0) == 0.0
    assert sizes == [10, 100, 1_000, 10_000]
    assert change == "closed"
    assert breaker.failing_with is None


def test_what_a_person_does_ends_the_wait_for_bulk_requests() -> None:
    breaker = make_breaker()
    breaker.record(LOST, 0.0, held=False, bulk=True)
    breaker.probe_now()
    assert breaker.retry_in(0.0) == 0.0
    breaker.record(LOST, 0.0, held=False, bulk=True)
    breaker.reset()
    assert (breaker.retry_in(0.0), breaker.bulk_size(10_000)) == (0.0, 10_000)


def test_a_refusal_to_wait_is_no_lost_bulk_request() -> None:
    breaker = make_breaker()
    refused = [Retry(n, Problem.KLAVIYO_THROTTLED, 2.0) for n in range(5)]
    breaker.record(refused, 0.0, held=False, bulk=True)
    assert breaker.is_open
    assert breaker.bulk_size(10_000) == 10_000


def test_entries_of_one_request_that_were_tried_equally_often_wait_equally_long() -> None:
    """So that they are stored, and tried again, together."""
    jittered = iter(range(1, 100))
    breaker = LaneBreaker(lambda attempts, at_least: next(jittered), probe_every=PROBE_EVERY)
    failed = [Retry(seq, Problem.KLAVIYO_UNAVAILABLE) for seq in range(6)]
    waits = [
        outcome.after
        for outcome in breaker.with_waits(failed, lambda seq: 1 + seq % 2, held=False)
        if isinstance(outcome, Retry)
    ]
    assert waits == [1, 2, 1, 2, 1, 2]


def limited(after: float) -> Retry:
    return Retry(1, Problem.KLAVIYO_THROTTLED, after)


def test_a_person_shortens_what_is_longer_than_the_remote_side_has_asked_for() -> None:
    breaker = make_breaker()
    for _ in range(12):
        breaker.record([Retry(1, Problem.NOT_CONNECTED)], 0.0, held=False)
    breaker.record([limited(2.0)], 0.0, held=False)
    assert breaker.wait(0.0) == CAP
    breaker.probe_now()
    assert breaker.wait(0.0) == 2.0


def test_a_lane_that_runs_again_has_forgotten_a_limit_that_a_success_has_ended() -> None:
    breaker = make_breaker()
    lost = [Ambiguous(1, Problem.TIMED_OUT)] * 5
    breaker.record(lost, 0.0, held=False, bulk=True)
    breaker.record([limited(2.0)] * 5, 0.0, held=False, bulk=True)
    breaker.record([Accepted(1, "r")], 400.0, held=False)
    breaker.reset()
    assert (breaker.failing_with, breaker.is_open) == (None, False)
