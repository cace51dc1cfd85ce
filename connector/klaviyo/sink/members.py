"""Who is on a list: joins by import jobs, leaves by ids.

A join needs no id and one request for ten thousand people, be they few or new to Klaviyo: so all
joins go that way, and only an import's receipt confirms them. It carries the address and nothing
else: fields belong to the lane of profiles, and being on a list is no consent (promise 7). A leave
needs ids: those that the list's read-back has shown, else they are looked up, a hundred a page.

Shapes: Klaviyo's reference of `bulk_import_profiles` and `remove_profiles_from_list`, revision
2026-10-15.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from itertools import groupby

import orjson

from connector.domain.attention import Check
from connector.domain.errors import Blocked, DeliveryError, Problem, Rejected
from connector.domain.memberships import MembershipWrite
from connector.domain.outcomes import Accepted, Delivery, Held, Retry
from connector.klaviyo.api import KlaviyoApi, SentRequest
from connector.klaviyo.groups import KlaviyoGroups
from connector.klaviyo.limits import (
    BULK_PROFILES,
    BULK_PROFILES_MAX,
    GET_LIST,
    MEMBERS_MAX,
    REMOVE_MEMBERS,
)
from connector.klaviyo.sink import batches, profile_body
from connector.klaviyo.sink.batches import BulkSender, Encoded, Envelope
from connector.ports import BatchMode, Outgoing, Quota

Out = Outgoing[MembershipWrite]
_MAX_REQUESTS = 10
"""Requests that a claim is cut into at most, where its people were in jobs that were lost."""


class MemberSink:
    """connector.ports.Sink of memberships. A claim is about one list, and all its people join or
    all leave: leaves are what the lane sends singly. `trust_ids`: an id that was read back still
    is the profile of its address, for nobody moves addresses."""

    single = BatchMode(REMOVE_MEMBERS, size=MEMBERS_MAX, parallel=1)
    bulk: BatchMode | None = BatchMode(BULK_PROFILES, size=BULK_PROFILES_MAX, parallel=1)

    def __init__(self, api: KlaviyoApi, *, trust_ids: bool) -> None:
        self._api = api
        self._groups = KlaviyoGroups(api)
        self._trust_ids = trust_ids

    @property
    def quota(self) -> Quota:
        return self._api.governor

    async def deliver(
        self, batch: Sequence[Out], *, bulk: bool, permits: int
    ) -> AsyncIterator[Delivery]:
        if not batch[0].message.joins:
            yield await self._remove(batch)
            return
        unused_permits = permits if bulk else 0
        ordered = sorted(batch, key=lambda out: out.message.lost_jobs)
        for split, outs in groupby(ordered, key=lambda out: out.message.lost_jobs):
            items = [(out.entry.seq, item(out.message)) for out in outs]
            envelope = envelope_for(batch[0].message.group, split)
            requests = min(_MAX_REQUESTS, -(-len(items) // envelope.max_items))
            for _ in range(requests - unused_permits):
                await self._api.permit(BULK_PROFILES)
            unused_permits = max(0, unused_permits - requests)
            async for delivery in self._join(envelope, items, requests, batch[0].message.group):
                yield delivery

    async def _join(
        self, envelope: Envelope, items: list[Encoded], requests: int, group: str
    ) -> AsyncIterator[Delivery]:
        sender = BulkSender(self._api, envelope, batches.queued, batches.maybe_queued)
        async for delivery in sender.deliver(items, requests):
            stop = delivery.stop
            if stop is not None and stop.scope == "target":
                gone = await self._check_target([o.seq for o in delivery.outcomes], group)
                yield replace(gone, requests=delivery.requests)
            else:
                yield delivery

    # ── leaves ───────────────────────────────────────────────────────────────────────────────────

    async def _remove(self, batch: Sequence[Out]) -> Delivery:
        known = {
            out.message.email: out.message.profile_id
            for out in batch
            if out.message.profile_id and self._trust_ids
        }
        unknown = [out.message.email for out in batch if out.message.email not in known]
        seqs = [out.entry.seq for out in batch]
        try:
            known |= await self._groups.ids(unknown)
            sent = await self._send(batch[0].message.group, list(known.values()))
            if sent and isinstance(sent.error, Rejected | Blocked) and _is_id_error(sent.error):
                return await self._retry_remaining(batch, sent)
        except DeliveryError as error:
            return batches.not_applied(seqs, error) or _retry_all(seqs, error)
        return _delivery_for(seqs, sent)

    async def _retry_remaining(self, batch: Sequence[Out], refused: SentRequest) -> Delivery:
        """The list is gone, or a profile is: then those that are left are asked for anew."""
        seqs, group = [out.entry.seq for out in batch], batch[0].message.group
        if not await self._exists(group):
            return replace(_target_gone(seqs), requests=[refused.request])
        ids = await self._groups.ids([out.message.email for out in batch])
        await self._api.permit(REMOVE_MEMBERS)
        sent = await self._send(group, list(ids.values()))
        retried = _delivery_for(seqs, sent)
        return replace(retried, requests=[refused.request, *retried.requests])

    async def _send(self, group: str, ids: Sequence[str]) -> SentRequest | None:
        """None where nobody of them has a profile, so nobody is on the list."""
        members = [{"type": "profile", "id": id} for id in dict.fromkeys(ids)]
        if not members:
            return None
        path = f"/api/lists/{group}/relationships/profiles"
        body = orjson.dumps({"data": members})
        return await self._api.send("DELETE", path, REMOVE_MEMBERS, body)

    # ── a list that is gone ──────────────────────────────────────────────────────────────────────

    async def _check_target(self, seqs: Sequence[int], group: str) -> Delivery:
        try:
            if not await self._exists(group):
                return _target_gone(seqs)
        except DeliveryError as error:
            return batches.not_applied(seqs, error) or _retry_all(seqs, error)
        return Delivery([Retry(seq, Problem.KLAVIYO_TARGET) for seq in seqs])

    async def _exists(self, group: str) -> bool:
        try:
            await self._api.get(GET_LIST, f"/api/lists/{group}")
        except Blocked as error:
            if error.status == 404:
                return False
            raise
        return True

    def resumed(self) -> None: ...

    def preview(self, out: Out) -> tuple[str, bytes]:
        write = out.message
        if write.joins:
            return BULK_PROFILES, envelope_for(write.group, 0).body([item(write)])
        member = {"type": "profile", "id": write.profile_id or write.email}
        return REMOVE_MEMBERS, orjson.dumps({"data": [member]})

    async def check(self) -> Sequence[Check]:
        return await self._api.check()


def item(write: MembershipWrite) -> bytes:
    """One of the profiles of an import: who he is, and nothing that is the profile lane's."""
    return orjson.dumps({"type": "profile", "attributes": {"email": write.email}})


def envelope_for(group: str, split: int) -> Envelope:
    """An import whose people join a list; a tenth as many for each job of theirs that was lost."""
    lists = orjson.dumps({"lists": {"data": [{"type": "list", "id": group}]}})
    return replace(
        profile_body.ENVELOPE,
        max_items=max(1, BULK_PROFILES_MAX // 10**split),
        tail=b']}},"relationships":' + lists + b"}}",
    )


def _is_id_error(error: DeliveryError) -> bool:
    """Malformed ids answer 400, unknown ones 404, as does a list that is gone."""
    return error.status in (400, 404)


def _delivery_for(seqs: Sequence[int], sent: SentRequest | None) -> Delivery:
    if sent is None:
        return Delivery([Accepted(seq, "") for seq in seqs])
    if sent.error is None:
        return Delivery([Accepted(seq, sent.request.id) for seq in seqs], [sent.request])
    if isinstance(sent.error, Rejected) or _is_id_error(sent.error):
        return replace(_retry_all(seqs, sent.error), requests=[sent.request])
    known = batches.not_applied(seqs, sent.error, sent.request)
    return known or batches.ambiguous(seqs, sent)


def _retry_all(seqs: Sequence[int], error: DeliveryError) -> Delivery:
    """Nothing was written."""
    return Delivery([Retry(seq, error.problem, 0.0, error.detail) for seq in seqs])


def _target_gone(seqs: Sequence[int]) -> Delivery:
    why = "the list is gone; `connector audiences sync` looks for it, or makes it, anew"
    return Delivery([Held(seq, Problem.KLAVIYO_TARGET, why) for seq in seqs])
