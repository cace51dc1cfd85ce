"""Reading people at Yotpo: one by address, all recently updated ones, and what happened to one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import blake2b, sha256
from typing import Any

import orjson

from connector.domain.attention import (
    Check,
)
from connector.domain.errors import Blocked, DeliveryError, Rejected, Unknown
from connector.domain.lanes import (
    Millis,
)
from connector.domain.records import (
    Record,
)
from connector.platforms.yotpo.api import ANY, YotpoApi
from connector.platforms.yotpo.settings import Settings
from connector.platforms.yotpo.view import (
    NOTHING,
    Catalogue,
    listing_covers,
    person_covers,
    person_id,
    person_view,
)
from connector.platforms.yotpo.webhook import latest
from connector.ports import Listed, PeoplePage, Quota, Sight, Whom
from connector.runtime import log

HISTORY = "Points History"
"""The name of what the history tells: not that of a live event, which it may repeat."""
_OF_CATALOGUE = frozenset(("next_tier.name", "next_reward.name", "next_reward.points_needed"))
_NOT_YET = "pending"
_IDENTITY = ("created_at", "completed_at", "date", "action", "action_name", "points")


class YotpoReader:
    """connector.ports.Reader."""

    endpoint = ANY
    by_id = True

    def __init__(self, settings: Settings, api: YotpoApi) -> None:
        self.parallel = settings.max_concurrency
        self._api = api

    @property
    def quota(self) -> Quota:
        return self._api.governor

    async def read(self, who: Whom, reads: frozenset[str]) -> Sight | None:
        if who.email is None and who.platform_id is None:
            return None
        customer = await self._api.customer(email=who.email, id=who.platform_id)
        if customer is None or _is_another(customer, who):
            return None
        catalogue = await self._catalogue(who) if reads & _OF_CATALOGUE else None
        view = person_view(customer, catalogue=catalogue or NOTHING)
        return Sight(view, person_covers(catalogue))

    async def _catalogue(self, who: Whom) -> Catalogue | None:
        """None where it cannot be had: the rest of the person is still worth telling."""
        try:
            return await self._api.catalogue(backfill=who.backfill)
        except (Rejected, Unknown):
            return None
        except Blocked as error:
            if error.scope == "account":
                raise
            return None

    def renews(self, event: str) -> bool:
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
        self._walked: set[bytes] = set()

    async def page(
        self, cursor: str | None, reads: frozenset[str], *, backfill: bool = False
    ) -> PeoplePage:
        if not cursor:
            self._walked.clear()
        else:
            self._walked.add(_short(cursor))
        await self._api.permit(backfill=backfill)
        at = self._api.now()
        page = await self._api.recent(cursor or None)
        following = page.next
        if following is not None and _short(following) in self._walked:
            log.get("yotpo").warning("customers/recent repeats a cursor: the walk ends there")
            following = None
        people = [_listed(customer) for customer in page.customers]
        known = [person for person in people if person.email or person.platform_id]
        return PeoplePage(known, following or "", following is not None, at)


class CustomerHistory:
    """connector.ports.History: the items of `with_history`, which have no id of their own."""

    def __init__(self, api: YotpoApi) -> None:
        self._api = api

    async def events(self, who: Whom, since: Millis | None) -> Sequence[Record]:
        if who.email is None and who.platform_id is None:
            return []
        await self._api.permit(backfill=True)
        customer = await self._api.customer(email=who.email, id=who.platform_id, history=True)
        if customer is None or _is_another(customer, who):
            return []
        items = customer.get("history_items")
        email = customer.get("email")
        whose = email.strip().lower() if isinstance(email, str) else who.email
        dated = [
            (at, item)
            for item in (items if isinstance(items, list) else [])
            if isinstance(item, dict) and (at := latest(item)) is not None and _is_over(item)
        ]
        dated.sort(key=lambda pair: (pair[0], _digest(pair[1])))
        seen: Counter[str] = Counter()
        records = []
        for at, item in dated:
            # Two alike at one moment are two: the older run of them keeps its numbers.
            alike = _digest(item)
            seen[alike] += 1
            key = sha256(f"{whose}\0{alike}\0{seen[alike]}".encode()).hexdigest()[:40]
            if since is not None and at < since:
                continue
            records.append(
                Record(
                    key=f"history:{key}",
                    unique_id=f"yotpo:history:{key}",
                    name=HISTORY,
                    occurred_at=at,
                    data=orjson.dumps(item),
                    person=person_id(customer),
                    email=whose,
                )
            )
        return records


def _is_another(customer: Mapping[str, Any], who: Whom) -> bool:
    """An address is what is asked for, and it may have become somebody else's."""
    id = person_id(customer)
    return who.platform_id is not None and id is not None and who.platform_id != id


def _listed(customer: dict[str, Any]) -> Listed:
    email = customer.get("email")
    address = email.strip().lower() if isinstance(email, str) and "\0" not in email else ""
    sight = Sight(person_view(customer), listing_covers(customer))
    return Listed(person_id(customer), address or None, sight)


def _is_over(item: Mapping[str, Any]) -> bool:
    """Points that are pending have not been earned: they are told when they are."""
    status = item.get("status")
    return not (isinstance(status, str) and status.strip().lower() == _NOT_YET)


def _digest(item: Mapping[str, Any]) -> str:
    """What an item is known by. Its status is left out, for that changes later."""
    said = [item.get(key) for key in _IDENTITY]
    return sha256(orjson.dumps(said)).hexdigest()


def _short(cursor: str) -> bytes:
    return blake2b(cursor.encode(), digest_size=8).digest()
