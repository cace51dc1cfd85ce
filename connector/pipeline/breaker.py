"""When a lane may send, and how much at once, after what its deliveries came to."""

from __future__ import annotations

import functools
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal, TypeGuard

from connector.domain.errors import THROTTLED, Problem
from connector.domain.outcomes import (
    Ambiguous,
    Dead,
    Outcome,
    Pending,
    Retry,
    is_success,
    is_unanswered,
)

OPEN_AFTER = 3
"""Failed single deliveries in a row that open the breaker. A failed batch opens it at once."""
_SHRINK, _MAX_SHRINKS = 10, 4
"""How many times smaller a bulk request is after one that was not answered: four times, the largest
one of ten thousand has a single record."""
Failure = Retry | Ambiguous | Pending
"""An outcome that shows that the destination does not work."""
DEAD_RATE_WINDOW = 100
"""Records that the dead rate is taken of. The lane is held when more than half of them died of one
cause: a fault of the connector or of its configuration must not use up all records."""
_ABOUT_ONE_PERSON = frozenset({Problem.ACTION_NOT_FOR_PERSON})
"""Causes that say nothing about the next record: however many die of them, the others are sent. Who
is unknown is retried for a while instead."""


class LaneBreaker:
    """The circuit breaker of one lane: pure state, no I/O.

    Open, the lane sends one record at a time, and waits ever longer between failures. Bulk requests
    that are not answered are a state of their own, which single requests that succeed do not end:
    the lane waits ever longer for the next bulk request and makes it ever smaller, so that an
    outage takes few records out of the backlog. Times are monotonic seconds; `backoff` turns a
    number of failures and a least wait into seconds; `probe_every` seconds lie between two probes
    of a lane that is held or blocked.
    """

    def __init__(self, backoff: Callable[[int, float], float], *, probe_every: float) -> None:
        self._backoff = backoff
        self._probe_every = probe_every
        self._failures = 0
        self._resume_at = 0.0
        self._asked_until = 0.0
        """Until when the remote side, which limits requests, has asked for none: no person shortens
        that."""
        self._probe_at = 0.0
        self._unanswered = 0
        self._bulk_at = 0.0
        self._recent: deque[Problem | None] = deque(maxlen=DEAD_RATE_WINDOW)
        self.failure: Failure | None = None
        """The last one while the breaker is open or bulk requests are smaller."""

    @property
    def failing_with(self) -> Problem | None:
        return self.failure.problem if self.failure else None

    @property
    def is_open(self) -> bool:
        return self._failures >= OPEN_AFTER

    def wait(self, now: float) -> float:
        """Seconds until something may be sent."""
        return max(0.0, max(self._resume_at, self._asked_until) - now)

    @property
    def tests_bulk(self) -> bool:
        """Whether bulk requests were not answered: then these are what must be tried again."""
        return self._unanswered > 0

    def bulk_wait(self, now: float) -> float:
        """Seconds until a bulk request may be sent."""
        return max(0.0, self._bulk_at - now)

    def retry_in(self, now: float) -> float:
        """Seconds until what failed is tried again."""
        return max(self.wait(now), self.bulk_wait(now))

    def bulk_size(self, largest: int) -> int:
        """Records in the next bulk request."""
        return max(1, largest // int(_SHRINK ** min(self._unanswered, _MAX_SHRINKS)))

    def delay(self, now: float, seconds: float) -> None:
        """Send nothing for at least so long."""
        self._resume_at = max(self._resume_at, now + seconds)

    def reset(self) -> None:
        """The lane runs again: failures are forgotten, unless the remote side limits requests."""
        if not (self.is_open and self.failing_with in THROTTLED):
            self._failures, self.failure = 0, None
        self._resume_at, self._unanswered, self._bulk_at = 0.0, 0, 0.0

    # ── what deliveries came to ──────────────────────────────────────────────────────────────────

    def with_waits(
        self, outcomes: Sequence[Outcome], attempts: Callable[[int], int], *, held: bool
    ) -> list[Outcome]:
        """The outcomes with the seconds that each retry waits. `attempts` of an entry, by its seq.
        Entries of one delivery that were tried equally often are stored, and tried again, together.
        While the lane is held a dead record is retried: the cause may be the lane's."""
        backoff = functools.cache(self._backoff)
        return [self._with_wait(outcome, attempts, backoff, held) for outcome in outcomes]

    def _with_wait(
        self,
        outcome: Outcome,
        attempts: Callable[[int], int],
        backoff: Callable[[int, float], float],
        held: bool,
    ) -> Outcome:
        if isinstance(outcome, Retry | Ambiguous):
            return replace(outcome, after=backoff(attempts(outcome.seq), outcome.after))
        if isinstance(outcome, Dead) and held and outcome.problem not in _ABOUT_ONE_PERSON:
            # Due after the others, so that the next probe takes another: this one may be bad.
            return Retry(outcome.seq, outcome.problem, self._probe_every / 2, outcome.detail)
        return outcome

    def record(
        self, outcomes: Sequence[Outcome], now: float, *, held: bool, bulk: bool = False
    ) -> Literal["opened", "closed"] | None:
        """Note what a delivery came to, as the sink reported it. Returns what changed."""
        was_failing = self.is_open or self.tests_bulk
        failures = [o for o in outcomes if _is_failure(o)]
        if failures:
            self._fail(failures[-1], len(outcomes), now)
            if bulk and any(map(is_unanswered, failures)):
                self._fail_bulk(failures[-1], now)
            return "opened" if self.failure and not was_failing else None
        answered = any(isinstance(o, Dead) or _has_grace(o) for o in outcomes) and not held
        if answered or any(map(is_success, outcomes)):
            self._succeed(bulk)
            return "closed" if was_failing and not self.failure else None
        return None

    def _succeed(self, bulk: bool) -> None:
        self._failures, self._resume_at, self._asked_until = 0, 0.0, 0.0
        if bulk and self._unanswered:
            self._unanswered = min(self._unanswered, _MAX_SHRINKS) - 1
            self._bulk_at = 0.0
        if not self._unanswered:
            self.failure = None

    def _fail(self, outcome: Failure, count: int, now: float) -> None:
        self._failures += 1 if count == 1 else OPEN_AFTER
        if not self.is_open:
            return
        after = 0.0 if isinstance(outcome, Pending) else outcome.after
        self.delay(now, self._backoff(self._failures - OPEN_AFTER + 1, after))
        if outcome.problem in THROTTLED:
            self._asked_until = max(self._asked_until, now + after)
        self.failure = outcome

    def _fail_bulk(self, outcome: Failure, now: float) -> None:
        """It may be the size that is too much, and what a lost request held waits for a minute."""
        self._unanswered += 1
        after = 0.0 if isinstance(outcome, Pending) else outcome.after
        self._bulk_at = now + self._backoff(self._unanswered, after)
        self.failure = outcome

    def dead_rate(self, outcomes: Sequence[Outcome]) -> tuple[Problem, int] | None:
        """The cause that more than half of the last records died of, and how many did. The count
        starts again after it was returned."""
        for outcome in outcomes:
            if isinstance(outcome, Dead) and outcome.problem not in _ABOUT_ONE_PERSON:
                self._recent.append(outcome.problem)
            elif is_success(outcome):
                self._recent.append(None)
        if len(self._recent) < DEAD_RATE_WINDOW:
            return None
        [(cause, count)] = Counter(self._recent).most_common(1)
        if cause is None or count <= DEAD_RATE_WINDOW / 2:
            return None
        self._recent.clear()
        return cause, count

    # ── probes of a lane that is held or blocked ─────────────────────────────────────────────────

    def until_probe(self, now: float) -> float:
        """Seconds until the next probe."""
        return max(0.0, max(self._probe_at, self._asked_until) - now)

    def schedule_probe(self, now: float) -> None:
        self._probe_at = now + self._probe_every

    def open(self) -> None:
        """Send one record at a time: a probe is one record."""
        self._failures = max(self._failures, OPEN_AFTER)

    def probe_now(self) -> None:
        """Something outside changed: neither a wait nor the dead rate so far counts."""
        self._probe_at = self._resume_at = self._bulk_at = 0.0
        self._recent.clear()


def _is_failure(outcome: Outcome) -> TypeGuard[Failure]:
    return (isinstance(outcome, Retry) and not _has_grace(outcome)) or is_unanswered(outcome)


def _has_grace(outcome: Outcome) -> bool:
    """Whether it is retried because of the record itself: the destination works."""
    return isinstance(outcome, Retry) and outcome.grace is not None
