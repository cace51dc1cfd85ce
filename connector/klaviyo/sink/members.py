"""Members of a list: added by import jobs, removed by their profile ids.

An import job needs no ids and takes ten thousand people in one request, whether or not they are new
to Klaviyo. So every join is sent that way, and only the job's result confirms it. It carries the
address and nothing else: fields belong to the profile lane, and being on a list is not consent
(guarantee 7). A removal needs profile ids: those that the list's read-back has shown; the others
are looked up, a hundred a page.

Shapes: Klaviyo's reference of `bulk_import_profiles` and `remove_profiles_from_list`, revision
2026-10-15.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

import orjson

from connector.domain.errors import Blocked, DeliveryError, Problem, Rejected
from connector.domain.memberships import MembershipWrite
from connector.domain.outcomes import Accepted, Delivery, Held, Request, Retry
from connector.domain.settlement import LOOK_UP, Policy, delivery_for
from connector.klaviyo.api import KlaviyoApi, SentRequest
from connector.klaviyo.groups import KlaviyoGroups
from connector.klaviyo.limits import (
    BULK_PROFILES,
    BULK_PROFILES_MAX,
    GET_LIST,
    MEMBERS_MAX,
    REMOVE_MEMBERS,
)
from connector.klaviyo.sink import profile_body
from connector.klaviyo.sink.batches import Envelope
from connector.klaviyo.sink.import_requests import ImportRequests
from connector.klaviyo.sink.requests import IN_BATCHES, KlaviyoSink, accepted, is_backfill
from connector.ports import BatchMode, Outgoing

Out = Outgoing[MembershipWrite]
_REMOVAL = Policy(refusal_statuses=frozenset({404}), refusal="retry")
"""A removal that is refused is sent again with ids that are looked up again."""


class MemberSink(KlaviyoSink):
    """connector.ports.Sink of memberships. A claim is about one list, and either all its people
    join or all leave: removals are what the lane sends singly. `trust_ids`: a profile id that was
    read back still belongs to its address, because the connector moves no addresses."""

    # Joins are import jobs in either mode: a lane that is failing sends a few of them in the other.
    single = BatchMode(REMOVE_MEMBERS, size=MEMBERS_MAX, parallel=1, creates_jobs=IN_BATCHES)
    bulk: BatchMode | None = BatchMode(
        BULK_PROFILES,
        size=BULK_PROFILES_MAX,
        parallel=1,
        creates_jobs=IN_BATCHES,
    )

    def __init__(self, api: KlaviyoApi, *, trust_ids: bool) -> None:
        super().__init__(api)
        self._groups = KlaviyoGroups(api)
        self._trust_ids = trust_ids

    async def deliver(
        self, batch: Sequence[Out], *, bulk: bool, permits: int
    ) -> AsyncIterator[Delivery]:
        if not batch[0].message.joins:
            yield await self._remove(batch, is_backfill(batch))
            return
        group, backfill = batch[0].message.group, is_backfill(batch)
        items = [(out.message.lost_jobs, (out.entry.seq, item(out.message))) for out in batch]
        imports = ImportRequests(self._api, envelope_for(group))
        permits = permits if bulk else 0
        async for delivery in imports.deliver(items, permits, backfill=backfill):
            stop = delivery.stop
            if stop is not None and stop.scope == "target":
                seqs = [outcome.seq for outcome in delivery.outcomes]
                gone = await self._check_target(seqs, group, backfill)
                yield replace(gone, requests=delivery.requests)
            else:
                yield delivery

    # ── removals ──────────────────────────────────────────────────────────────────────────────────

    async def _remove(self, batch: Sequence[Out], backfill: bool) -> Delivery:
        known = {
            out.message.email: out.message.profile_id
            for out in batch
            if out.message.profile_id and self._trust_ids
        }
        unknown = [out.message.email for out in batch if out.message.email not in known]
        seqs = [out.entry.seq for out in batch]
        try:
            known |= await self._groups.ids(unknown, backfill=backfill)
            sent = await self._send(batch[0].message.group, list(known.values()))
            if sent and _is_id_error(sent.error):
                return await self._retry_remaining(batch, sent.request, backfill)
        except DeliveryError as error:
            return delivery_for(seqs, error, LOOK_UP)
        return _delivery_for(seqs, sent)

    async def _retry_remaining(
        self, batch: Sequence[Out], refused: Request, backfill: bool
    ) -> Delivery:
        """The list is gone, or a profile is: then the ids of the remaining ones are looked up
        again."""
        seqs, group = [out.entry.seq for out in batch], batch[0].message.group
        if not await self._exists(group, backfill):
            return replace(_target_gone(seqs), requests=[refused])
        emails = [out.message.email for out in batch]
        ids = await self._groups.ids(emails, backfill=backfill)
        await self._api.permit(REMOVE_MEMBERS, backfill=backfill)
        sent = await self._send(group, list(ids.values()))
        retried = _delivery_for(seqs, sent)
        return replace(retried, requests=[refused, *retried.requests])

    async def _send(self, group: str, ids: Sequence[str]) -> SentRequest | None:
        """None where there is no profile to remove."""
        members = [{"type": "profile", "id": id} for id in dict.fromkeys(ids)]
        if not members:
            return None
        path = f"/api/lists/{group}/relationships/profiles"
        body = orjson.dumps({"data": members})
        return await self._api.send("DELETE", path, REMOVE_MEMBERS, body)

    # ── a list that is gone ──────────────────────────────────────────────────────────────────────

    async def _check_target(self, seqs: Sequence[int], group: str, backfill: bool) -> Delivery:
        try:
            if not await self._exists(group, backfill):
                return _target_gone(seqs)
        except DeliveryError as error:
            return delivery_for(seqs, error, LOOK_UP)
        return Delivery([Retry(seq, Problem.KLAVIYO_TARGET) for seq in seqs])

    async def _exists(self, group: str, backfill: bool) -> bool:
        try:
            await self._api.get(GET_LIST, f"/api/lists/{group}", backfill=backfill)
        except Blocked as error:
            if error.status == 404:
                return False
            raise
        return True

    def preview(self, out: Out) -> tuple[str, bytes]:
        write = out.message
        if write.joins:
            return BULK_PROFILES, envelope_for(write.group).body([item(write)])
        member = {"type": "profile", "id": write.profile_id or write.email}
        return REMOVE_MEMBERS, orjson.dumps({"data": [member]})


def item(write: MembershipWrite) -> bytes:
    """One of the profiles of an import: its address only."""
    return orjson.dumps({"type": "profile", "attributes": {"email": write.email}})


def envelope_for(group: str) -> Envelope:
    """An import whose people join a list."""
    lists = orjson.dumps({"lists": {"data": [{"type": "list", "id": group}]}})
    return replace(
        profile_body.ENVELOPE,
        tail=b']}},"relationships":' + lists + b"}}",
    )


def _is_id_error(error: DeliveryError | None) -> bool:
    """Malformed ids answer 400; unknown ones 404, as does a list that is gone."""
    return isinstance(error, Rejected | Blocked) and error.status in (400, 404)


def _delivery_for(seqs: Sequence[int], sent: SentRequest | None) -> Delivery:
    if sent is None:
        return Delivery([Accepted(seq, "") for seq in seqs])
    if sent.error is None:
        return accepted(seqs, sent)
    return delivery_for(seqs, sent.error, _REMOVAL, [sent.request])


def _target_gone(seqs: Sequence[int]) -> Delivery:
    detail = "the list is gone, so no one joins or leaves it"
    return Delivery([Held(seq, Problem.KLAVIYO_TARGET, detail) for seq in seqs])
