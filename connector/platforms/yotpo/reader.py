"""Reading people at Yotpo: one by address, all recently updated ones, and what happened to one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import blake2b, sha256
from typing import Any

import orjson

from connector.domain.attention import Check
from connector.domain.errors import AmbiguousError, Blocked, DeliveryError, Rejected
from connector.domain.lanes import Millis
from connector.domain.records import Record
from connector.platforms.yotpo.api import ANY_CALL, YotpoApi
from connector.platforms.yotpo.settings import Settings
from connector.platforms.yotpo.view import (
    EMPTY_CATALOGUE,
    Catalogue,
    listing_covers,
    person_covers,
    person_id,
    person_view,
)
from connector.platforms.yotpo.webhook import latest_time
from connector.ports import PeoplePage, PeoplePageItem, PersonRef, PersonSnapshot, Quota
from connector.runtime import log

HISTORY_EVENT = "Points History"
"""The name of what the history tells: not that of a live event, which it may repeat."""
_CATALOGUE_FIELDS = frozenset(("next_tier.name", "next_reward.name", "next_reward.points_needed"))
_PENDING = "pending"
_IDENTITY_KEYS = ("created_at", "completed_at", "date", "action", "action_name", "points")


class YotpoReader:
    """connector.ports.Reader."""

    endpoint = ANY_CALL
    by_id = True

    def __init__(self, settings: Settings, api: YotpoApi) -> None:
        self.parallel = settings.max_concurrency
        self._api = api

    @property
    def quota(self) -> Quota:
        return self._api.governor

    async def read(self, ref: PersonRef, fields: frozenset[str]) -> PersonSnapshot | None:
        if ref.email is None and ref.platform_id is None:
            return None
        customer = await self._api.customer(email=ref.email, id=ref.platform_id)
        if customer is None or _is_other_person(customer, ref):
            return None
        catalogue = await self._catalogue(ref) if fields & _CATALOGUE_FIELDS else None
        view = person_view(customer, catalogue=catalogue or EMPTY_CATALOGUE)
        return PersonSnapshot(view, person_covers(catalogue))

    async def _catalogue(self, who: PersonRef) -> Catalogue | None:
        """None where it cannot be had: the rest of the person is still worth telling."""
        try:
            return await self._api.catalogue(backfill=who.backfill)
        except (Rejected, AmbiguousError):
            return None
        except Blocked as error:
            if error.scope == "account":
                raise
            return None

    def needs_refetch(self, event: str) -> bool:
        """The catalogue ages by itself, and nothing else is fetched seldom."""
        return False

    async def check(self) -> Sequence[Check]:
        what = "Yotpo GUID and key"
        await self._api.permit()
        try:
            await self._api.customer(email="nobody@example.com")
        except DeliveryError as error:
            return [Check(what, "fault", error.detail, error.problem)]
        return [Check(what, "ok")]


class RecentCustomers:
    """connector.ports.Stream of `customers/recent`.

    A walk goes through every page there is, for no order is documented; the cursor of its end is
    "", and the next walk begins anew. Yotpo's own cursor may come twice: that ends the walk.
    """

    def __init__(self, api: YotpoApi) -> None:
        self._api = api
        self._seen_cursors: set[bytes] = set()

    async def page(
        self, cursor: str | None, fields: frozenset[str], *, backfill: bool = False
    ) -> PeoplePage:
        if not cursor:
            self._seen_cursors.clear()
        else:
            self._seen_cursors.add(_cursor_hash(cursor))
        await self._api.permit(backfill=backfill)
        at = self._api.now()
        page = await self._api.recent(cursor or None)
        next_cursor = page.next_cursor
        if next_cursor is not None and _cursor_hash(next_cursor) in self._seen_cursors:
            log.get("yotpo").warning("customers/recent repeats a cursor: the walk ends there")
            next_cursor = None
        people = [_listed_person(customer) for customer in page.customers]
        known = [person for person in people if person.email or person.platform_id]
        return PeoplePage(known, next_cursor or "", next_cursor is not None, at)


class CustomerHistory:
    """connector.ports.History: the items of `with_history`, which have no id of their own."""

    def __init__(self, api: YotpoApi) -> None:
        self._api = api

    async def events(self, ref: PersonRef, since: Millis | None) -> Sequence[Record]:
        if ref.email is None and ref.platform_id is None:
            return []
        await self._api.permit(backfill=True)
        customer = await self._api.customer(email=ref.email, id=ref.platform_id, history=True)
        if customer is None or _is_other_person(customer, ref):
            return []
        items = customer.get("history_items")
        email = customer.get("email")
        person_email = email.strip().lower() if isinstance(email, str) else ref.email
        dated = [
            (at, item)
            for item in (items if isinstance(items, list) else [])
            if isinstance(item, dict)
            and (at := latest_time(item)) is not None
            and _is_settled(item)
        ]
        dated.sort(key=lambda pair: (pair[0], _digest(pair[1])))
        occurrences: Counter[str] = Counter()
        records = []
        for at, item in dated:
            # Two alike at one moment are two: the older run of them keeps its numbers.
            digest = _digest(item)
            occurrences[digest] += 1
            key = sha256(f"{person_email}\0{digest}\0{occurrences[digest]}".encode()).hexdigest()[
                :40
            ]
            if since is not None and at < since:
                continue
            records.append(
                Record(
                    key=f"history:{key}",
                    unique_id=f"yotpo:history:{key}",
                    name=HISTORY_EVENT,
                    occurred_at=at,
                    data=orjson.dumps(item),
                    person=person_id(customer),
                    email=person_email,
                )
            )
        return records


def _is_other_person(customer: Mapping[str, Any], who: PersonRef) -> bool:
    """An address is what is asked for, and it may have become somebody else's."""
    id = person_id(customer)
    return who.platform_id is not None and id is not None and who.platform_id != id


def _listed_person(customer: dict[str, Any]) -> PeoplePageItem:
    email = customer.get("email")
    address = email.strip().lower() if isinstance(email, str) and "\0" not in email else ""
    sight = PersonSnapshot(person_view(customer), listing_covers(customer))
    return PeoplePageItem(person_id(customer), address or None, sight)


def _is_settled(item: Mapping[str, Any]) -> bool:
    """Points that are pending have not been earned: they are told when they are."""
    status = item.get("status")
    return not (isinstance(status, str) and status.strip().lower() == _PENDING)


def _digest(item: Mapping[str, Any]) -> str:
    """What an item is known by. Its status is left out, for that changes later."""
    identity = [item.get(key) for key in _IDENTITY_KEYS]
    return sha256(orjson.dumps(identity)).hexdigest()


def _cursor_hash(cursor: str) -> bytes:
    return blake2b(cursor.encode(), digest_size=8).digest()
