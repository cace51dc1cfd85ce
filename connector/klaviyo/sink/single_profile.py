"""One profile by a request of its own: conflicts, former addresses and moves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from connector.domain import profile_state
from connector.domain.errors import Blocked, DeliveryError, Rejected
from connector.domain.outcomes import Accepted, Dead, Delivery, Request
from connector.domain.profiles import ProfileWrite
from connector.domain.settlement import LOOK_UP, delivery_for
from connector.klaviyo.api import KlaviyoApi, SentRequest
from connector.klaviyo.limits import PATCH_PROFILE, UPSERT_PROFILE
from connector.klaviyo.sink import profile_body
from connector.klaviyo.sink.requests import failed, response_id


class SingleProfileWriter:
    """Sends single writes. The permit of each first request is the claim's; further ones take
    quota as a `backfill` or as live traffic."""

    def __init__(self, api: KlaviyoApi, *, backfill: bool) -> None:
        self._api = api
        self._backfill = backfill

    async def send(self, seq: int, write: ProfileWrite) -> Delivery:
        if write.is_cleanup or write.pending_move:
            return await self._write_to_former_address(seq, write)
        body = profile_body.upsert(write)
        if fault := profile_body.validate(body):
            return Delivery([Dead(seq, fault.problem, fault.detail)])
        sent = await self._api.post(UPSERT_PROFILE, body)
        if conflict := _conflict(sent):
            return await self._resolve_conflict(seq, write, sent.request, conflict)
        return _delivery_for(seq, sent, [sent.request])

    async def _resolve_conflict(
        self, seq: int, write: ProfileWrite, refused: Request, conflict: Rejected
    ) -> Delivery:
        """409 duplicate_profile: the identifiers belong to several profiles. The profile with the
        e-mail address is written; where the address alone conflicts too, the profile that Klaviyo's
        answer names."""
        requests = [refused]
        if len(write.identity) > 1 and "email" in write.identity:
            email_only = replace(write, identity={"email": write.identity["email"]})
            await self._permit(UPSERT_PROFILE)
            sent = await self._api.post(UPSERT_PROFILE, profile_body.upsert(email_only))
            requests.append(sent.request)
            again = _conflict(sent)
            if again is None:
                return _delivery_for(seq, sent, requests)
            conflict = again
        duplicate_id = conflict.meta.get("duplicate_profile_id")
        if not isinstance(duplicate_id, str) or not duplicate_id:
            return failed([seq], conflict, requests)
        sent = await self._patch(write, duplicate_id)
        return _delivery_for(seq, sent, [*requests, sent.request], ref=duplicate_id)

    async def _write_to_former_address(self, seq: int, write: ProfileWrite) -> Delivery:
        """Unset our fields at an address that is no longer used, or move its profile to the new
        address."""
        former = write.pending_move or write.identity
        try:
            id = write.profile_id if write.pending_move else None
            id = id or await self._api.profile_id(former["email"], backfill=self._backfill)
        except DeliveryError as error:
            return delivery_for([seq], error, LOOK_UP)
        if id is None:
            # Klaviyo has no profile with that address: nothing to unset and nothing to move.
            if write.is_cleanup:
                return Delivery([Accepted(seq, "")])
            return await self.send(seq, replace(write, pending_move=None))
        sent = await self._patch(write, id)
        if write.pending_move and _conflict(sent):
            return await self._resolve_taken_address(seq, write, id, sent.request)
        if isinstance(sent.error, Blocked) and sent.error.status == 404:
            if write.is_cleanup:
                return Delivery([Accepted(seq, sent.request.id)], [sent.request])
            return await self.send(seq, replace(write, pending_move=None, profile_id=None))
        return _delivery_for(seq, sent, [sent.request], ref=None if write.is_cleanup else id)

    async def _resolve_taken_address(
        self, seq: int, write: ProfileWrite, former: str, refused: Request
    ) -> Delivery:
        """The new address has a profile already: our fields are unset on the former profile and set
        on that one. The connector never merges two profiles, because a merge cannot be undone."""
        requests = [refused]
        sets, unsets = profile_state.split_unsets(dict.fromkeys([*write.sets, *write.unsets]))
        cleared = await self._patch(ProfileWrite({}, sets, unsets, is_cleanup=True), former)
        requests.append(cleared.request)
        if cleared.error is not None:
            # The address still has its profile when all of this is tried again.
            return _delivery_for(seq, cleared, requests)
        await self._permit(UPSERT_PROFILE)
        sent = await self._api.post(
            UPSERT_PROFILE, profile_body.upsert(replace(write, pending_move=None))
        )
        return _delivery_for(seq, sent, [*requests, sent.request])

    async def _patch(self, write: ProfileWrite, id: str) -> SentRequest:
        await self._permit(PATCH_PROFILE)
        return await self._api.send(
            "PATCH", f"/api/profiles/{id}", PATCH_PROFILE, profile_body.update(write, id)
        )

    async def _permit(self, endpoint: str) -> None:
        await self._api.permit(endpoint, backfill=self._backfill)


def _conflict(sent: SentRequest) -> Rejected | None:
    """The error of a request that Klaviyo answered with 409."""
    error = sent.error
    return error if isinstance(error, Rejected) and error.status == 409 else None


def _delivery_for(
    seq: int, sent: SentRequest, requests: Sequence[Request], *, ref: str | None = None
) -> Delivery:
    """What the last of `requests` came to."""
    if sent.error is not None:
        return failed([seq], sent.error, requests)
    return Delivery([Accepted(seq, sent.request.id, ref or response_id(sent))], requests)
