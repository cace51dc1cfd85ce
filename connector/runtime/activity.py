"""What one process received, refused, delivered and skipped, for people who read its status."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from connector.domain.errors import Problem
from connector.domain.lanes import LaneId, Millis, MinuteCount

RATE_WINDOW: Final = 60.0
"""Seconds over which a rate is taken."""
_MINUTE_MS = 60_000
RECENT_MS: Final = 3_600_000
"""How long a refusal counts as recent."""
_RECENT_MINUTES = RECENT_MS // _MINUTE_MS
ACCEPTED_BY: Final[Mapping[str, tuple[str, ...]]] = {
    "webhook": ("signature", "malformed"),
    "flow": ("flow_secret",),
}
"""How a record arrived → the reasons of refusal that its arrival disproves."""


@dataclass(slots=True)
class Refusals:
    """Calls of one connection that were refused for one reason. `in_a_row`: since the last call of
    the same kind was accepted; `last`: when the newest came in, in ms, and `problem` its problem
    code, where it has one."""

    count: int = 0
    in_a_row: int = 0
    last: Millis = Millis(0)
    problem: str | None = None


@dataclass(slots=True)
class Occurrences:
    """Records of one connection that ended with one problem: how many since it began."""

    count: int = 0
    began: Millis = Millis(0)
    last: Millis = Millis(0)


@dataclass(slots=True)
class Activity:
    """`received`: (connection, via) → time of the last record, in ms. `refused`: (connection,
    reason). `refused_minutes`: (connection, problem code) → refused calls by minute since 1970, of
    the last RECENT_MS before the newest. `delivered`: lane → time of the last success. `skipped`:
    (connection, reason) → number of records. `unattached`: connection → number of events without
    their person's fields.
    `problems`: (connection, problem) while it occurs. `minutes`: (lane, minute since 1970) →
    entries that reached an end and are not stored yet."""

    received: dict[tuple[str, str], Millis] = field(default_factory=dict)
    refused: dict[tuple[str, str], Refusals] = field(default_factory=dict)
    refused_minutes: dict[tuple[str, str], Counter[int]] = field(default_factory=dict)
    delivered: dict[LaneId, Millis] = field(default_factory=dict)
    skipped: Counter[tuple[str, str]] = field(default_factory=Counter)
    unattached: Counter[str] = field(default_factory=Counter)
    problems: dict[tuple[str, Problem], Occurrences] = field(default_factory=dict)
    minutes: Counter[tuple[LaneId, int]] = field(default_factory=Counter)
    _settled: Counter[LaneId] = field(default_factory=Counter)
    _samples: deque[tuple[float, Mapping[LaneId, int]]] = field(default_factory=deque)

    def record_received(self, connection: str, via: str, now: Millis) -> None:
        self.received[connection, via] = now
        for reason in ACCEPTED_BY.get(via, ()):
            if refusals := self.refused.get((connection, reason)):
                refusals.in_a_row = 0

    def record_refused(
        self, connection: str, reason: str, now: Millis, problem: Problem | None = None
    ) -> None:
        refusals = self.refused.setdefault((connection, reason), Refusals())
        refusals.count += 1
        refusals.in_a_row += 1
        refusals.last = now
        refusals.problem = problem.value if problem else None
        if problem:
            minute = now // _MINUTE_MS
            minutes = self.refused_minutes.setdefault((connection, problem.value), Counter())
            minutes[minute] += 1
            for earlier in [at for at in minutes if at <= minute - _RECENT_MINUTES]:
                del minutes[earlier]

    def recently_refused(self, connection: str, problem: Problem, now: Millis) -> int:
        """Calls that were refused with this problem within RECENT_MS."""
        minutes = self.refused_minutes.get((connection, problem.value), Counter())
        first = now // _MINUTE_MS - _RECENT_MINUTES + 1
        return sum(calls for minute, calls in minutes.items() if minute >= first)

    def record_settled(self, lane: LaneId, count: int, *, accepted: bool, now: Millis) -> None:
        """`count` entries of the lane reached an end."""
        self._settled[lane] += count
        self.minutes[lane, now // _MINUTE_MS] += count
        if accepted:
            self.delivered[lane] = now

    def record_problem(self, connection: str, problem: Problem, now: Millis) -> None:
        found = self.problems.setdefault((connection, problem), Occurrences(began=now))
        found.count += 1
        found.last = now

    def take_minutes(self) -> list[MinuteCount]:
        """What was counted since the last call. `return_minutes` takes back what is not stored."""
        taken, self.minutes = self.minutes, Counter()
        return [MinuteCount(lane, at, count) for (lane, at), count in taken.items() if count]

    def return_minutes(self, counts: Sequence[MinuteCount]) -> None:
        for lane, at, count in counts:
            self.minutes[lane, at] += count

    def sample(self, now: float) -> None:
        """Note the counts at the monotonic second `now`. Called every few seconds."""
        self._samples.append((now, dict(self._settled)))
        while len(self._samples) > 2 and self._samples[1][0] <= now - RATE_WINDOW:
            self._samples.popleft()

    def per_second(self, lane: LaneId, now: float) -> float:
        """Entries of the lane that reached an end, per second of the last minute."""
        if not self._samples or now <= self._samples[0][0]:
            return 0.0
        at, before = self._samples[0]
        return (self._settled[lane] - before.get(lane, 0)) / (now - at)
