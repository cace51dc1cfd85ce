"""Reads people at JeriCommerce, which looks them up by e-mail address only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from connector.domain.attention import Check
from connector.platforms.extras import Extra, load_extras
from connector.platforms.jericommerce.api import JeriCommerceApi
from connector.platforms.jericommerce.settings import Settings
from connector.platforms.jericommerce.view import person_covers, person_view
from connector.platforms.json_api import credential_check, person_ids
from connector.ports import PersonRef, PersonSnapshot


class JeriCommerceReader:
    """connector.ports.Reader."""

    by_id = False

    def __init__(self, settings: Settings, api: JeriCommerceApi) -> None:
        self.endpoint, self.quota = api.endpoint, api.limiter
        self.parallel = settings.max_concurrency
        self._api = api
        self._extras = {"pass_url": Extra(self._pass_link, settings.pass_url_refresh)}
        """A new entry here is a field `extras.<name>` for mappings."""

    async def read(self, ref: PersonRef, fields: frozenset[str]) -> PersonSnapshot | None:
        if ref.email is None:
            return None
        customer = await self._api.customer(ref.email)
        if customer is None or _is_other_person(customer, ref):
            return None
        extras = await load_extras(self._extras, ref, fields, self._api.now())
        view, covers = person_view(customer, extras.values), person_covers(customer)
        return replace(extras.snapshot(view, covers), aliases=_ids(customer))

    async def _pass_link(self, ref: PersonRef) -> str | None:
        return await self._api.pass_link(ref.email, backfill=ref.backfill) if ref.email else None

    async def check(self) -> Sequence[Check]:
        await self._api.permit()
        # An unknown person and an unknown program may get the same answer.
        return await credential_check(
            "JeriCommerce key",
            self._api.customer("nobody@example.com"),
            accepted="accepted; whether the program exists cannot be checked",
        )


def _is_other_person(customer: Mapping[str, Any], ref: PersonRef) -> bool:
    """Whether the address belongs to another person by now."""
    ids = _ids(customer)
    return ref.platform_id is not None and bool(ids) and ref.platform_id not in ids


def _ids(customer: Mapping[str, Any]) -> tuple[str, ...]:
    """Both ids that a webhook may name as `customerId`."""
    user = customer.get("userData")
    return person_ids(
        customer.get("id"), user.get("customerId") if isinstance(user, dict) else None
    )
