"""Many items in one request to Klaviyo, and what to do when it refuses some of them.

Klaviyo validates a bulk request as a whole: one bad item, and nothing is taken. What its error
pointers name is taken out and the rest sent at once; where they name none, the batch is halved
until the bad ones stand alone. One bad record never delays or sinks another.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from connector.domain.errors import Blocked, DeliveryError, Rejected, RetryLater
from connector.domain.outcomes import (
    Ambiguous,
    Dead,
    Delivery,
    Outcome,
    Pending,
    Request,
    Retry,
    Stop,
    Unsent,
)
from connector.klaviyo.api import KlaviyoApi, SentRequest
from connector.klaviyo.limits import BODY_MAX

Encoded = tuple[int, bytes]


@dataclass(frozen=True, slots=True)
class Envelope:
    """A bulk endpoint: what stands around the items, and how a pointer to one of them begins."""

    endpoint: str
    max_items: int
    head: bytes
    tail: bytes
    pointer: str

    @property
    def max_bytes(self) -> int:
        """Bytes for the items and the commas between them."""
        return BODY_MAX - len(self.head) - len(self.tail)

    def body(self, items: Sequence[bytes]) -> bytes:
        return self.head + b",".join(items) + self.tail

    def split_off(self, items: list[Encoded]) -> tuple[list[Encoded], list[Encoded]]:
        """The longest start that one request takes, and the rest."""
        size = -1
        for index, (_, body) in enumerate(items[: self.max_items]):
            size += len(body) + 1
            if size > self.max_bytes:
                return items[:index], items[index:]
        return items[: self.max_items], items[self.max_items :]

    def errors_by_index(self, error: Rejected, count: int) -> dict[int, str]:
        """Index in the request → why, for every item that a pointer names."""
        errors_by_index: dict[int, str] = {}
        for pointer, reason in error.pointers:
            if pointer.startswith(self.pointer):
                index, _, inner = pointer[len(self.pointer) :].partition("/")
                if index.isdecimal() and int(index) < count:
                    errors_by_index.setdefault(int(index), f"{reason} at /{inner}")
        return errors_by_index


OnAccepted = Callable[[Sequence[int], SentRequest], Delivery]
OnAmbiguous = Callable[[Sequence[int], SentRequest], Delivery]


class BulkSender:
    """Sends encoded items to one bulk endpoint. `taken` makes a Delivery of a request that was
    taken, `lost` of one of which nobody knows what became."""

    def __init__(
        self,
        api: KlaviyoApi,
        envelope: Envelope,
        on_accepted: OnAccepted,
        on_ambiguous: OnAmbiguous,
    ) -> None:
        self._api = api
        self._envelope = envelope
        self._on_accepted = on_accepted
        self._on_ambiguous = on_ambiguous

    async def deliver(self, items: list[Encoded], permits: int) -> AsyncIterator[Delivery]:
        """As many requests as there are permits; what does not fit waits for the next claim."""
        rest, stopped = items, False
        for _ in range(permits):
            batch, rest = self._envelope.split_off(rest)
            if not batch or stopped:
                rest = batch + rest
                break
            async for delivery in self._request(batch, permitted=True):
                yield delivery
                stopped |= _stops_sending(delivery)
        if rest:
            yield Delivery([Unsent(seq) for seq, _ in rest])

    async def _request(self, batch: list[Encoded], *, permitted: bool) -> AsyncIterator[Delivery]:
        """One request and, where Klaviyo refuses some of it, those that follow. Once the far end
        refuses all or says to wait, nothing more is sent."""
        if not permitted:
            await self._api.permit(self._envelope.endpoint)
        body = self._envelope.body([item for _, item in batch])
        sent = await self._api.post(self._envelope.endpoint, body)
        if not isinstance(sent.error, Rejected):
            yield self._delivery_for([seq for seq, _ in batch], sent)
            return
        errors_by_index = self._envelope.errors_by_index(sent.error, len(batch))
        if len(batch) == 1:
            errors_by_index = {0: sent.error.pointers[0][1] if sent.error.pointers else ""}
        dead: list[Outcome] = [
            Dead(batch[i][0], sent.error.problem, reason, sent.request.id)
            for i, reason in errors_by_index.items()
        ]
        yield Delivery(dead, [sent.request])
        rest = [item for i, item in enumerate(batch) if i not in errors_by_index]
        half = len(rest) if errors_by_index else len(rest) // 2
        stopped = False
        for part in (rest[:half], rest[half:]):
            if part and stopped:
                yield Delivery([Unsent(seq) for seq, _ in part])
            elif part:
                async for delivery in self._request(part, permitted=False):
                    yield delivery
                    stopped |= _stops_sending(delivery)

    def _delivery_for(self, seqs: Sequence[int], sent: SentRequest) -> Delivery:
        if sent.error is None:
            return self._on_accepted(seqs, sent)
        return not_applied(seqs, sent.error, sent.request) or self._on_ambiguous(seqs, sent)


def not_applied(seqs: Sequence[int], error: DeliveryError, *requests: Request) -> Delivery | None:
    """What is about the far end and not about a record, where surely nothing was applied."""
    if isinstance(error, Blocked):
        stop = Stop(error.scope, error.problem, error.detail)
        return Delivery([Unsent(seq) for seq in seqs], requests, stop)
    if isinstance(error, RetryLater):
        retries = [Retry(seq, error.problem, error.after, error.detail) for seq in seqs]
        return Delivery(retries, requests)
    return None


def ambiguous(seqs: Sequence[int], sent: SentRequest) -> Delivery:
    """It may have been applied: every entry goes singly from now on."""
    error = sent.error
    assert error is not None
    request = sent.request.id
    return Delivery(
        [Ambiguous(seq, error.problem, 0.0, error.detail, request) for seq in seqs], [sent.request]
    )


def response_id(sent: SentRequest) -> str | None:
    """Klaviyo's id of what an answer is about."""
    try:
        data = sent.answer.json()["data"] if sent.answer else {}
        return str(data["id"]) if data.get("id") else None
    except (DeliveryError, KeyError, TypeError, AttributeError):
        return None


def queued(seqs: Sequence[int], sent: SentRequest) -> Delivery:
    """202: the job's id is the receipt. An empty id has been seen (docs/unverified.md): then a
    job exists that nobody can ask for."""
    job = response_id(sent) or ""
    return Delivery(
        [Pending(seq, job, position, sent.request.id) for position, seq in enumerate(seqs)],
        [sent.request],
    )


def maybe_queued(seqs: Sequence[int], sent: SentRequest) -> Delivery:
    """No readable answer: a job may exist."""
    return Delivery(
        [Pending(seq, "", position, sent.request.id) for position, seq in enumerate(seqs)],
        [sent.request],
    )


def refused(seq: int, sent: SentRequest) -> Delivery:
    """The far end will not take this one as it is."""
    error = sent.error
    assert isinstance(error, Rejected)
    where = "; ".join(f"{reason} at {pointer}" for pointer, reason in error.pointers[:3])
    dead = Dead(seq, error.problem, where or error.detail, sent.request.id)
    return Delivery([dead], [sent.request])


def _stops_sending(delivery: Delivery) -> bool:
    return delivery.stop is not None or any(isinstance(o, Retry) for o in delivery.outcomes)
