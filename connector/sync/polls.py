"""Who changed at the platform, asked for again and again: the page and the cursor behind it are
stored together (promise 2)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace

from connector.domain.attention import (
    Need,
)
from connector.domain.errors import DeliveryError, StoreError
from connector.domain.lanes import (
    Lane,
)
from connector.domain.records import (
    Appended,
    Checkpoint,
)
from connector.pipeline.profile_reads import Refresher, sightings
from connector.ports import Checkpoints, Clock, Lease, PeoplePage, Reads, Stream, Touched
from connector.runtime import log
from connector.runtime.metrics import Metrics
from connector.sync.flow_guard import Guard

PEOPLE = "people"
"""The stream's name among the checkpoints."""
_FIRST = "first_sync"
_AGAIN = 30.0
"""Seconds after which a poll that failed is tried again, where it is not due sooner."""


class Poll:
    """Polls one platform's stream of changes every `every` seconds, under the store's lease.

    `lane` is the one on which its people are read; `guard` is asked before everybody is told for
    the first time; `seen` is called when somebody was observed.
    """

    def __init__(
        self,
        stream: Stream,
        refresher: Refresher,
        words: frozenset[str],
        lane: Lane,
        *,
        reads: Reads,
        checkpoints: Checkpoints,
        lease: Lease,
        clock: Clock,
        metrics: Metrics,
        guard: Guard,
        every: float,
        seen: Callable[[], None],
    ) -> None:
        self._stream = stream
        self._refresher = refresher
        self._words = words
        self._lane = lane
        self._reads = reads
        self._checkpoints = checkpoints
        self._lease = lease
        self._clock = clock
        self._metrics = metrics
        self._guard = guard
        self._every = every
        self._seen = seen
        self._bell = asyncio.Event()
        self._polled = asyncio.Event()
        self._people: int | None = None
        self._trouble = ""
        self._log = log.get("polls").bind(connection=lane.connection)

    def wake(self) -> None:
        """A person may have answered."""
        self._bell.set()

    async def run(self) -> None:
        """For ever. Nothing that the platform or the store does ends it."""
        while True:
            wait = 1.0
            if self._lease.valid():
                wait = await self._once()
            self._bell.clear()
            await self._clock.wait(self._bell, wait)

    async def idle(self) -> bool:
        """Whether it has looked since it began: all there was to know then is stored."""
        return self._polled.is_set()

    async def needs(self) -> Sequence[Need]:
        if not self._trouble:
            return []
        text = f"{self._lane.connection}: {self._lane.destination} cannot be polled, "
        return [Need(f"poll {self._lane.connection}", text + self._trouble)]

    async def _once(self) -> float:
        """One look; seconds until the next."""
        try:
            await self.poll()
        except (DeliveryError, StoreError) as error:
            self._say(f"{error.problem}: {error.detail}")
            return min(self._every, _AGAIN)
        except Exception as error:
            # An adapter's fault must not end its polls, and is no news twice.
            self._say(repr(error))
            return min(self._every, _AGAIN)
        finally:
            self._polled.set()
        self._say("")
        return self._every

    def _say(self, trouble: str) -> None:
        if trouble and not self._trouble:
            self._log.error("the platform cannot be polled", detail=trouble)
        elif self._trouble and not trouble:
            self._log.info("the platform is polled again")
        self._trouble = trouble

    async def poll(self) -> int:
        """Every page since the checkpoint; how many people. Raises DeliveryError, StoreError.

        The first poll of all may show everybody there is, and telling them is a backfill: it asks
        as one (promise 9) and stays behind live traffic.
        """
        saved = await self._checkpoints.load(self._lane.connection, PEOPLE)
        if saved is None and not await self._may_begin():
            return 0
        total = 0
        async for page in self._pages(saved.cursor if saved else None, backfill=saved is None):
            await self._take_in(page, backfill=saved is None)
            total += len(page.people)
            if not self._lease.valid():
                break
        return total

    async def _may_begin(self) -> bool:
        """Counts everybody once, and asks."""
        if self._people is None:
            people = 0
            async for page in self._pages(None, backfill=True):
                people += len(page.people)
            self._people = people
        subject = f"people of {self._lane.destination}"
        touched = Touched(fields=True)
        return await self._guard(_FIRST, subject, self._people, touched) == "allowed"

    async def _pages(self, cursor: str | None, *, backfill: bool) -> AsyncIterator[PeoplePage]:
        while True:
            page = await self._stream.page(cursor, self._words, backfill=backfill)
            if page.more and page.cursor in (None, cursor):
                # A cursor that repeats would go on for ever: what it showed is kept, and the next
                # poll begins there.
                self._log.warning("the platform's cursor repeats itself")
                page = replace(page, more=False)
            yield page
            if not page.more:
                return
            cursor = page.cursor

    async def _take_in(self, page: PeoplePage, *, backfill: bool) -> None:
        now = self._clock.now()
        checkpoint = Checkpoint(PEOPLE, page.cursor) if page.cursor is not None else None
        seen = sightings(self._refresher, page, now, backfill=backfill)
        await self._reads.take_in(self._lane, seen, now=now, checkpoint=checkpoint)
        taken = Appended(len(seen), 0)
        self._metrics.took_in(self._lane, "poll", taken, now)
        if seen:
            self._seen()
