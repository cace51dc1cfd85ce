"""People sent in import jobs: those whose earlier jobs were lost in smaller ones, so that neither
one bad profile nor a size that Klaviyo cannot take makes the same people fail for ever."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from itertools import groupby
from operator import itemgetter

from connector.domain.outcomes import Delivery, Unsent
from connector.domain.profiles import job_size
from connector.klaviyo.api import KlaviyoApi
from connector.klaviyo.sink.batches import BulkSender, Encoded, Envelope, stops_sending
from connector.klaviyo.sink.requests import maybe_queued, queued

_MAX_REQUESTS = 10
"""Requests that the people of a claim whose jobs were lost equally often are split into at most."""

ImportItem = tuple[int, Encoded]
"""(how many jobs of the person were lost, the person)."""


class ImportRequests:
    """Sends import jobs with one envelope."""

    def __init__(self, api: KlaviyoApi, envelope: Envelope) -> None:
        self._api = api
        self._envelope = envelope

    async def deliver(
        self, items: Sequence[ImportItem], permits: int, *, backfill: bool
    ) -> AsyncIterator[Delivery]:
        """`permits` requests are reserved; further ones take quota as a `backfill` or as live
        traffic. What is not sent, because of the number of requests or after an answer that stops
        them, is unsent."""
        stopped = False
        for lost_jobs, group in groupby(sorted(items, key=itemgetter(0)), key=itemgetter(0)):
            people = [encoded for _, encoded in group]
            if stopped:
                yield Delivery([Unsent(seq) for seq, _ in people])
                continue
            size = job_size(self._envelope.max_items, lost_jobs)
            envelope = replace(self._envelope, max_items=size)
            requests = permits
            if lost_jobs or not permits:
                requests = max(permits, min(_MAX_REQUESTS, -(-len(people) // size)))
            sender = BulkSender(self._api, envelope, queued, maybe_queued)
            async for delivery in sender.deliver(
                people, permits, backfill=backfill, requests=requests
            ):
                yield delivery
                stopped |= stops_sending(delivery)
            permits = 0
