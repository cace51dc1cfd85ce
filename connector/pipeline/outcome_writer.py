"""Outcomes into the store, however long it is unavailable."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

from structlog.typing import FilteringBoundLogger

from connector.domain.errors import Problem, StoreError
from connector.domain.lanes import DeliveryMode, Lane, Millis
from connector.domain.outcomes import (
    Absent,
    Accepted,
    Ambiguous,
    Dead,
    Delivery,
    Held,
    Outcome,
    Retry,
)
from connector.domain.records import Claim, Entry
from connector.ports import Clock, Queue, RetryPolicy

_RETRY_SECONDS = 1.0
_UNSTORABLE = "its text cannot be stored"

Access = Literal["read", "write"]


class StoreOutage:
    """Logs once that the store fails and once that it works again. A damaged store does not: other
    statements may succeed, and the next one on a damaged page fails again."""

    def __init__(self, log: FilteringBoundLogger) -> None:
        self._log = log
        self._failing: Access | None = None
        self._damaged = False

    def failed(self, error: StoreError, access: Access = "read") -> None:
        if self._failing is None:
            event = "lease_missing" if error.problem is Problem.STORE_HELD else "store_failed"
            self._log.error(event, problem=error.problem.value, detail=error.detail)
        if self._failing != "write":
            self._failing = access
        self._damaged |= error.problem is Problem.STORE_DAMAGED

    def succeeded(self, access: Access) -> None:
        """A store that can be read may still refuse to be written."""
        if self._failing and not self._damaged and access in ("write", self._failing):
            self._failing = None
            self._log.info("store_recovered")


class OutcomeWriter:
    """Settles the claims of one lane under its retry policy. `ready_again` gets the time at which
    the first of the settled entries is due again."""

    def __init__(
        self,
        queue: Queue,
        clock: Clock,
        outage: StoreOutage,
        log: FilteringBoundLogger,
        *,
        policy: RetryPolicy,
        ready_again: Callable[[Millis], None],
    ) -> None:
        self._ready_again = ready_again
        self._queue = queue
        self._clock = clock
        self._outage = outage
        self._log = log
        self._policy = policy
        self._aborted = False

    def abort(self) -> None:
        """Wait for the store no longer: what it has not stored stays claimed, and is ambiguous at
        the next start."""
        self._aborted = True

    async def write(
        self, claim: Claim, delivery: Delivery, *, now: Millis, paused: int
    ) -> Sequence[Outcome]:
        """Store the outcomes and requests, waiting while the store is unavailable; returns the
        outcomes that were stored. What the store refuses for good is stored without the remote
        side's texts, and where that is refused too it becomes a dead letter, and only that.
        `paused`: ms that do not count against the horizon."""
        try:
            stored = await self._settle(claim, delivery, now, paused)
            return delivery.outcomes if stored else ()
        except Exception as error:
            self._log.error("outcome_refused", error=repr(error))
            detail = f"{type(error).__name__} while its outcome was stored"
        for request in delivery.requests:
            with contextlib.suppress(Exception):
                await self._settle(claim, Delivery((), [request]), now, paused)
        entries = {entry.seq: entry for entry in claim.entries}
        written: list[Outcome] = []
        for outcome in delivery.outcomes:
            last = _last_resort(claim.lane, entries[outcome.seq], outcome, detail)
            for attempt in (outcome, _without_texts(outcome), last):
                with contextlib.suppress(Exception):
                    if await self._settle(claim, Delivery([attempt]), now, paused):
                        written.append(attempt)
                    break
        return written

    async def _settle(self, claim: Claim, delivery: Delivery, now: Millis, paused: int) -> bool:
        """False where `abort` ended the wait for the store. Raises what a repeat cannot fix."""
        while True:
            try:
                settled = await self._queue.settle(
                    claim,
                    delivery.outcomes,
                    now=now,
                    requests=delivery.requests,
                    policy=replace(self._policy, horizon=self._policy.horizon + paused),
                )
            except StoreError as error:
                if error.problem is Problem.STORE_REFUSED:
                    raise
                self._outage.failed(error, "write")
                if self._aborted:
                    return False
                await self._clock.sleep(_RETRY_SECONDS)
            else:
                self._outage.succeeded("write")
                if settled.next_due is not None:
                    self._ready_again(settled.next_due)
                return True


def _without_texts(outcome: Outcome) -> Outcome:
    """The same outcome without what the remote side wrote: a database may refuse a text."""
    match outcome:
        case Accepted():
            return replace(outcome, ref=None)
        case Retry() | Ambiguous() | Dead() | Held():
            return replace(outcome, detail=_UNSTORABLE)
        case _:
            return outcome


def _last_resort(lane: Lane, entry: Entry, outcome: Outcome, detail: str) -> Outcome:
    """For an outcome that cannot be stored at all: a dead letter. A dead action may be sent again,
    so one that may have been applied is left to a person instead (guarantee 4)."""
    maybe_applied = isinstance(outcome, Accepted | Ambiguous | Absent)
    if lane.kind == "action" and (maybe_applied or entry.mode is DeliveryMode.SINGLE):
        return Held(outcome.seq, Problem.ACTION_UNCERTAIN, detail)
    return Dead(outcome.seq, Problem.STORE_REFUSED, detail)
