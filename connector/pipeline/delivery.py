"""One claim on its way: rendered, sent, and settled outcome by outcome."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Generic, TypeVar

from connector.domain.errors import Problem
from connector.domain.lanes import Lane
from connector.domain.outcomes import UNKNOWN_JOB, Ambiguous, Delivery, Outcome, Pending, Unsent
from connector.domain.records import Claim, Entry
from connector.pipeline.rendering import render_entries
from connector.ports import BatchMode, Lease, Outgoing, Renderer, Sink
from connector.runtime.concurrency import in_turns
from connector.runtime.metrics import Metrics

M = TypeVar("M")

Settle = Callable[[Claim, Delivery, Mapping[int, Entry]], Awaitable[None]]
"""Settles the outcomes of a claim. The mapping holds their entries by seq."""


class ClaimDelivery(Generic[M]):
    """Gives every entry of a claim exactly one outcome, whatever the renderer and the sink do: the
    first one counts. Once something may have been sent, an entry without one is ambiguous, or
    belongs to a job that the destination may run."""

    def __init__(
        self,
        lane: Lane,
        *,
        sink: Sink[M],
        renderer: Renderer[M],
        lease: Lease,
        metrics: Metrics,
        settle: Settle,
    ) -> None:
        self._lane = lane
        self._metrics = metrics
        self._sink = sink
        self._renderer = renderer
        self._lease = lease
        self._settle = settle

    async def run(self, claim: Claim, mode: BatchMode, permits: int) -> None:
        """`permits` requests of `mode` are reserved. Raises what the renderer or the sink raises,
        after every entry was settled."""
        open_entries = {entry.seq: entry for entry in claim.entries}
        maybe_sent = False
        try:
            messages: list[Outgoing[M]] = []
            outcomes: list[Outcome] = []
            async for entries in in_turns(claim.entries):
                await self._renderer.prepare(entries)
                rendered, refused = render_entries(self._renderer, entries)
                messages += rendered
                outcomes += refused
            if outcomes:
                await self._settle_open(claim, Delivery(outcomes), open_entries)
            if messages and self._lease.valid():
                maybe_sent = True
                await self._send(claim, messages, mode, permits, open_entries)
        finally:
            if open_entries:
                rest: list[Outcome] = [
                    _interrupted(claim, entry, mode) if maybe_sent else Unsent(entry.seq)
                    for entry in open_entries.values()
                ]
                bulk = mode == self._sink.bulk
                await self._settle_open(claim, Delivery(rest, bulk=bulk), open_entries)

    async def _send(
        self,
        claim: Claim,
        messages: list[Outgoing[M]],
        mode: BatchMode,
        permits: int,
        open_entries: dict[int, Entry],
    ) -> None:
        self._metrics.batch.labels(self._lane.destination, mode.endpoint).observe(
            len(messages) / permits
        )
        bulk = mode == self._sink.bulk
        deliveries = self._sink.deliver(messages, bulk=bulk, permits=permits)
        try:
            async for delivery in deliveries:
                await self._settle_open(claim, replace(delivery, bulk=bulk), open_entries)
                # Single requests have all been sent by now; in bulk the next one waits for us.
                if bulk and not self._lease.valid():
                    rest = [Unsent(seq) for seq in open_entries]
                    await self._settle_open(claim, Delivery(rest, bulk=bulk), open_entries)
                    return
        finally:
            if isinstance(deliveries, AsyncGenerator):
                await deliveries.aclose()

    async def _settle_open(
        self, claim: Claim, delivery: Delivery, open_entries: dict[int, Entry]
    ) -> None:
        outcomes: list[Outcome] = []
        entries: dict[int, Entry] = {}
        for outcome in delivery.outcomes:
            if entry := open_entries.pop(outcome.seq, None):
                entries[entry.seq] = entry
                outcomes.append(outcome)
        await self._settle(claim, replace(delivery, outcomes=outcomes), entries)


def _interrupted(claim: Claim, entry: Entry, mode: BatchMode) -> Outcome:
    """Of an entry that may have been sent. The jobs of several requests count as one that is
    unknown."""
    if entry.mode not in mode.creates_jobs:
        return Ambiguous(entry.seq, Problem.INTERRUPTED)
    return Pending(entry.seq, f"{UNKNOWN_JOB}{claim.token:x}", 0, None, Problem.INTERRUPTED)
