"""Events to Klaviyo: one by one where a repeat must be harmless, else up to a thousand a request.

Singly, Klaviyo drops a repeated (profile, metric, unique_id) silently. In bulk a repeat inside one
request fails the whole request, and the effect of a repeat of an earlier request is not published
(docs/unverified.md): so whatever may have been applied goes singly.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing

from connector.domain.errors import Problem
from connector.domain.messages import EventMessage, Fault
from connector.domain.outcomes import Ambiguous, Dead, Delivery, Outcome
from connector.klaviyo.api import KlaviyoApi
from connector.klaviyo.limits import BULK_EVENTS, BULK_EVENTS_MAX, CREATE_EVENT
from connector.klaviyo.sink import event_body
from connector.klaviyo.sink.batches import BulkSender, Encoded
from connector.klaviyo.sink.requests import KlaviyoSink, accepted, failed, is_backfill
from connector.ports import BatchMode, Clock, Outgoing
from connector.runtime.concurrency import in_turns
from connector.runtime.single_requests import in_single_requests

Out = Outgoing[EventMessage]
_Id = tuple[str, str, str]
"""By which Klaviyo recognises a repeat: profile, metric, unique_id."""


class EventSink(KlaviyoSink):
    """connector.ports.Sink of events. `late_after` in seconds (None: never): an event that is
    older when it is delivered is recorded with `backfill`, so that it starts no flow."""

    single = BatchMode(CREATE_EVENT, size=1, parallel=16)
    bulk: BatchMode | None = BatchMode(BULK_EVENTS, size=BULK_EVENTS_MAX, parallel=2)

    def __init__(self, api: KlaviyoApi, clock: Clock, *, late_after: float | None) -> None:
        super().__init__(api)
        self._clock = clock
        self._bulk_sender = BulkSender(api, event_body.ENVELOPE, accepted)
        self._late_after_ms = None if late_after is None else round(late_after * 1000)

    async def deliver(
        self, batch: Sequence[Out], *, bulk: bool, permits: int
    ) -> AsyncIterator[Delivery]:
        good: list[Encoded] = []
        refused: list[Outcome] = []
        ids: set[_Id] = set()
        async for part in in_turns(batch):
            encoded, faulty = self._encode(part, ids, bulk=bulk)
            good += encoded
            refused += faulty
        if refused:
            yield Delivery(refused)
        if bulk:
            backfill = is_backfill(batch)
            async for delivery in self._bulk_sender.deliver(good, permits, backfill=backfill):
                yield delivery
            return
        sending = in_single_requests(self._send_single(seq, body) for seq, body in good)
        async with aclosing(sending):
            async for delivery in sending:
                yield delivery

    def _encode(
        self, batch: Sequence[Out], ids: set[_Id], *, bulk: bool
    ) -> tuple[list[Encoded], list[Outcome]]:
        """What can be sent, and a dead letter for each event that Klaviyo would refuse, with the
        limit that it breaks. `ids`: of the events of this request so far."""
        now = self._clock.now()
        encode = event_body.item if bulk else event_body.single
        good: list[Encoded] = []
        refused: list[Outcome] = []
        for out in batch:
            entry, message = out.entry, out.message
            is_late = (
                self._late_after_ms is not None and now - message.occurred_at > self._late_after_ms
            )
            try:
                body = encode(message, backfill=entry.backfill or is_late)
            except TypeError as error:
                # The encoder gives up at values that Klaviyo would refuse as too deep.
                unencodable = Fault(Problem.MAPPING_FAILED, f"not JSON: {error}")
                found = event_body.validate_values(message) or unencodable
                refused.append(Dead(entry.seq, found.problem, found.detail))
                continue
            if fault := event_body.validate(message, body, now):
                refused.append(Dead(entry.seq, fault.problem, fault.detail))
                continue
            identity = message.identity.get("email") or repr(sorted(message.identity.items()))
            key = (identity, message.metric, message.unique_id)
            if key in ids:
                refused.append(
                    Ambiguous(
                        entry.seq,
                        Problem.UNIQUE_ID,
                        detail="the same event is in this batch already",
                    )
                )
                continue
            ids.add(key)
            good.append((entry.seq, body))
        return good, refused

    async def _send_single(self, seq: int, body: bytes) -> Delivery:
        sent = await self._api.post(CREATE_EVENT, body)
        if sent.error is None:
            return accepted([seq], sent)
        return failed([seq], sent.error, [sent.request])

    def preview(self, out: Out) -> tuple[str, bytes]:
        [(_, body)], _ = self._encode([out], set(), bulk=False)
        return CREATE_EVENT, body
