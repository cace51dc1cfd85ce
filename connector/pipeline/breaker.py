"""When a lane may send, and how much at once, after what its deliveries came to."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

from connector.domain.errors import Problem
from connector.domain.outcomes import SUCCESS, Ambiguous, Dead, Outcome, Retry

OPEN_AFTER = 3
"""Failed single deliveries in a row that open the breaker. A failed batch opens it at once."""
DEAD_RATE_WINDOW = 100
"""Records that the dead rate is taken of. The lane is held when more than half of them died of one
cause: a fault of the connector or of its configuration must not use up all records."""
_ABOUT_ONE_PERSON = frozenset({Problem.ACTION_UNKNOWN_PERSON, Problem.ACTION_NOT_FOR_PERSON})
"""Causes that say nothing about the next record: however many die of them, the others are sent."""


class LaneBreaker:
    """The circuit breaker of one lane: pure state, no I/O.

    Open, the lane sends one record at a time, and waits ever longer between failures. Times are
    monotonic seconds; `backoff` turns a number of failures and a least wait into seconds;
    `probe_every` seconds lie between two probes of a lane that is held or blocked.
    """

    def __init__(self, backoff: Callable[[int, float], float], *, probe_every: float) -> None:
        self._backoff = backoff
        self._probe_every = probe_every
        self._failures = 0
        self._resume_at = 0.0
        self._probe_at = 0.0
        self._recent: deque[Problem | None] = deque(maxlen=DEAD_RATE_WINDOW)
        self.failure: Retry | Ambiguous | None = None
        """The one that opened the breaker."""

    @property
    def failing_with(self) -> Problem | None:
        return self.failure.problem if self.failure else None

    @property
    def is_open(self) -> bool:
        return self._failures >= OPEN_AFTER

    def wait(self, now: float) -> float:
        """Seconds until something may be sent."""
        return max(0.0, self._resume_at - now)

    def delay(self, now: float, seconds: float) -> None:
        """Send nothing for at least so long."""
        self._resume_at = max(self._resume_at, now + seconds)

    def reset(self) -> None:
        """The lane runs again: its failures are forgotten."""
        self._failures, self._resume_at, self.failure = 0, 0.0, None

    # ── what deliveries came to ──────────────────────────────────────────────────────────────────

    def with_waits(
        self, outcomes: Sequence[Outcome], attempts: Callable[[int], int], *, held: bool
    ) -> list[Outcome]:
        """The outcomes with the seconds that each retry waits. `attempts` of an entry, by its seq.
        While the lane is held a dead record is retried: the cause may be the lane's."""
        return [self._with_wait(outcome, attempts, held) for outcome in outcomes]

    def _with_wait(self, outcome: Outcome, attempts: Callable[[int], int], held: bool) -> Outcome:
        if isinstance(outcome, Retry | Ambiguous):
            return replace(outcome, after=self._backoff(attempts(outcome.seq), outcome.after))
        if isinstance(outcome, Dead) and held and outcome.problem not in _ABOUT_ONE_PERSON:
            # Due after the others, so that the next probe takes another: this one may be bad.
            return Retry(outcome.seq, outcome.problem, self._probe_every / 2, outcome.detail)
        return outcome

    def record(
        self, outcomes: Sequence[Outcome], now: float, *, held: bool
    ) -> Literal["opened", "closed"] | None:
        """Note what a delivery came to, as the sink reported it. Returns what changed."""
        was_open = self.is_open
        failures = [o for o in outcomes if isinstance(o, Retry | Ambiguous) and not _has_grace(o)]
        if failures:
            self._fail(failures[-1], len(outcomes), now)
            return "opened" if self.is_open and not was_open else None
        answered = [o for o in outcomes if isinstance(o, Dead) or _has_grace(o)]
        if any(isinstance(o, SUCCESS) for o in outcomes) or (answered and not held):
            self.reset()
            return "closed" if was_open else None
        return None

    def _fail(self, outcome: Retry | Ambiguous, count: int, now: float) -> None:
        was_open = self.is_open
        self._failures += 1 if count == 1 else OPEN_AFTER
        if not self.is_open:
            return
        self.delay(now, self._backoff(self._failures - OPEN_AFTER + 1, outcome.after))
        if not was_open:
            self.failure = outcome

    def dead_rate(self, outcomes: Sequence[Outcome]) -> tuple[Problem, int] | None:
        """The cause that more than half of the last records died of, and how many did. The count
        starts again after it was returned."""
        for outcome in outcomes:
            if isinstance(outcome, Dead) and outcome.problem not in _ABOUT_ONE_PERSON:
                self._recent.append(outcome.problem)
            elif isinstance(outcome, SUCCESS):
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
        return max(0.0, self._probe_at - now)

    def schedule_probe(self, now: float) -> None:
        self._probe_at = now + self._probe_every

    def open(self) -> None:
        """Send one record at a time: a probe is one record."""
        self._failures = max(self._failures, OPEN_AFTER)

    def probe_now(self) -> None:
        """Something outside changed: neither a wait nor the dead rate so far counts."""
        self._probe_at = self._resume_at = 0.0
        self._recent.clear()


def _has_grace(outcome: Outcome) -> bool:
    """Whether it is retried because of the record itself: the destination works."""
    return isinstance(outcome, Retry) and outcome.grace is not None
