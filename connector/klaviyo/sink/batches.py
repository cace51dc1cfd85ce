"""Many items in one request to Klaviyo, and what to do when it refuses some of them.

Klaviyo validates a bulk request as a whole: one bad item, and nothing is taken. What its error
pointers name is taken out and the rest sent at once; where they name none, the batch is halved
until the bad ones stand alone. One bad record never delays or sinks another.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from connector.domain.errors import Blocked, DeliveryError, Rejected, Wait
from connector.domain.outcomes import (
    Dead,
    Delivery,
    Doubt,
    Outcome,
    Pending,
    Request,
    Retry,
    Stop,
    Unsent,
)
from connector.klaviyo.api import KlaviyoApi, Sent
from connector.klaviyo.limits import BODY_MAX

Encoded = tuple[int, bytes]


@dataclass(frozen=True, slots=True)
class Envelope:
    """A bulk endpoint: what stands around the items, and how a pointer to one of them begins."""

    endpoint: str
    most: int
    head: bytes
    tail: bytes
    pointer: str

    @property
    def room(self) -> int:
        """Bytes for the items and the commas between them."""
        return BODY_MAX - len(self.head) - len(self.tail)

    def body(self, items: Sequence[bytes]) -> bytes:
        return self.head + b",".join(items) + self.tail

    def cut(self, items: list[Encoded]) -> tuple[list[Encoded], list[Encoded]]:
        """The longest start that one request takes, and the rest."""
        size = -1
        for index, (_, body) in enumerate(items[: self.most]):
            size += len(body) + 1
            if size > self.room:
                return items[:index], items[index:]
        return items[: self.most], items[self.most :]

    def named(self, error: Rejected, count: int) -> dict[int, str]:
        """Index in the request → why, for every item that a pointer names."""
        named: dict[int, str] = {}
        for pointer, why in error.pointers:
            if pointer.startswith(self.pointer):
                index, _, inner = pointer[len(self.pointer) :].partition("/")
                if index.isdecimal() and int(index) < count:
                    named.setdefault(int(index), f"{why} at /{inner}")
        return named


Taken = Callable[[Sequence[int], Sent], Delivery]
Lost = Callable[[Sequence[int], Sent], Delivery]


class Batches:
    """Sends encoded items to one bulk endpoint. `taken` makes a Delivery of a request that was
    taken, `lost` of one of which nobody knows what became."""

    def __init__(self, api: KlaviyoApi, envelope: Envelope, taken: Taken, lost: Lost) -> None:
        self._api = api
        self._envelope = envelope
        self._taken = taken
        self._lost = lost

    async def deliver(self, items: list[Encoded], permits: int) -> AsyncIterator[Delivery]:
        """As many requests as there are permits; what does not fit waits for the next claim."""
        rest, halted = items, False
        for _ in range(permits):
            batch, rest = self._envelope.cut(rest)
            if not batch or halted:
                rest = batch + rest
                break
            async for delivery in self._request(batch, permitted=True):
                yield delivery
                halted |= _halts(delivery)
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
            yield self._answer([seq for seq, _ in batch], sent)
            return
        named = self._envelope.named(sent.error, len(batch))
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

    def _answer(self, seqs: Sequence[int], sent: Sent) -> Delivery:
        if sent.error is None:
            return self._taken(seqs, sent)
        return not_applied(seqs, sent.error, sent.request) or self._lost(seqs, sent)


def not_applied(seqs: Sequence[int], error: DeliveryError, *requests: Request) -> Delivery | None:
    """What is about the far end and not about a record, where surely nothing was applied."""
    if isinstance(error, Blocked):
        stop = Stop(error.scope, error.problem, error.detail)
        return Delivery([Unsent(seq) for seq in seqs], requests, stop)
    if isinstance(error, Wait):
        waits = [Retry(seq, error.problem, error.after, error.detail) for seq in seqs]
        return Delivery(waits, requests)
    return None


def doubted(seqs: Sequence[int], sent: Sent) -> Delivery:
    """It may have been applied: every entry goes singly from now on."""
    error = sent.error
    assert error is not None
    request = sent.request.id
    return Delivery(
        [Doubt(seq, error.problem, 0.0, error.detail, request) for seq in seqs], [sent.request]
    )


def id_of(sent: Sent) -> str | None:
    """Klaviyo's id of what an answer is about."""
    try:
        data = sent.answer.json()["data"] if sent.answer else {}
        return str(data["id"]) if data.get("id") else None
    except (DeliveryError, KeyError, TypeError, AttributeError):
        return None


def queued(seqs: Sequence[int], sent: Sent) -> Delivery:
    """202: the job's id is the receipt. An empty id has been seen (docs/unverified.md): then a
    job exists that nobody can ask for."""
    job = id_of(sent) or ""
    return Delivery(
        [Pending(seq, job, place, sent.request.id) for place, seq in enumerate(seqs)],
        [sent.request],
    )


def maybe_queued(seqs: Sequence[int], sent: Sent) -> Delivery:
    """No readable answer: a job may exist."""
    return Delivery(
        [Pending(seq, "", place, sent.request.id) for place, seq in enumerate(seqs)],
        [sent.request],
    )


def refused(seq: int, sent: Sent) -> Delivery:
    """The far end will not take this one as it is."""
    error = sent.error
    assert isinstance(error, Rejected)
    where = "; ".join(f"{why} at {pointer}" for pointer, why in error.pointers[:3])
    dead = Dead(seq, error.problem, where or error.detail, sent.request.id)
    return Delivery([dead], [sent.request])


def _halts(delivery: Delivery) -> bool:
    return delivery.stop is not None or any(isinstance(o, Retry) for o in delivery.outcomes)
