"""Reads Klaviyo back: the fields of profiles, and whether an event was recorded.

Sources: the references of `get_profiles` (scope profiles:read) and `get_events` (events:read, at
most 200 a page). An event's unique id is returned as `event_properties.$event_id`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

from connector.domain.lanes import Millis
from connector.klaviyo.api import KlaviyoApi, documented_shape
from connector.klaviyo.groups import PAGE_SIZE, chunks
from connector.klaviyo.limits import GET_EVENTS, GET_PROFILES
from connector.ports import RemoteProfile

_EVENTS_PER_PAGE = 200


class KlaviyoRemoteState:
    """connector.ports.RemoteState."""

    def __init__(self, api: KlaviyoApi) -> None:
        self._api = api

    async def profiles(self, emails: Sequence[str]) -> Mapping[str, RemoteProfile]:
        found: dict[str, RemoteProfile] = {}
        for chunk in chunks([email for email in emails if email]):
            quoted_emails = ",".join(f'"{email}"' for email in chunk)
            query = quote(f"any(email,[{quoted_emails}])", safe="")
            path = f"/api/profiles?filter={query}&page[size]={PAGE_SIZE}"
            page = await self._api.get(GET_PROFILES, path, backfill=True)
            with documented_shape(GET_PROFILES):
                for each in page["data"]:
                    email = str(each["attributes"]["email"]).strip().lower()
                    found[email] = RemoteProfile(str(each["id"]), _fields(each["attributes"]))
        return found

    async def has_event(self, profile: str, unique_id: str, at: Millis) -> bool:
        moment = datetime.fromtimestamp(at // 1000, UTC)
        terms = (
            f'equals(profile_id,"{profile}")',
            f"greater-or-equal(datetime,{_iso(moment)})",
            f"less-than(datetime,{_iso(moment + timedelta(seconds=1))})",
        )
        query = quote(",".join(terms), safe="")
        path = f"/api/events?filter={query}&page[size]={_EVENTS_PER_PAGE}"
        async for page in self._api.pages(GET_EVENTS, path, backfill=True):
            with documented_shape(GET_EVENTS):
                for each in page:
                    properties = each["attributes"].get("event_properties") or {}
                    if properties.get("$event_id") == unique_id:
                        return True
        return False


def _iso(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


def _fields(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """By the names of connector.domain.profile_state: Klaviyo's own with a leading `@`."""
    found = {f"@{name}": value for name, value in attributes.items() if name != "properties"}
    for name, value in (attributes.get("location") or {}).items():
        found[f"@location.{name}"] = value
    return found | dict(attributes.get("properties") or {})
