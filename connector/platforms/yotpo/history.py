"""Past events of a customer at Yotpo: the items of `with_history`, which have no id."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any

import orjson

from connector.domain.lanes import Millis
from connector.domain.records import Record
from connector.platforms.yotpo.api import YotpoApi
from connector.platforms.yotpo.reader import is_other_person
from connector.platforms.yotpo.view import person_id
from connector.platforms.yotpo.webhook import latest_time
from connector.ports import PersonRef

HISTORY_EVENT = "Points History"
"""The event's name: not that of a live event, which an item may repeat."""
_PENDING = "pending"
_IDENTITY_KEYS = ("created_at", "completed_at", "date", "action", "action_name", "points")


class CustomerHistory:
    """connector.ports.History."""

    def __init__(self, api: YotpoApi) -> None:
        self._api = api

    async def events(self, ref: PersonRef, since: Millis | None) -> Sequence[Record]:
        if ref.email is None and ref.platform_id is None:
            return []
        await self._api.permit(backfill=True)
        customer = await self._api.customer(email=ref.email, id=ref.platform_id, history=True)
        if customer is None or is_other_person(customer, ref):
            return []
        email = customer.get("email")
        person_email = email.strip().lower() if isinstance(email, str) else ref.email
        return [
            Record(
                key=f"history:{key}",
                unique_id=f"yotpo:history:{key}",
                name=HISTORY_EVENT,
                occurred_at=at,
                data=orjson.dumps(item),
                person=person_id(customer),
                email=person_email,
            )
            for at, key, item in _keyed(customer.get("history_items"), person_email)
            if since is None or at >= since
        ]


def _keyed(items: Any, email: str | None) -> Iterator[tuple[Millis, str, Mapping[str, Any]]]:
    """(time, key, item) of the settled items that have a time, oldest first."""
    dated = [
        (at, item)
        for item in (items if isinstance(items, list) else [])
        if isinstance(item, dict) and (at := latest_time(item)) is not None and _is_settled(item)
    ]
    dated.sort(key=lambda pair: (pair[0], _digest(pair[1])))
    occurrences: Counter[str] = Counter()
    for at, item in dated:
        # Two equal items of one moment are two events: the older ones keep their numbers.
        digest = _digest(item)
        occurrences[digest] += 1
        key = sha256(f"{email}\0{digest}\0{occurrences[digest]}".encode()).hexdigest()[:40]
        yield at, key, item


def _is_settled(item: Mapping[str, Any]) -> bool:
    """Pending points are not earned yet: they are sent once they are."""
    status = item.get("status")
    return not (isinstance(status, str) and status.strip().lower() == _PENDING)


def _digest(item: Mapping[str, Any]) -> str:
    """The identity of an item. Its status is not part of it, for that changes later."""
    identity = [item.get(key) for key in _IDENTITY_KEYS]
    return sha256(orjson.dumps(identity)).hexdigest()
