"""A connection's endpoint for its platform's webhooks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from connector.domain.lanes import Lane, LaneId, LaneKind, Millis, Suppression
from connector.domain.profiles import Observation
from connector.domain.records import Appended, Page, Record
from connector.pipeline.intake import Endpoint, Intake
from connector.ports import Clock, Webhook
from connector.runtime.metrics import Metrics

_RELAXED_READ_INTERVAL_MS = 2_000
"""ms between two reads of one person when no event waits for the second."""


@dataclass(frozen=True, slots=True)
class ReadRules:
    """Which events make their person be read, on which lane.

    `triggers_read` is given an event's name; a record that needs a refetch is read in any case.
    `by_id`: a person can be read when only their id is known. An event that is received now waits
    up to `attach_wait` seconds for its person's read. `min_interval`: seconds between two reads of
    one person that events wait for.
    """

    lane: LaneId
    triggers_read: Callable[[str], bool]
    by_id: bool
    attach_wait: Callable[[], float]
    min_interval: float


class WebhookEndpoint(Endpoint[Sequence[Record], Appended]):
    """Stores a platform's webhooks in the outbox, on the lane of events.

    `extracts` makes an observation of the person's fields from an event, where the mapping takes
    fields from events. `suppressed`: why events that are received now are not sent.
    """

    def __init__(
        self,
        lane: Lane,
        webhook: Webhook,
        intake: Intake,
        clock: Clock,
        metrics: Metrics,
        *,
        wake: Callable[[Mapping[LaneKind, Millis]], None],
        reads: ReadRules | None = None,
        extracts: Callable[[Record, Millis], Observation | None] | None = None,
        suppressed: Suppression | None = None,
    ) -> None:
        super().__init__(intake, clock, metrics, wake=wake)
        self._lane = lane
        self._webhook = webhook
        self._reads = reads
        self._extracts = extracts
        self._suppressed = suppressed

    def _parse(self, path: str, headers: Mapping[str, str], body: bytes) -> Sequence[Record]:
        self._webhook.verify(headers, body, path or None)
        return self._webhook.parse(headers, body)

    async def _store(self, content: Sequence[Record]) -> Appended:
        page = self._page(content, self._clock.now())
        result = await self._intake.pages.put(page)
        self._stored(page.lane, page.via, result, page.received_at)
        return result

    def _page(self, records: Sequence[Record], now: Millis) -> Page:
        if self._extracts:
            records = [replace(r, observation=self._extracts(r, now)) for r in records]
        rules = self._reads
        if rules is None:
            return Page(self._lane, "webhook", records, now, suppressed=self._suppressed)
        attach_wait = round(rules.attach_wait() * 1000)
        interval = round(rules.min_interval * 1000) if attach_wait else _RELAXED_READ_INTERVAL_MS
        return Page(
            self._lane,
            "webhook",
            [_with_read(record, rules) for record in records],
            now,
            read_lane=rules.lane,
            attach_wait=attach_wait,
            min_read_interval=interval,
            by_id=rules.by_id,
            suppressed=self._suppressed,
        )


def _with_read(record: Record, rules: ReadRules) -> Record:
    if not record.refetch and not rules.triggers_read(record.name):
        return record
    return replace(record, refresh=True)
