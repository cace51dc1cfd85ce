"""What comes in, durably: pages and webhook deliveries into the outbox, with their cursor. Nobody
is told "accepted" before the commit that holds his record."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from connector.domain.errors import Problem, StoreError
from connector.domain.lanes import Lane, LaneId, Millis, Via
from connector.domain.profiles import Observation
from connector.domain.records import Appended, Page, Record
from connector.ports import Clock, Outbox, Webhook
from connector.runtime.group_commit import GroupCommit
from connector.runtime.metrics import Metrics

_RELAXED_READ_INTERVAL_MS = 2_000
"""ms between two reads of one person where no event waits for the second."""


@dataclass(frozen=True, slots=True)
class WebhookEndpoint:
    """Where a platform's webhooks come in: who verifies and parses them, and what follows.

    `triggers_read` says whether an event makes its person be read again, on the lane `read_lane`.
    With `by_id` a read can also find the address of a person of whom only the id is known.
    `attach_wait` ms an event waits for that read while its lane goes singly (`hurried` says no).
    `hears` makes an observation of what an event received then says itself, where events do.
    """

    lane: Lane
    webhook: Webhook
    read_lane: LaneId | None = None
    triggers_read: Callable[[str], bool] = lambda name: False
    attach_wait: int = 0
    by_id: bool = False
    backlogged: Callable[[], bool] = lambda: False
    extracts: Callable[[Record, Millis], Observation | None] | None = None

    def page(
        self, headers: Mapping[str, str], body: bytes, secret: str | None, now: Millis
    ) -> Page:
        """What a delivery says, verified. Raises Unauthorised and Malformed."""
        self.webhook.verify(headers, body, secret)
        records = self.webhook.parse(headers, body)
        if self.extracts:
            records = [replace(r, observation=self.extracts(r, now)) for r in records]
        if self.read_lane is None:
            return Page(self.lane, "webhook", records, now)
        waits = self.attach_wait and not self.backlogged()
        return Page(
            self.lane,
            "webhook",
            [self._with_read(r) for r in records],
            now,
            read_lane=self.read_lane,
            attach_wait=self.attach_wait if waits else 0,
            min_read_interval=self.attach_wait // 2 if waits else _RELAXED_READ_INTERVAL_MS,
            by_id=self.by_id,
        )

    def _with_read(self, record: Record) -> Record:
        triggers = record.refetch or self.triggers_read(record.name)
        return replace(record, refresh=True) if triggers else record


class Intake:
    """Takes pages in. `arrived` is called with a lane that got something new to deliver."""

    def __init__(
        self,
        outbox: Outbox,
        clock: Clock,
        metrics: Metrics,
        *,
        on_ready: Callable[[LaneId], None],
    ) -> None:
        self._clock = clock
        self._metrics = metrics
        self._on_ready = on_ready
        self._commits = GroupCommit[Page, Appended](
            lambda pages: outbox.append(pages), lambda page: len(page.records)
        )
        self.closed_by: Problem | None = None
        """Set while nothing may be taken in (free disk too low); why."""

    async def receive(self, lane: Lane, via: Via, records: Sequence[Record]) -> Appended:
        """Store what a platform pushed. Raises StoreError when it is not stored."""
        return await self.page(Page(lane, via, records, self._clock.now()))

    async def page(self, page: Page) -> Appended:
        """Store a page with its checkpoint. Raises StoreError when it is not stored."""
        if self.closed_by:
            raise StoreError(self.closed_by)
        result = await self._commits.put(page)
        self._metrics.record_received(page.lane, page.via, result, page.received_at)
        if result.accepted > result.held or result.released or (result.held and page.by_id):
            self._on_ready(page.lane.id)
        return result
