"""Who changed at the platform, asked for again and again: the page and the cursor behind it are
stored together (promise 2)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace

from connector.domain.attention import AttentionItem
from connector.domain.errors import DeliveryError, StoreError
from connector.domain.lanes import Lane
from connector.domain.records import Appended, Checkpoint
from connector.pipeline.profile_reads import ProfileReadSink, listed_people
from connector.ports import (
    AffectedResources,
    Checkpoints,
    Clock,
    Lease,
    PeoplePage,
    Reads,
    Stream,
)
from connector.runtime import log
from connector.runtime.metrics import Metrics
from connector.sync.flow_guard import FlowGuard

PEOPLE_STREAM = "people"
"""The stream's name among the checkpoints."""
_FIRST_SYNC = "first_sync"
_RETRY_DELAY = 30.0
"""Seconds after which a poll that failed is tried again, where it is not due sooner."""


class Poll:
    """Polls one platform's stream of changes every `every` seconds, under the store's lease.

    `lane` is the one on which its people are read; `guard` is asked before everybody is told for
    the first time; `seen` is called when somebody was observed.
    """

    def __init__(
        self,
        stream: Stream,
        profile_reads: ProfileReadSink,
        view_fields: frozenset[str],
        lane: Lane,
        *,
        reads: Reads,
        checkpoints: Checkpoints,
        lease: Lease,
        clock: Clock,
        metrics: Metrics,
        guard: FlowGuard,
        every: float,
        on_observed: Callable[[], None],
    ) -> None:
        self._stream = stream
        self._profile_reads = profile_reads
        self._view_fields = view_fields
        self._lane = lane
        self._reads = reads
        self._checkpoints = checkpoints
        self._lease = lease
        self._clock = clock
        self._metrics = metrics
        self._guard = guard
        self._every = every
        self._on_observed = on_observed
        self.wakeup = asyncio.Event()
        self._first_poll_done = asyncio.Event()
        self._people_count: int | None = None
        self._failure = ""
        self._log = log.get("polls").bind(connection=lane.connection)

    def wake(self) -> None:
        """A person may have answered."""
        self.wakeup.set()

    async def idle(self) -> bool:
        """Whether it has looked since it began: all there was to know then is stored."""
        return self._first_poll_done.is_set()

    async def attention(self) -> Sequence[AttentionItem]:
        if not self._failure:
            return []
        text = f"{self._lane.connection}: {self._lane.destination} cannot be polled, "
        return [AttentionItem(f"poll {self._lane.connection}", text + self._failure)]

    async def run_once(self) -> float:
        """One poll. Seconds until the next."""
        if not self._lease.valid():
            return 1.0
        try:
            await self.poll()
        except (DeliveryError, StoreError) as error:
            self._report(f"{error.problem}: {error.detail}")
            return min(self._every, _RETRY_DELAY)
        except Exception as error:
            self._report(type(error).__name__)
            raise
        finally:
            self._first_poll_done.set()
        self._report("")
        return self._every

    def _report(self, failure: str) -> None:
        if failure and not self._failure:
            self._log.error("the platform cannot be polled", detail=failure)
        elif self._failure and not failure:
            self._log.info("the platform is polled again")
        self._failure = failure

    async def poll(self) -> int:
        """Every page since the checkpoint; how many people. Raises DeliveryError, StoreError.

        The first poll of all may show everybody there is, and telling them is a backfill: it asks
        as one (promise 9) and stays behind live traffic.
        """
        saved = await self._checkpoints.load(self._lane.connection, PEOPLE_STREAM)
        if saved is None and not await self._may_start():
            return 0
        total = 0
        async for page in self._pages(saved.cursor if saved else None, backfill=saved is None):
            await self._store_page(page, backfill=saved is None)
            total += len(page.people)
            if not self._lease.valid():
                break
        return total

    async def _may_start(self) -> bool:
        """Counts everybody once, and asks."""
        if self._people_count is None:
            people = 0
            async for page in self._pages(None, backfill=True):
                people += len(page.people)
            self._people_count = people
        subject = f"people of {self._lane.destination}"
        affected = AffectedResources(fields=True)
        return await self._guard(_FIRST_SYNC, subject, self._people_count, affected) == "allowed"

    async def _pages(self, cursor: str | None, *, backfill: bool) -> AsyncIterator[PeoplePage]:
        while True:
            page = await self._stream.page(cursor, self._view_fields, backfill=backfill)
            if page.more and page.cursor in (None, cursor):
                # A cursor that repeats would go on for ever: what it showed is kept, and the next
                # poll begins there.
                self._log.warning("the platform's cursor repeats itself")
                page = replace(page, more=False)
            yield page
            if not page.more:
                return
            cursor = page.cursor

    async def _store_page(self, page: PeoplePage, *, backfill: bool) -> None:
        now = self._clock.now()
        checkpoint = Checkpoint(PEOPLE_STREAM, page.cursor) if page.cursor is not None else None
        observed = listed_people(self._profile_reads, page, now, backfill=backfill)
        await self._reads.bulk_observe(self._lane, observed, now=now, checkpoint=checkpoint)
        taken = Appended(len(observed), 0)
        self._metrics.record_received(self._lane, "poll", taken, now)
        if observed:
            self._on_observed()
