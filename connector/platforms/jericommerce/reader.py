"""Reading people at JeriCommerce: by address alone, for it has no other look-up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from connector.domain.attention import Check
from connector.domain.errors import AmbiguousError, Blocked, DeliveryError, Rejected
from connector.platforms.jericommerce.api import ANY_CALL, JeriCommerceApi
from connector.platforms.jericommerce.settings import Settings
from connector.platforms.jericommerce.view import person_covers, person_view
from connector.ports import PersonRef, PersonSnapshot, Quota

_FETCHED_AT = "pass_url_at"
"""Beside the link in a view: when it was fetched, ms. A view is read much more often."""
_PASS_EVENTS = frozenset({"wallet pass requested", "wallet pass uninstalled"})


class JeriCommerceReader:
    """connector.ports.Reader."""

    endpoint = ANY_CALL
    by_id = False

    def __init__(self, settings: Settings, api: JeriCommerceApi) -> None:
        self._link_max_age = settings.pass_url_refresh
        self.parallel = settings.max_concurrency
        self._api = api

    @property
    def quota(self) -> Quota:
        return self._api.governor

    async def read(self, ref: PersonRef, fields: frozenset[str]) -> PersonSnapshot | None:
        if ref.email is None:
            return None
        customer = await self._api.customer(ref.email)
        if customer is None or _is_other_person(customer, ref):
            return None
        link, at = await self._pass_link(ref) if "pass_url" in fields else (None, 0)
        view = person_view(customer, link)
        if link is not None:
            view[_FETCHED_AT] = at
        return PersonSnapshot(view, person_covers(customer, link))

    async def _pass_link(self, who: PersonRef) -> tuple[str | None, int]:
        """The link we have and when it was fetched, unless it has aged or a pass event asks for a
        new one. Without it the rest of the person is still worth telling."""
        known = orjson.loads(who.view) if who.view else {}
        link, at = known.get("pass_url"), known.get(_FETCHED_AT, 0)
        now = self._api.now()
        aged = self._link_max_age is not None and now - at > self._link_max_age * 1000
        if isinstance(link, str) and not aged and not who.refetch:
            return link, at
        assert who.email is not None
        try:
            fetched = await self._api.pass_link(who.email, backfill=who.backfill)
        except (Rejected, AmbiguousError):
            fetched = None
        except Blocked as error:
            if error.scope == "account":
                raise
            fetched = None
        return (fetched, now) if fetched else (link, at)

    def needs_refetch(self, event: str) -> bool:
        """Whether this event means that what is fetched seldom must be fetched again."""
        return event.strip().replace("-", " ").casefold() in _PASS_EVENTS

    async def check(self) -> Sequence[Check]:
        what = "JeriCommerce key"
        await self._api.permit()
        try:
            await self._api.customer("nobody@example.com")
        except DeliveryError as error:
            return [Check(what, "fault", error.detail, error.problem)]
        # An unknown person and an unknown program may be answered alike.
        return [Check(what, "ok", "taken; whether the program exists cannot be told")]


def _is_other_person(customer: Mapping[str, Any], who: PersonRef) -> bool:
    """An address is all that can be asked for, and it may have become somebody else's."""
    user = customer.get("userData")
    customer_ids = [customer.get("id"), user.get("customerId") if isinstance(user, dict) else None]
    ids = [id for id in customer_ids if isinstance(id, str)]
    return who.platform_id is not None and bool(ids) and who.platform_id not in ids
