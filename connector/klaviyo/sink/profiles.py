"""Profiles to Klaviyo: one by one, or up to ten thousand in an import job.

A single write can unset fields and is confirmed by its answer. An import job takes many profiles
but only sets fields, and only its result says what became of each (`jobs.py`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing

from connector.domain.outcomes import Dead, Delivery, Outcome
from connector.domain.profiles import ProfileWrite
from connector.klaviyo.api import KlaviyoApi
from connector.klaviyo.limits import BULK_PROFILES, BULK_PROFILES_MAX, UPSERT_PROFILE
from connector.klaviyo.sink import profile_body
from connector.klaviyo.sink.import_requests import ImportItem, ImportRequests
from connector.klaviyo.sink.requests import IN_BATCHES, KlaviyoSink, is_backfill
from connector.klaviyo.sink.single_profile import SingleProfileWriter
from connector.ports import BatchMode, Outgoing
from connector.runtime.concurrency import in_turns
from connector.runtime.single_requests import in_single_requests

Out = Outgoing[ProfileWrite]


class ProfileSink(KlaviyoSink):
    """connector.ports.Sink of profile writes."""

    single = BatchMode(UPSERT_PROFILE, size=1, parallel=8)
    bulk: BatchMode | None = BatchMode(
        BULK_PROFILES,
        size=BULK_PROFILES_MAX,
        parallel=1,
        creates_jobs=IN_BATCHES,
    )

    def __init__(self, api: KlaviyoApi) -> None:
        super().__init__(api)
        self._imports = ImportRequests(api, profile_body.ENVELOPE)

    async def deliver(
        self, batch: Sequence[Out], *, bulk: bool, permits: int
    ) -> AsyncIterator[Delivery]:
        if bulk:
            good: list[ImportItem] = []
            refused: list[Outcome] = []
            async for part in in_turns(batch):
                encoded, faulty = _encode(part)
                good += encoded
                refused += faulty
            if refused:
                yield Delivery(refused)
            backfill = is_backfill(batch)
            async for delivery in self._imports.deliver(good, permits, backfill=backfill):
                yield delivery
            return
        sending = in_single_requests(
            SingleProfileWriter(self._api, backfill=out.entry.backfill).send(
                out.entry.seq, out.message
            )
            for out in batch
        )
        async with aclosing(sending):
            async for delivery in sending:
                yield delivery

    def preview(self, out: Out) -> tuple[str, bytes]:
        return UPSERT_PROFILE, profile_body.upsert(out.message)


def _encode(batch: Sequence[Out]) -> tuple[list[ImportItem], list[Outcome]]:
    good: list[ImportItem] = []
    refused: list[Outcome] = []
    for out in batch:
        body = profile_body.item(out.message)
        if fault := profile_body.validate(body):
            refused.append(Dead(out.entry.seq, fault.problem, fault.detail))
        else:
            good.append((out.message.lost_jobs, (out.entry.seq, body)))
    return good, refused
