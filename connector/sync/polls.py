"""Polls of a platform for the people who changed. A page and the cursor after it are stored in
one transaction (guarantee 2)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace

from connector.domain.approvals import FIRST_SYNC
from connector.domain.attention import Affected, AttentionItem
from connector.domain.errors import DeliveryError, Problem, Rejected
from connector.domain.lanes import Lane
from connector.domain.records import FIRST_POLL_STREAM, Appended, Checkpoint
from connector.domain.remedies import Page, by
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
from connector.runtime.failures import FailureStreak
from connector.runtime.metrics import Metrics
from connector.sync.flow_guard import FlowGuard

PEOPLE_STREAM = "people"
"""Name of the stream in the table of checkpoints."""
_TEST = "test the credentials " + by(Page.SETTINGS, "with `connector check`")
_RETRY_DELAY = 30.0
"""Seconds until a failed poll is repeated, unless the next one is due sooner."""


class Poll:
    """Polls one platform's stream of changes every `every` seconds, while the lease is held.

    `lane` is the lane on which the connection's people are read; `guard` is asked before the first
    poll; `on_observed` is called after each page with people.
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
        self._subject = f"people of {lane.destination}"
        self._begin_again = False
        self._problem: Problem | None = None
        self._log = log.get("polls").bind(connection=lane.connection)
        self._failures = FailureStreak(self._log, "poll_failed", "poll_recovered")

    def wake(self) -> None:
        """Poll now: an approval may have been decided."""
        self.wakeup.set()

    async def idle(self) -> bool:
        """Whether one poll has ended since the start."""
        return self._first_poll_done.is_set()

    async def attention(self) -> Sequence[AttentionItem]:
        if not self._failures.count:
            return []
        connection = self._lane.connection
        text = (
            f"{connection}: {self._lane.destination} cannot be polled ({self._failures.last}); "
            "changes there arrive by webhook only"
        )
        problem = self._problem
        todo = "" if problem else _TEST
        return [
            AttentionItem(
                f"poll {connection}",
                text,
                problem,
                todo,
                remote=self._lane.destination,
                affected=Affected(connection, "polls", self._failures.last),
            )
        ]

    async def run_once(self) -> float:
        """One poll. Seconds until the next one."""
        if not self._lease.valid():
            return 1.0
        try:
            await self.poll()
        except DeliveryError as error:
            # The cursor may have expired (docs/unverified.md).
            self._begin_again |= isinstance(error, Rejected)
            self._problem = error.problem
            self._failures.record(error.detail, problem=error.problem.value)
            return min(self._every, _RETRY_DELAY)
        except Exception as error:
            self._problem = None
            self._failures.record(type(error).__name__)
            raise
        finally:
            self._first_poll_done.set()
        self._failures.clear()
        return self._every

    async def poll(self) -> int:
        """Read every page after the checkpoint; returns the number of people. Raises DeliveryError
        and StoreError.

        The first poll may return every person of the platform. It is a backfill: it needs an
        approval as one (guarantee 9), and its people are sent after live traffic, as are those of a
        poll that begins again because its cursor was refused.
        """
        connection = self._lane.connection
        saved = await self._checkpoints.load(connection, PEOPLE_STREAM)
        is_first = saved is None
        if is_first:
            saved = await self._checkpoints.load(connection, FIRST_POLL_STREAM)
            if saved is None and not await self._may_start():
                return 0
        cursor, total = saved.cursor if saved and not self._begin_again else None, 0
        backfill = is_first or self._begin_again
        async for page in self._pages(cursor, backfill=backfill):
            cursor = cursor if page.cursor is None else page.cursor
            await self._store_page(page, cursor, backfill=backfill)
            total += len(page.people)
            if not self._lease.valid():
                return total
        self._begin_again = False
        if is_first:
            await self._guard.close_request(FIRST_SYNC, self._subject)
        return total

    async def _may_start(self) -> bool:
        """Count the people of the first poll, once, and ask the flow guard."""
        if self._people_count is None:
            people = 0
            async for page in self._pages(None, backfill=True):
                people += len(page.people)
            self._people_count = people
            # After a start a person may have another answer.
            await self._guard.ask_again(FIRST_SYNC, self._subject)
        affected = AffectedResources(fields=True)
        people, subject = self._people_count, self._subject
        return await self._guard(FIRST_SYNC, subject, people, affected) == "allowed"

    async def _pages(self, cursor: str | None, *, backfill: bool) -> AsyncIterator[PeoplePage]:
        while True:
            page = await self._stream.page(cursor, self._view_fields, backfill=backfill)
            if page.more and page.cursor in (None, cursor):
                # A repeated cursor would never end. Its people are stored, and the next poll
                # begins there.
                self._log.warning("poll_cursor_repeated")
                page = replace(page, more=False)
            yield page
            if not page.more:
                return
            cursor = page.cursor

    async def _store_page(self, page: PeoplePage, cursor: str | None, *, backfill: bool) -> None:
        """Store a page, and the cursor after it."""
        now = self._clock.now()
        stream = FIRST_POLL_STREAM if backfill and page.more else PEOPLE_STREAM
        checkpoint = None if cursor is None else Checkpoint(stream, cursor)
        observed = listed_people(self._profile_reads, page, now, backfill=backfill)
        await self._reads.bulk_observe(self._lane, observed, now=now, checkpoint=checkpoint)
        self._metrics.record_received(self._lane, "poll", Appended(len(observed), 0), now)
        if observed:
            self._on_observed()
