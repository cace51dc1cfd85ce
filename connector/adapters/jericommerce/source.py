"""Reading people at JeriCommerce: by address alone, for it has no other look-up."""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from connector.adapters.jericommerce.api import GET_CUSTOMER, JeriCommerceApi
from connector.adapters.jericommerce.settings import Settings
from connector.adapters.jericommerce.view import person_covers, person_view
from connector.errors import Blocked, DeliveryError, Rejected
from connector.model import Check
from connector.ports import Quota, Sight, Whom

_PASS_EVENTS = frozenset({"wallet pass requested", "wallet pass uninstalled"})


class JeriCommerceReader:
    """connector.ports.Reader."""

    endpoint = GET_CUSTOMER

    def __init__(self, settings: Settings, api: JeriCommerceApi) -> None:
        self._refresh = settings.pass_url_refresh
        self.parallel = settings.max_concurrency
        self._api = api

    @property
    def quota(self) -> Quota:
        return self._api.governor

    async def read(self, who: Whom, reads: frozenset[str]) -> Sight | None:
        if who.email is None:
            return None
        customer = await self._api.customer(who.email)
        if customer is None:
            return None
        link = await self._pass_link(who) if "pass_url" in reads else None
        return Sight(person_view(customer, link), person_covers(customer, link))

    async def _pass_link(self, who: Whom) -> str | None:
        """The link we have, unless it has aged or a pass event asks for a new one. Without it the
        rest of the person is still worth telling."""
        known = orjson.loads(who.view) if who.view else {}
        link = known.get("pass_url")
        aged = self._refresh is not None and who.view_age > self._refresh
        if isinstance(link, str) and not aged and not who.renew:
            return link
        assert who.email is not None
        try:
            return await self._api.pass_link(who.email) or link
        except Rejected:
            return link

    def renews(self, event: str) -> bool:
        """Whether this event means that what is fetched seldom must be fetched again."""
        return event.strip().replace("-", " ").casefold() in _PASS_EVENTS

    async def check(self) -> Sequence[Check]:
        what = "JeriCommerce key"
        try:
            await self._api.customer("nobody@example.com")
        except DeliveryError as error:
            if isinstance(error, Blocked) and error.status == 404:
                return [Check(what, "ok")]
            return [Check(what, "fault", error.detail, error.problem)]
        return [Check(what, "ok")]

    async def aclose(self) -> None:
        await self._api.aclose()
