"""Many items in one request to Klaviyo, and what to do when it refuses some of them.

Klaviyo validates a bulk request as a whole: with one bad item it applies none. The items that its
error pointers name are removed and the rest is sent at once; where it names none, the batch is
halved until each bad item is alone. One bad record never delays another or makes it fail.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from connector.domain.errors import AmbiguousError, Problem, Rejected
from connector.domain.outcomes import (
    Ambiguous,
    Dead,
    Delivery,
    Outcome,
    Pending,
    Retry,
    Unsent,
)
from connector.klaviyo.api import KlaviyoApi, SentRequest
from connector.klaviyo.limits import BODY_MAX
from connector.klaviyo.sink.requests import failed

Encoded = tuple[int, bytes]


@dataclass(frozen=True, slots=True)
class ItemError:
    """Why an item was refused. `repeat`: for its key, as one that Klaviyo may have recorded before
    although it answered otherwise."""

    reason: str
    repeat: bool = False

    def outcome(self, seq: int, problem: Problem, request: str) -> Outcome:
        """A repeat goes singly, where Klaviyo drops it if it is one."""
        if self.repeat:
            return Ambiguous(seq, problem, detail=self.reason, request=request)
        return Dead(seq, problem, self.reason, request)


@dataclass(frozen=True, slots=True)
class Envelope:
    """A bulk endpoint: the JSON before and after the items, and the prefix of an error pointer to
    one of them. `key`: the field of an item by which Klaviyo recognises a repeat; empty: none."""

    endpoint: str
    max_items: int
    head: bytes
    tail: bytes
    pointer: str
    key: str = ""

    @property
    def max_bytes(self) -> int:
        """Bytes for the items and the commas between them."""
        return BODY_MAX - len(self.head) - len(self.tail)

    def body(self, items: Sequence[bytes]) -> bytes:
        return self.head + b",".join(items) + self.tail

    def split_off(self, items: list[Encoded]) -> tuple[list[Encoded], list[Encoded]]:
        """As many of the first items as fit into one request, and the rest."""
        size = -1
        for index, (_, body) in enumerate(items[: self.max_items]):
            size += len(body) + 1
            if size > self.max_bytes:
                return items[:index], items[index:]
        return items[: self.max_items], items[self.max_items :]

    def errors_by_index(self, error: Rejected, count: int) -> dict[int, ItemError]:
        """Index in the request → why, for every item that a pointer names."""
        errors_by_index: dict[int, ItemError] = {}
        for pointer, reason in error.pointers:
            if pointer.startswith(self.pointer):
                index, _, inner = pointer[len(self.pointer) :].partition("/")
                if index.isdecimal() and int(index) < count:
                    repeat = bool(self.key) and inner.rpartition("/")[2] == self.key
                    found = ItemError(f"{reason} at /{inner}", repeat)
                    errors_by_index.setdefault(int(index), found)
        return errors_by_index


ToDelivery = Callable[[Sequence[int], SentRequest], Delivery]


class BulkSender:
    """Sends encoded items to one bulk endpoint. `on_accepted` makes the Delivery of a request that
    was accepted, `on_ambiguous` of one that may have been (None: the records go singly)."""

    def __init__(
        self,
        api: KlaviyoApi,
        envelope: Envelope,
        on_accepted: ToDelivery,
        on_ambiguous: ToDelivery | None = None,
    ) -> None:
        self._api = api
        self._envelope = envelope
        self._on_accepted = on_accepted
        self._on_ambiguous = on_ambiguous

    async def deliver(
        self,
        items: list[Encoded],
        permits: int,
        *,
        backfill: bool,
        requests: int | None = None,
    ) -> AsyncIterator[Delivery]:
        """Send at most `requests`, by default one for each of the `permits` that are reserved;
        what does not fit is unsent. Further requests take quota as a `backfill` or as live
        traffic."""
        rest, stopped = items, False
        for number in range(permits if requests is None else requests):
            batch, rest = self._envelope.split_off(rest)
            if not batch or stopped:
                rest = batch + rest
                break
            async for delivery in self._request(batch, backfill, permitted=number < permits):
                yield delivery
                stopped |= stops_sending(delivery)
        if rest:
            yield Delivery([Unsent(seq) for seq, _ in rest])

    async def _request(
        self, batch: list[Encoded], backfill: bool, *, permitted: bool
    ) -> AsyncIterator[Delivery]:
        """Send one request and, where Klaviyo refuses some of its items, more. After an answer
        that stops the lane or says to wait nothing more is sent."""
        if not permitted:
            await self._api.permit(self._envelope.endpoint, backfill=backfill)
        body = self._envelope.body([item for _, item in batch])
        sent = await self._api.post(self._envelope.endpoint, body)
        if not isinstance(sent.error, Rejected):
            yield self._delivery_for([seq for seq, _ in batch], sent)
            return
        errors_by_index = self._envelope.errors_by_index(sent.error, len(batch))
        if len(batch) == 1 and not errors_by_index:
            errors_by_index = {
                0: ItemError(sent.error.pointers[0][1] if sent.error.pointers else "")
            }
        refused = [
            found.outcome(batch[i][0], sent.error.problem, sent.request.id)
            for i, found in errors_by_index.items()
        ]
        yield Delivery(refused, [sent.request])
        rest = [item for i, item in enumerate(batch) if i not in errors_by_index]
        half = len(rest) if errors_by_index else len(rest) // 2
        stopped = False
        for part in (rest[:half], rest[half:]):
            if part and stopped:
                yield Delivery([Unsent(seq) for seq, _ in part])
            elif part:
                async for delivery in self._request(part, backfill, permitted=False):
                    yield delivery
                    stopped |= stops_sending(delivery)

    def _delivery_for(self, seqs: Sequence[int], sent: SentRequest) -> Delivery:
        if sent.error is None:
            return self._on_accepted(seqs, sent)
        if self._on_ambiguous and isinstance(sent.error, AmbiguousError):
            return self._on_ambiguous(seqs, sent)
        return failed(seqs, sent.error, [sent.request])


def stops_sending(delivery: Delivery) -> bool:
    """Whether the answer stops the lane or says to wait, or that of an import job did not come."""
    return delivery.stop is not None or any(
        isinstance(o, Retry) or (isinstance(o, Pending) and o.problem) for o in delivery.outcomes
    )
