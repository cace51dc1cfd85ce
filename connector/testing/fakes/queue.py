"""A lane's queue in memory, for tests of what delivers its entries."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from connector.domain.lanes import DeliveryMode, Lane, LaneId, LaneState, Millis
from connector.domain.outcomes import (
    Absent,
    Accepted,
    Ambiguous,
    Dead,
    Gone,
    Held,
    Observed,
    Outcome,
    Pending,
    Request,
    Retry,
    Skipped,
    Unsent,
)
from connector.domain.records import Claim, Entry, State
from connector.ports import Fence, ReadyCounts, RetryPolicy, Settled

_ENDS: dict[type[Outcome], State] = {
    Accepted: State.ACCEPTED,
    Observed: State.ACCEPTED,
    Gone: State.ACCEPTED,
    Pending: State.CLAIMED,
    Skipped: State.SKIPPED,
    Held: State.HELD,
    Dead: State.DEAD,
}


@dataclass
class QueuedEntry:
    """An entry, its state, and every outcome it was settled with. A `Pending` one stays CLAIMED."""

    entry: Entry
    state: State = State.READY
    due: Millis = Millis(0)
    claim: int | None = None
    outcomes: list[Outcome] = field(default_factory=list)


class MemoryQueue:
    """connector.ports.Queue and Lanes of one lane. `rows` by seq; `requests` are those stored."""

    def __init__(self, *entries: Entry) -> None:
        self.rows = {entry.seq: QueuedEntry(entry) for entry in entries}
        self.requests: list[Request] = []
        self.state = LaneState()
        self._claims = 0

    def states(self) -> Counter[State]:
        return Counter(row.state for row in self.rows.values())

    def outcomes(self) -> list[Outcome]:
        """The last outcome of every entry that has one."""
        return [row.outcomes[-1] for row in self.rows.values() if row.outcomes]

    async def ready(self, lane: LaneId, *, now: Millis, limit: int) -> ReadyCounts:
        waiting = [row for row in self.rows.values() if row.state == State.READY]
        later = [row.due for row in waiting if row.due > now]
        counts = Counter((r.entry.mode, r.entry.backfill) for r in waiting if r.due <= now)
        batch, single = DeliveryMode.BATCH, DeliveryMode.SINGLE
        return ReadyCounts(
            min(limit, counts[batch, False]),
            min(limit, counts[single, False]),
            min(later, default=None),
            min(limit, counts[batch, True]),
            min(limit, counts[single, True]),
        )

    async def claim(
        self,
        lane: Lane,
        fence: Fence,
        *,
        now: Millis,
        limit: int,
        mode: DeliveryMode,
        mapping: str,
        backfill: bool | None = None,
        **_: Any,
    ) -> Claim | None:
        due = [
            row
            for row in self.rows.values()
            if row.state == State.READY
            and row.due <= now
            and row.entry.mode == mode
            and backfill in (None, row.entry.backfill)
        ][:limit]
        if not due:
            return None
        self._claims += 1
        for row in due:
            row.state, row.claim = State.CLAIMED, self._claims
            row.entry = replace(
                row.entry,
                attempts=row.entry.attempts + 1,
                mapping=row.entry.mapping or mapping,
            )
        return Claim(self._claims, lane, [row.entry for row in due])

    async def settle(
        self,
        claim: Claim,
        outcomes: Sequence[Outcome],
        *,
        now: Millis,
        policy: RetryPolicy,
        requests: Sequence[Request] = (),
    ) -> Settled:
        self.requests += requests
        for outcome in outcomes:
            row = self.rows[outcome.seq]
            if row.claim != claim.token:
                raise ValueError(f"{outcome} of an entry that this claim does not hold")
            row.claim = None
            row.outcomes.append(outcome)
            self._apply(row, outcome, now)
        again = [self.rows[o.seq] for o in outcomes if self.rows[o.seq].state == State.READY]
        return Settled(len(outcomes), min((row.due for row in again), default=None))

    def _apply(self, row: QueuedEntry, outcome: Outcome, now: Millis) -> None:
        row.state = _ENDS.get(type(outcome), State.READY)
        match outcome:
            case Unsent():
                row.entry = replace(row.entry, attempts=row.entry.attempts - 1)
            case Retry():
                row.due = Millis(now + round(outcome.after * 1000))
            case Ambiguous():
                row.due = Millis(now + round(outcome.after * 1000))
                row.entry = replace(row.entry, mode=DeliveryMode.SINGLE)
            case Absent():
                row.entry = replace(row.entry, mode=DeliveryMode.BATCH)

    async def recover(
        self,
        fence: Fence,
        *,
        now: Millis,
        claim: Claim | None = None,
        lanes: Collection[LaneId] | None = None,
    ) -> int:
        return 0

    async def retry_now(self, lane: LaneId, *, now: Millis) -> int:
        later = [row for row in self.rows.values() if row.due > now]
        for row in later:
            row.due = now
        return len(later)

    async def extend_horizon(self, lane: LaneId, pause: int) -> int:
        return 0

    # ── connector.ports.Lanes ────────────────────────────────────────────────────────────────────

    async def ensure(self, connection: str, destination: str, kind: Any) -> Lane:
        return Lane(LaneId(1), connection, destination, kind)

    async def all(self) -> Sequence[tuple[Lane, LaneState]]:
        return ()

    async def due(self, lanes: Collection[Lane], *, now: Millis) -> frozenset[LaneId]:
        return frozenset()

    async def set_state(self, lane: LaneId, state: LaneState, fence: Fence | None = None) -> None:
        self.state = state
