"""Klaviyo segments at JeriCommerce: a feature of `integrations/api`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from connector.domain.errors import Blocked, Problem
from connector.platforms.jericommerce.api import JeriCommerceApi
from connector.platforms.jericommerce.settings import Settings
from connector.ports import Member, MembershipResult

_NO_ADDRESS = MembershipResult(
    "refused", Problem.NO_IDENTITY, "JeriCommerce knows people by e-mail address only"
)
_UNCONFIRMED = MembershipResult("unconfirmed")


class JeriCommerceMembers:
    """connector.ports.MembershipWriter. A 201 means only that one item of the call was applied."""

    def __init__(self, settings: Settings, api: JeriCommerceApi) -> None:
        self.endpoint, self.quota = api.endpoint, api.limiter
        self._api = api
        self._feature = settings.segment_feature
        self.size = settings.segment_batch

    async def update(
        self, target: str, changes: Sequence[tuple[Member, bool]]
    ) -> Sequence[MembershipResult]:
        items = [
            {
                "email": member.email,
                "feature": self._feature,
                "payload": {"segment": target, "member": joined},
            }
            for member, joined in changes
            if member.email
        ]
        if not items:
            return [_NO_ADDRESS] * len(changes)
        try:
            results = _by_address(await self._api.integrate(items))
        except Blocked as error:
            if error.status != 404:
                raise
            refused = MembershipResult("refused", Problem.PLATFORM_TARGET, error.detail)
            return [refused if member.email else _NO_ADDRESS for member, _ in changes]
        return [_result_for(member, results) for member, _ in changes]


def _result_for(member: Member, results: Mapping[str, Mapping[str, Any]]) -> MembershipResult:
    if not member.email:
        return _NO_ADDRESS
    item = results.get(member.email.casefold())
    if item is None:
        return _UNCONFIRMED
    if item.get("error") or item.get("success") is False:
        return MembershipResult(
            "refused", Problem.PLATFORM_REFUSED, "JeriCommerce lists it as failed"
        )
    return MembershipResult("confirmed")


def _by_address(body: Any) -> dict[str, Mapping[str, Any]]:
    """The items that a response lists, if it lists any (docs/unverified.md)."""
    items = body if isinstance(body, list) else []
    return {
        item["email"].casefold(): item
        for item in items
        if isinstance(item, dict) and isinstance(item.get("email"), str)
    }
