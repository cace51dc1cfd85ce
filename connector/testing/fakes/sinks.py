"""A remote side that answers as a test says."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

from connector.domain.attention import Check
from connector.domain.errors import Problem, Scope
from connector.domain.outcomes import (
    Accepted,
    Ambiguous,
    Dead,
    Delivery,
    Outcome,
    Request,
    Retry,
    Stop,
    Unsent,
)
from connector.domain.records import Entry
from connector.ports import BatchMode, Grant, Outgoing, Quota

M = TypeVar("M")

Step: TypeAlias = Callable[[Entry], Outcome | Stop]
"""What one request makes of an entry in it. A Stop leaves the entry unsent; what a step raises is
raised by the sink."""


def accept(entry: Entry) -> Outcome:
    return Accepted(entry.seq, f"request-{entry.seq}")


def retry(problem: Problem = Problem.KLAVIYO_UNAVAILABLE, after: float = 0.0) -> Step:
    return lambda entry: Retry(entry.seq, problem, after)


def ambiguous(problem: Problem = Problem.TIMED_OUT) -> Step:
    return lambda entry: Ambiguous(entry.seq, problem)


def dead_letter(problem: Problem = Problem.KLAVIYO_REFUSED) -> Step:
    return lambda entry: Dead(entry.seq, problem)


def block(scope: Scope, problem: Problem) -> Step:
    return lambda entry: Stop(scope, problem, "by a test")


def fail(error: Exception) -> Step:
    def step(entry: Entry) -> Outcome:
        raise error

    return step


class FakeQuota:
    """connector.ports.Quota that grants what is `left` (None: everything)."""

    def __init__(self, left: int | None = None, wait: float = 1.0) -> None:
        self.left = left
        self.wait = wait

    def reserve(self, endpoint: str, want: int, *, backfill: bool = False) -> Grant:
        count = want if self.left is None else min(want, self.left)
        if self.left is not None:
            self.left -= count
        return Grant(count, 0.0 if count else self.wait)

    def release(self, endpoint: str, grant: Grant, unused: int) -> None:
        if self.left is not None:
            self.left += unused


@dataclass(frozen=True, slots=True)
class SentRequest:
    """One request as it was sent."""

    ids: tuple[str, ...]
    entries: tuple[Entry, ...]
    messages: tuple[object, ...]
    bulk: bool


class ScriptedSink(Generic[M]):
    """connector.ports.Sink. Each request takes the next of `script`, else `default_step`.

    While `open` is cleared, requests have been sent and wait for their answers; those to come in a
    bulk delivery have not. `sent` holds every request in the order in which it was sent. `checks`
    is what `check` returns (an exception is raised). `override` replaces `deliver`.
    """

    def __init__(
        self,
        *,
        single: BatchMode | None = None,
        bulk: BatchMode | None = None,
        quota: Quota | None = None,
    ) -> None:
        self._single = single or BatchMode("single", size=1, parallel=4)
        self._bulk = bulk
        self._quota = quota or FakeQuota()
        self.script: deque[Step] = deque()
        self.default_step: Step = accept
        self.open = asyncio.Event()
        self.open.set()
        self.sent: list[SentRequest] = []
        self.checks: Sequence[Check] | Exception = [Check("remote side", "ok")]
        self.override: Callable[[Sequence[Entry]], AsyncIterator[Delivery]] | None = None

    @property
    def single(self) -> BatchMode:
        return self._single

    @property
    def bulk(self) -> BatchMode | None:
        return self._bulk

    @property
    def quota(self) -> Quota:
        return self._quota

    def respond_with(self, *steps: Step) -> None:
        """The answers to the next requests, in this order."""
        self.script.extend(steps)

    @property
    def ids(self) -> list[str]:
        """Every unique id that was sent, as often as it was sent."""
        return [id for request in self.sent for id in request.ids]

    async def deliver(
        self, batch: Sequence[Outgoing[M]], *, bulk: bool, permits: int
    ) -> AsyncIterator[Delivery]:
        if self.override:
            async for delivery in self.override([out.entry for out in batch]):
                yield delivery
            return
        size = self._bulk.size if bulk and self._bulk else self._single.size
        if bulk:
            for part in _parts(batch, size):
                yield await self._answer(part, bulk, self._send(part, bulk))
            return
        parts = list(_parts(batch, size))
        left = [self._send(part, bulk) for part in parts]
        for part, step in zip(parts, left, strict=True):
            yield await self._answer(part, bulk, step)

    def _send(self, part: Sequence[Outgoing[M]], bulk: bool) -> Step:
        self.sent.append(
            SentRequest(
                tuple(out.entry.unique_id for out in part),
                tuple(out.entry for out in part),
                tuple(out.message for out in part),
                bulk,
            )
        )
        return self.script.popleft() if self.script else self.default_step

    async def _answer(self, part: Sequence[Outgoing[M]], bulk: bool, step: Step) -> Delivery:
        await self.open.wait()
        outcomes: list[Outcome] = []
        stop: Stop | None = None
        for out in part:
            answer = step(out.entry)
            if isinstance(answer, Stop):
                stop, answer = answer, Unsent(out.entry.seq)
            outcomes.append(answer)
        first = part[0].entry
        endpoint = (self._bulk or self._single).endpoint if bulk else self._single.endpoint
        id = f"request-{first.seq}-{first.attempts}"
        return Delivery(outcomes, [Request(id, endpoint, first.received_at, 202, 1)], stop)

    def resumed(self) -> None: ...

    def preview(self, out: Outgoing[M]) -> tuple[str, bytes]:
        return self._single.endpoint, repr(out.message).encode()

    async def check(self) -> Sequence[Check]:
        if isinstance(self.checks, Exception):
            raise self.checks
        return self.checks


def _parts(batch: Sequence[Outgoing[M]], size: int) -> Iterator[Sequence[Outgoing[M]]]:
    for start in range(0, len(batch), size):
        yield batch[start : start + size]
