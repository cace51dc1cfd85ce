"""Events to Klaviyo: one by one where a repeat must be harmless, else by the thousand.

Singly, Klaviyo drops a repeated (profile, metric, unique_id) silently. In bulk a repeat inside one
request fails the whole request, and what a repeat of an earlier request does is not published
(docs/unverified.md): so whatever may have been applied goes singly.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from connector.adapters.klaviyo.api import KlaviyoApi, Sent
from connector.adapters.klaviyo.limits import BULK_EVENTS, BULK_EVENTS_MAX, CREATE_EVENT
from connector.adapters.klaviyo.sink import event_body
from connector.errors import Blocked, DeliveryError, Problem, Rejected, Wait
from connector.model import (
    Accepted,
    Check,
    Dead,
    Delivery,
    Doubt,
    EventMessage,
    Outcome,
    Retry,
    Stop,
    Unsent,
)
from connector.ports import Clock, Mode, Outgoing, Quota

Out = Outgoing[EventMessage]
Encoded = tuple[int, bytes]


class EventSink:
    """connector.ports.Sink of events. `late_after` in seconds (None: never): an event that is
    older when it is delivered is recorded with `backfill`, so that it starts no flow."""

    single = Mode(CREATE_EVENT, size=1, parallel=16)
    bulk: Mode | None = Mode(BULK_EVENTS, size=BULK_EVENTS_MAX, parallel=2)

    def __init__(self, api: KlaviyoApi, clock: Clock, *, late_after: float | None) -> None:
        self._api = api
        self._clock = clock
        self._late = None if late_after is None else round(late_after * 1000)

    @property
    def quota(self) -> Quota:
        return self._api.governor

    async def deliver(
        self, batch: Sequence[Out], *, bulk: bool, permits: int
    ) -> AsyncIterator[Delivery]:
        good, refused = self._encode(batch, bulk)
        if refused:
            yield Delivery(refused)
        if bulk:
            async for delivery in self._in_bulk(good, permits):
                yield delivery
            return
        tasks = [asyncio.create_task(self._singly(seq, body)) for seq, body in good]
        try:
            for done in asyncio.as_completed(tasks):
                yield await done
        finally:
            for task in tasks:
                task.cancel()

    def _encode(self, batch: Sequence[Out], bulk: bool) -> tuple[list[Encoded], list[Outcome]]:
        """What can be sent, and what Klaviyo would refuse, each dead with the limit it breaks."""
        now = self._clock.now()
        encode = event_body.item if bulk else event_body.single
        good: list[Encoded] = []
        refused: list[Outcome] = []
        ids: set[tuple[str, str, str]] = set()
        for out in batch:
            entry, message = out.entry, out.message
            late = self._late is not None and now - message.occurred_at > self._late
            try:
                body = encode(message, backfill=entry.backfill or late)
            except TypeError as error:
                refused.append(Dead(entry.seq, Problem.MAPPING_FAILED, f"not JSON: {error}"))
                continue
            if fault := event_body.fault_of(message, body, now):
                refused.append(Dead(entry.seq, fault.problem, fault.detail))
                continue
            identity = message.identity.get("email") or repr(sorted(message.identity.items()))
            key = (identity, message.metric, message.unique_id)
            if key in ids:
                refused.append(
                    Doubt(entry.seq, Problem.UNIQUE_ID, detail="its twin is in the same batch")
                )
                continue
            ids.add(key)
            good.append((entry.seq, body))
        return good, refused

    async def _singly(self, seq: int, body: bytes) -> Delivery:
        sent = await self._api.post(CREATE_EVENT, body)
        if sent.error is None:
            return Delivery([Accepted(seq, sent.request.id)], [sent.request])
        if isinstance(sent.error, Rejected):
            return Delivery([_dead(seq, sent)], [sent.request])
        return _failed([seq], sent, sent.error)

    async def _in_bulk(self, good: list[Encoded], permits: int) -> AsyncIterator[Delivery]:
        """As many requests as there are permits; what does not fit waits for the next claim."""
        rest, halted = good, False
        for _ in range(permits):
            batch, rest = _cut(rest)
            if not batch:
                break
            async for delivery in self._request(batch, permitted=True):
                yield delivery
                halted |= _halts(delivery)
            if halted:
                break
        if rest:
            yield Delivery([Unsent(seq) for seq, _ in rest])

    async def _request(self, batch: list[Encoded], *, permitted: bool) -> AsyncIterator[Delivery]:
        """One request; what Klaviyo names as bad is taken out and the rest sent at once, and
        where it names none the batch is halved until the bad ones stand alone. Once the far end
        refuses all or says to wait, nothing more is sent."""
        if not permitted:
            await self._api.permit(BULK_EVENTS)
        sent = await self._api.post(BULK_EVENTS, event_body.bulk([body for _, body in batch]))
        if sent.error is None:
            yield Delivery([Accepted(seq, sent.request.id) for seq, _ in batch], [sent.request])
            return
        if not isinstance(sent.error, Rejected):
            yield _failed([seq for seq, _ in batch], sent, sent.error)
            return
        named = _named(sent.error, len(batch))
        if len(batch) == 1:
            named = {0: sent.error.pointers[0][1] if sent.error.pointers else ""}
        dead: list[Outcome] = [
            Dead(batch[i][0], sent.error.problem, why, sent.request.id) for i, why in named.items()
        ]
        yield Delivery(dead, [sent.request])
        rest = [item for i, item in enumerate(batch) if i not in named]
        half = len(rest) if named else len(rest) // 2
        halted = False
        for part in (rest[:half], rest[half:]):
            if part and halted:
                yield Delivery([Unsent(seq) for seq, _ in part])
            elif part:
                async for delivery in self._request(part, permitted=False):
                    yield delivery
                    halted |= _halts(delivery)

    def preview(self, out: Out) -> tuple[str, bytes]:
        [(_, body)], _ = self._encode([out], bulk=False)
        return CREATE_EVENT, body

    async def check(self) -> Sequence[Check]:
        what = "Klaviyo key"
        try:
            account = await self._api.account()
        except DeliveryError as error:
            if isinstance(error, Blocked) and error.problem is Problem.KLAVIYO_SCOPE:
                lacks = "accounts:read is missing: the account cannot be told apart by its id"
                return [Check(what, "warning", lacks, error.problem)]
            return [Check(what, "fault", error.detail, error.problem)]
        return [Check(what, "ok", f"account {account.id} {account.name}".strip())]


def _cut(items: list[Encoded]) -> tuple[list[Encoded], list[Encoded]]:
    """The longest start that one request takes."""
    size = -1
    for index, (_, body) in enumerate(items[:BULK_EVENTS_MAX]):
        size += len(body) + 1
        if size > event_body.BULK_ROOM:
            return items[:index], items[index:]
    return items[:BULK_EVENTS_MAX], items[BULK_EVENTS_MAX:]


def _halts(delivery: Delivery) -> bool:
    return delivery.stop is not None or any(isinstance(o, Retry) for o in delivery.outcomes)


def _named(error: Rejected, count: int) -> dict[int, str]:
    """Index in the request → why, for every item that a pointer names."""
    named: dict[int, str] = {}
    for pointer, why in error.pointers:
        if pointer.startswith(event_body.ITEM_POINTER):
            index, _, inner = pointer[len(event_body.ITEM_POINTER) :].partition("/")
            if index.isdecimal() and int(index) < count:
                named.setdefault(int(index), f"{why} at /{inner}")
    return named


def _dead(seq: int, sent: Sent) -> Dead:
    error = sent.error
    assert isinstance(error, Rejected)
    where = "; ".join(f"{why} at {pointer}" for pointer, why in error.pointers[:3])
    return Dead(seq, error.problem, where or error.detail, sent.request.id)


def _failed(seqs: list[int], sent: Sent, error: DeliveryError) -> Delivery:
    """Everything that is about the far end and not about a record."""
    outcomes: list[Outcome]
    if isinstance(error, Blocked):
        stop = Stop(error.scope, error.problem, error.detail)
        return Delivery([Unsent(seq) for seq in seqs], [sent.request], stop)
    if isinstance(error, Wait):
        outcomes = [Retry(seq, error.problem, error.after, error.detail) for seq in seqs]
    else:
        request = sent.request.id
        outcomes = [Doubt(seq, error.problem, 0.0, error.detail, request) for seq in seqs]
    return Delivery(outcomes, [sent.request])
