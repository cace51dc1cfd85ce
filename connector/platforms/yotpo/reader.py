"""Reads people at Yotpo: one by e-mail address or id, or all recently updated ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

from connector.domain.attention import Check
from connector.domain.lanes import Millis
from connector.platforms.extras import unless_unavailable
from connector.platforms.json_api import credential_check, person_ids
from connector.platforms.yotpo.api import YotpoApi
from connector.platforms.yotpo.settings import Settings
from connector.platforms.yotpo.view import listing_covers, person_covers, person_id, person_view
from connector.ports import PeoplePage, PeoplePageItem, PersonRef, PersonSnapshot
from connector.runtime import log

_CATALOGUE_FIELDS = frozenset(("next_tier.name", "next_reward.name", "next_reward.points_needed"))


class YotpoReader:
    """connector.ports.Reader."""

    by_id = True

    def __init__(self, settings: Settings, api: YotpoApi) -> None:
        self.endpoint, self.quota = api.endpoint, api.limiter
        self.parallel = settings.max_concurrency
        self._api = api

    async def read(self, ref: PersonRef, fields: frozenset[str]) -> PersonSnapshot | None:
        if ref.email is None and ref.platform_id is None:
            return None
        customer = await self._api.customer(email=ref.email, id=ref.platform_id)
        if customer is None or is_other_person(customer, ref):
            return None
        catalogue: Mapping[str, Any] | None = None
        if fields & _CATALOGUE_FIELDS:
            catalogue = await unless_unavailable(self._api.catalogue(backfill=ref.backfill))
        covers = person_covers(with_catalogue=catalogue is not None)
        ids = person_ids(person_id(customer))
        return PersonSnapshot(person_view(customer, catalogue or {}), covers, ids)

    async def check(self) -> Sequence[Check]:
        await self._api.permit()
        return await credential_check(
            "Yotpo GUID and key", self._api.customer(email="nobody@example.com")
        )


class RecentCustomers:
    """connector.ports.Stream of `customers/recent`.

    A walk goes through every page, for no order is documented; the cursor of its end is "", and the
    next walk starts over. A cursor of Yotpo's that comes twice ends the walk. Every page may show
    the state at the start of the walk, so that time is the `at` of all its pages: the cursor is
    `{at} {Yotpo's cursor}`.
    """

    def __init__(self, api: YotpoApi) -> None:
        self._api = api
        self._seen_cursors: set[bytes] = set()

    async def page(
        self, cursor: str | None, fields: frozenset[str], *, backfill: bool = False
    ) -> PeoplePage:
        started_at, _, position = (cursor or "").partition(" ")
        if position:
            self._seen_cursors.add(_cursor_hash(position))
        else:
            self._seen_cursors.clear()
        await self._api.permit(backfill=backfill)
        at = Millis(int(started_at)) if position else self._api.now()
        page = await self._api.recent(position or None)
        next_cursor = page.next_cursor
        if next_cursor is not None and _cursor_hash(next_cursor) in self._seen_cursors:
            log.get("yotpo").warning("poll_cursor_repeated", endpoint="customers/recent")
            next_cursor = None
        people = [_listed_person(customer) for customer in page.customers]
        known = [person for person in people if person.email or person.platform_id]
        following = "" if next_cursor is None else f"{at} {next_cursor}"
        return PeoplePage(known, following, next_cursor is not None, at)


def is_other_person(customer: Mapping[str, Any], ref: PersonRef) -> bool:
    """Whether the address belongs to another person by now."""
    id = person_id(customer)
    return ref.platform_id is not None and id is not None and ref.platform_id != id


def _listed_person(customer: dict[str, Any]) -> PeoplePageItem:
    email = customer.get("email")
    address = email.strip().lower() if isinstance(email, str) and "\0" not in email else ""
    snapshot = PersonSnapshot(person_view(customer, {}), listing_covers(customer))
    return PeoplePageItem(person_id(customer), address or None, snapshot)


def _cursor_hash(cursor: str) -> bytes:
    return blake2b(cursor.encode(), digest_size=8).digest()
