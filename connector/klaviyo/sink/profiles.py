"""Profiles to Klaviyo: one by one, or by the ten thousand as import jobs.

Singly a write can unset and is confirmed by its answer. The import job takes many but can only
set, and only its receipt says what became of each (`jobs.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

from connector.domain import profile_state
from connector.domain.attention import Check
from connector.domain.errors import Blocked, DeliveryError, Rejected
from connector.domain.outcomes import Accepted, Dead, Delivery, Outcome, Request, Retry
from connector.domain.profiles import ProfileWrite
from connector.klaviyo.api import KlaviyoApi, SentRequest
from connector.klaviyo.limits import BULK_PROFILES, PATCH_PROFILE, UPSERT_PROFILE
from connector.klaviyo.sink import batches, profile_body
from connector.klaviyo.sink.batches import BulkSender, Encoded
from connector.ports import BatchMode, Outgoing, Quota

Out = Outgoing[ProfileWrite]


class ProfileSink:
    """connector.ports.Sink of profile writes."""

    single = BatchMode(UPSERT_PROFILE, size=1, parallel=8)
    bulk: BatchMode | None = BatchMode(BULK_PROFILES, size=10_000, parallel=1)

    def __init__(self, api: KlaviyoApi) -> None:
        self._api = api
        self._bulk_sender = BulkSender(
            api, profile_body.ENVELOPE, batches.queued, batches.maybe_queued
        )

    @property
    def quota(self) -> Quota:
        return self._api.governor

    async def deliver(
        self, batch: Sequence[Out], *, bulk: bool, permits: int
    ) -> AsyncIterator[Delivery]:
        if bulk:
            good, refused = _encode(batch)
            if refused:
                yield Delivery(refused)
            async for delivery in self._bulk_sender.deliver(good, permits):
                yield delivery
            return
        tasks = [
            asyncio.create_task(self._send_single(out.entry.seq, out.message)) for out in batch
        ]
        try:
            for done in asyncio.as_completed(tasks):
                yield await done
        finally:
            for task in tasks:
                task.cancel()

    # ── one profile ──────────────────────────────────────────────────────────────────────────────

    async def _send_single(self, seq: int, write: ProfileWrite) -> Delivery:
        if write.is_cleanup or write.pending_move:
            return await self._write_to_former_address(seq, write)
        body = profile_body.upsert(write)
        if fault := profile_body.validate(body):
            return Delivery([Dead(seq, fault.problem, fault.detail)])
        sent = await self._api.post(UPSERT_PROFILE, body)
        if isinstance(sent.error, Rejected) and sent.error.status == 409:
            return await self._resolve_conflict(seq, write, sent)
        return _delivery_for(seq, sent, [sent.request])

    async def _resolve_conflict(
        self, seq: int, write: ProfileWrite, refused: SentRequest
    ) -> Delivery:
        """409 duplicate_profile: the identifiers belong to several profiles. The address decides;
        where it is the address itself that Klaviyo stumbles over, its own answer says which
        profile is meant."""
        assert isinstance(refused.error, Rejected)
        requests = [refused.request]
        if len(write.identity) > 1 and "email" in write.identity:
            email_only = replace(write, identity={"email": write.identity["email"]})
            await self._api.permit(UPSERT_PROFILE)
            sent = await self._api.post(UPSERT_PROFILE, profile_body.upsert(email_only))
            requests.append(sent.request)
            if not (isinstance(sent.error, Rejected) and sent.error.status == 409):
                return _delivery_for(seq, sent, requests)
            refused = sent
        assert isinstance(refused.error, Rejected)
        duplicate_id = refused.error.meta.get("duplicate_profile_id")
        if not isinstance(duplicate_id, str) or not duplicate_id:
            return _with_requests(requests, batches.refused(seq, refused))
        sent = await self._patch(write, duplicate_id)
        return _delivery_for(seq, sent, [*requests, sent.request], ref=duplicate_id)

    async def _write_to_former_address(self, seq: int, write: ProfileWrite) -> Delivery:
        """Unset our fields at an address that is left, or give its profile the new address."""
        former = write.pending_move or write.identity
        try:
            id = write.profile_id if write.pending_move else None
            id = id or await self._api.profile_id(former["email"])
        except DeliveryError as error:
            return _lookup_failed(seq, error)
        if id is None:
            # Nobody has that address at Klaviyo: nothing to take away, nothing to move.
            if write.is_cleanup:
                return Delivery([Accepted(seq, "")])
            return await self._send_single(seq, replace(write, pending_move=None))
        sent = await self._patch(write, id)
        if isinstance(sent.error, Rejected) and sent.error.status == 409 and write.pending_move:
            return await self._resolve_taken_address(seq, write, id, sent)
        if isinstance(sent.error, Blocked) and sent.error.status == 404:
            if write.is_cleanup:
                return Delivery([Accepted(seq, sent.request.id)], [sent.request])
            return await self._send_single(seq, replace(write, pending_move=None, profile_id=None))
        return _delivery_for(seq, sent, [sent.request], ref=None if write.is_cleanup else id)

    async def _resolve_taken_address(
        self, seq: int, write: ProfileWrite, former: str, refused: SentRequest
    ) -> Delivery:
        """The new address has a profile already: that one gets our fields, the old one loses
        them. Two profiles are never merged by us, for a merge cannot be undone."""
        requests = [refused.request]
        sets, unsets = profile_state.split_unsets(dict.fromkeys([*write.sets, *write.unsets]))
        cleared = await self._patch(ProfileWrite({}, sets, unsets, is_cleanup=True), former)
        requests.append(cleared.request)
        if cleared.error is not None:
            # The address is still taken when all of this is tried again.
            return _delivery_for(seq, cleared, requests)
        await self._api.permit(UPSERT_PROFILE)
        sent = await self._api.post(
            UPSERT_PROFILE, profile_body.upsert(replace(write, pending_move=None))
        )
        return _delivery_for(seq, sent, [*requests, sent.request])

    async def _patch(self, write: ProfileWrite, id: str) -> SentRequest:
        await self._api.permit(PATCH_PROFILE)
        return await self._api.send(
            "PATCH", f"/api/profiles/{id}", PATCH_PROFILE, profile_body.update(write, id)
        )

    def resumed(self) -> None: ...

    def preview(self, out: Out) -> tuple[str, bytes]:
        return UPSERT_PROFILE, profile_body.upsert(out.message)

    async def check(self) -> Sequence[Check]:
        return await self._api.check()


def _encode(batch: Sequence[Out]) -> tuple[list[Encoded], list[Outcome]]:
    good: list[Encoded] = []
    refused: list[Outcome] = []
    for out in batch:
        body = profile_body.item(out.message)
        if fault := profile_body.validate(body):
            refused.append(Dead(out.entry.seq, fault.problem, fault.detail))
        else:
            good.append((out.entry.seq, body))
    return good, refused


def _delivery_for(
    seq: int, sent: SentRequest, requests: Sequence[Request], *, ref: str | None = None
) -> Delivery:
    if sent.error is None:
        return Delivery(
            [Accepted(seq, sent.request.id, ref or batches.response_id(sent))], requests
        )
    if isinstance(sent.error, Rejected):
        return _with_requests(requests, batches.refused(seq, sent))
    failed = batches.not_applied([seq], sent.error) or batches.ambiguous([seq], sent)
    return _with_requests(requests, failed)


def _with_requests(requests: Sequence[Request], delivery: Delivery) -> Delivery:
    return replace(delivery, requests=requests)


def _lookup_failed(seq: int, error: DeliveryError) -> Delivery:
    """A look-up before the write failed: nothing was written."""
    retry = Delivery([Retry(seq, error.problem, 0.0, error.detail)])
    return batches.not_applied([seq], error) or retry
