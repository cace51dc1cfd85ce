"""What a lane claims next: as much as is ready and as quota, parallel requests and the lane's
breaker allow."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

from connector.domain.errors import Problem, StoreError
from connector.domain.lanes import DeliveryMode, Lane
from connector.domain.records import Claim
from connector.pipeline.breaker import LaneBreaker
from connector.pipeline.outcome_writer import StoreOutage
from connector.ports import BatchMode, Clock, Lease, Queue, ReadyCounts, Sink

_GATHER_SECONDS = 2.0
"""How long a backfill's next batch may grow, where the last one was not full."""
_MIN_WAIT = 0.01
_NO_LIMIT = 1_000_000
_RECHECK_SECONDS = 1.0
"""A ready entry that cannot be claimed waits for another write of its person, or for the id of its
list. Nothing reports their end."""

Launch = Callable[[Claim, BatchMode, int], None]
"""Starts the delivery of a claim by so many requests of that mode."""


class Claimer:
    """Claims the entries of one lane and launches their delivery.

    Waits are seconds until something may be claimed; 0 when more may be ready at once, None when
    that depends on something else. Raises StoreError. `in_flight` counts the requests of a mode;
    `version` is the renderer's. `backlogged`: more entries are ready than are sent in single
    requests. `has_left`: entries were ready that could not be claimed, at the last count.
    """

    def __init__(
        self,
        lane: Lane,
        *,
        queue: Queue,
        sink: Sink[Any],
        lease: Lease,
        clock: Clock,
        breaker: LaneBreaker,
        outage: StoreOutage,
        version: Callable[[], str],
        in_flight: Callable[[BatchMode], int],
        launch: Launch,
        bulk_threshold: int,
    ) -> None:
        self.backlogged = False
        self.has_left = False
        self._lane = lane
        self._queue = queue
        self._sink = sink
        self._lease = lease
        self._clock = clock
        self._breaker = breaker
        self._outage = outage
        self._version = version
        self._in_flight = in_flight
        self._launch = launch
        self._bulk_threshold = bulk_threshold
        self._last_mode = DeliveryMode.BATCH
        self._gather_until = 0.0
        self._aborted = False
        self._unanswered: list[Claim] = []
        """Claims without entries, whose transactions may or may not have been committed."""

    def abort(self) -> None:
        """A claim that is under way is not delivered."""
        self._aborted = True

    async def give_back(self) -> None:
        """Give back what a claim without an answer may hold: nothing of it was sent, and while it
        is claimed it holds up whatever else waits for its person."""
        while self._unanswered:
            claim = self._unanswered[0]
            await self._queue.recover(self._lease.fence, now=self._clock.now(), claim=claim)
            self._unanswered.remove(claim)

    async def claim_ready(self) -> float | None:
        """Claim all that can be sent now."""
        self.has_left = True
        ready = await self._count_ready(self._bulk_threshold + 1)
        self.backlogged = ready.batch > self._bulk_threshold
        waits = [self._until_due(ready)]
        claimed = 0
        # Live first: a backfill takes what is left. Both delivery modes in turn, so that neither
        # holds back the other where only one may be sent.
        for backfill in (False, True):
            for mode in (DeliveryMode(1 - self._last_mode), self._last_mode):
                if count := ready.count(mode, backfill=backfill):
                    gathering = self._gather_until - self._clock.monotonic()
                    if backfill and mode is DeliveryMode.BATCH and gathering > 0:
                        waits.append(gathering)
                    else:
                        wait, taken = await self._claim(count, mode, backfill=backfill)
                        waits.append(wait)
                        claimed += taken
        self.has_left = claimed < ready.total
        known = [wait for wait in waits if wait is not None]
        return min(known) if known else None

    async def claim_one(self) -> tuple[bool, float | None]:
        """Claim a single entry, live before backfill. Whether one is ready, and the wait."""
        ready = await self._count_ready(1)
        if ready.total == 0:
            return False, None
        backfill = not (ready.batch or ready.single)
        batch = ready.count(DeliveryMode.BATCH, backfill=backfill)
        mode = DeliveryMode.BATCH if batch else DeliveryMode.SINGLE
        wait, _ = await self._claim(1, mode, backfill=backfill, most=1)
        return True, wait

    async def _count_ready(self, limit: int) -> ReadyCounts:
        ready = await self._queue.ready(self._lane.id, now=self._clock.now(), limit=limit)
        self._outage.succeeded("read")
        return ready

    def _until_due(self, ready: ReadyCounts) -> float | None:
        if ready.next_due is None:
            return None
        return max(_MIN_WAIT, (ready.next_due - self._clock.now()) / 1000)

    async def _claim(
        self, count: int, mode: DeliveryMode, *, backfill: bool, most: int = _NO_LIMIT
    ) -> tuple[float | None, int]:
        """The wait, and how many entries were claimed."""
        if not self._lease.valid():
            return None, 0  # whoever makes it valid wakes the lane
        batch_mode = self._batch_mode(count, mode, backfill=backfill)
        in_bulk = batch_mode == self._sink.bulk
        if in_bulk and (wait := self._breaker.bulk_wait(self._clock.monotonic())):
            return wait, 0
        want = 1 if in_bulk else count
        parallel = 1 if self._breaker.is_open else batch_mode.parallel
        free = parallel - self._in_flight(batch_mode)
        if free <= 0:
            return None, 0
        quota = self._sink.quota
        grant = quota.reserve(batch_mode.endpoint, min(want, free), backfill=backfill)
        if not grant.count:
            return grant.wait, 0
        limit = min(most, grant.count * self._size_of(batch_mode))
        token = secrets.randbits(62)
        try:
            claim = await self._queue.claim(
                self._lane,
                self._lease.fence,
                now=self._clock.now(),
                limit=limit,
                mode=mode,
                mapping=self._version(),
                usage=grant.usage,
                backfill=backfill,
                token=token,
            )
        except Exception as error:
            quota.release(batch_mode.endpoint, grant, grant.count)
            if isinstance(error, StoreError):
                self._outage.failed(error, "write")
            if not isinstance(error, StoreError) or error.problem is not Problem.STORE_HELD:
                self._unanswered.append(Claim(token, self._lane, ()))
            raise
        self._outage.succeeded("write")
        used = -(-len(claim.entries) // batch_mode.size) if claim else 0
        quota.release(batch_mode.endpoint, grant, grant.count - used)
        if self._aborted:
            return None, 0
        if claim is None:
            return _RECHECK_SECONDS, 0
        bulk = self._sink.bulk if mode is DeliveryMode.BATCH else None
        if backfill and bulk and len(claim.entries) < self._size_of(bulk):
            self._gather_until = self._clock.monotonic() + _GATHER_SECONDS
        self._last_mode = mode
        self._launch(claim, batch_mode, used)
        taken = len(claim.entries)
        if taken == limit < count or count > self._bulk_threshold:
            return 0, taken  # more are ready, or may be: they were counted up to a limit
        return (None if taken >= count else _RECHECK_SECONDS), taken

    def _batch_mode(self, count: int, mode: DeliveryMode, *, backfill: bool) -> BatchMode:
        single, bulk = self._sink.single, self._sink.bulk
        few = self._bulk_threshold
        if backfill:
            few = min(few, single.parallel)
        many = count > few and mode is DeliveryMode.BATCH
        in_bulk = many and (self._breaker.tests_bulk or not self._breaker.is_open)
        return bulk if bulk and in_bulk else single

    def _size_of(self, mode: BatchMode) -> int:
        return self._breaker.bulk_size(mode.size) if mode == self._sink.bulk else mode.size
