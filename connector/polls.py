"""Who changed at the platform, asked for again and again: the page and the cursor behind it are
stored together (promise 2)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from connector import log
from connector.errors import DeliveryError, StoreError
from connector.metrics import Metrics
from connector.model import Appended, Checkpoint, Lane, Need
from connector.ports import Checkpoints, Clock, Lease, PeoplePage, Reads, Stream
from connector.refresh import Refresher, sightings

PEOPLE = "people"
"""The stream's name among the checkpoints."""
_AGAIN = 30.0
"""Seconds after which a poll that failed is tried again, where it is not due sooner."""


class Poll:
    """Polls one platform's stream of changes every `every` seconds, under the store's lease.

    `lane` is the one on which its people are read; `seen` is called when somebody was observed.
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
        self._every = every
        self._seen = seen
        self._polled = asyncio.Event()
        self._trouble = ""
        self._log = log.get("polls").bind(connection=lane.connection)

    async def run(self) -> None:
        """For ever. Nothing that the platform or the store does ends it."""
        while True:
            wait = 1.0
            if self._lease.valid():
                wait = await self._once()
            await self._clock.sleep(wait)

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

        The first poll of all only finds out where to begin: whom it shows nobody has changed just
        now, and telling them all at once is a backfill, which asks before it does (promise 9).
        """
        saved = await self._checkpoints.load(self._lane.connection, PEOPLE)
        cursor = saved.cursor if saved else None
        total = 0
        while True:
            page = await self._stream.page(cursor, self._words)
            if page.more and page.cursor in (None, cursor):
                # A cursor that repeats would go on for ever: what it showed is kept, and the next
                # poll begins there.
                self._log.warning("the platform's cursor repeats itself")
                page = PeoplePage(page.people, page.cursor, False, page.at, page.total)
            if saved:
                await self._take_in(page)
                total += len(page.people)
            elif not page.more:
                await self._take_in(PeoplePage((), page.cursor, False, page.at))
            if not page.more or not self._lease.valid():
                return total
            cursor = page.cursor

    async def _take_in(self, page: PeoplePage) -> None:
        now = self._clock.now()
        checkpoint = Checkpoint(PEOPLE, page.cursor) if page.cursor is not None else None
        seen = sightings(self._refresher, page, now)
        await self._reads.take_in(self._lane, seen, now=now, checkpoint=checkpoint)
        taken = Appended(len(seen), 0)
        self._metrics.took_in(self._lane, "poll", taken, now)
        if seen:
            self._seen()
