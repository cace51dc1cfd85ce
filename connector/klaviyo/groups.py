"""Reads lists and segments: their members, and which addresses have a profile.

Source: Klaviyo's reference of `get_profiles_for_list`, `get_profiles_for_segment` and
`get_profiles`. The specification gives no limit for the values of `any(email,[…])`; a page holds
100 profiles, so one call asks for at most 100, and for fewer where the URL would get too long.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import orjson

from connector.domain.errors import Blocked
from connector.domain.lanes import Millis
from connector.klaviyo.api import KlaviyoApi, documented_shape
from connector.klaviyo.limits import (
    CREATE_LIST,
    GET_LIST,
    GET_LIST_COUNT,
    GET_LIST_PROFILES,
    GET_LISTS,
    GET_PROFILES,
    GET_SEGMENT,
    GET_SEGMENT_COUNT,
    GET_SEGMENT_PROFILES,
    GET_SEGMENTS,
)
from connector.ports import GroupKind, Member, MembersPage
from connector.runtime.clock import iso, to_millis

PAGE_SIZE = 100
_MAX_URL = 6_000
_ID = re.compile(r"[A-Za-z0-9]{4,32}")
_COLLECTION_ROUTES: dict[GroupKind, str] = {"list": GET_LISTS, "segment": GET_SEGMENTS}
_ITEM_ROUTES: dict[GroupKind, str] = {"list": GET_LIST, "segment": GET_SEGMENT}
_COUNT_ROUTES: dict[GroupKind, str] = {"list": GET_LIST_COUNT, "segment": GET_SEGMENT_COUNT}
_PROFILE_ROUTES: dict[GroupKind, str] = {"list": GET_LIST_PROFILES, "segment": GET_SEGMENT_PROFILES}


class KlaviyoGroups:
    """connector.ports.TargetGroups."""

    def __init__(self, api: KlaviyoApi) -> None:
        self._api = api

    async def find(self, kind: GroupKind, name: str) -> Mapping[str, str]:
        escaped = name.replace("\\", "\\\\").replace('"', '\\"')
        query = quote(f'equals(name,"{escaped}")', safe="")
        found: dict[str, str] = {}
        async for page in self._api.pages(_COLLECTION_ROUTES[kind], f"/api/{kind}s?filter={query}"):
            found.update(_names(_COLLECTION_ROUTES[kind], page))
        if not found and _ID.fullmatch(name):
            try:
                one = await self._api.get(_ITEM_ROUTES[kind], f"/api/{kind}s/{name}")
            except Blocked as error:
                if error.status != 404:
                    raise
            else:
                found = _names(_ITEM_ROUTES[kind], [one.get("data")])
        return found

    async def all(self, kind: GroupKind) -> AsyncIterator[Mapping[str, str]]:
        route = _COLLECTION_ROUTES[kind]
        path = f"/api/{kind}s"
        async for page in self._api.pages(route, path, backfill=True):
            yield _names(route, page)

    async def count(self, kind: GroupKind, id: str) -> int | None:
        route = _COUNT_ROUTES[kind]
        path = f"/api/{kind}s/{id}?additional-fields[{kind}]=profile_count"
        found = await self._api.get(route, path, backfill=True)
        with documented_shape(route):
            count = found["data"]["attributes"].get("profile_count")
            return None if count is None else int(count)

    async def is_processing(self, segment: str) -> bool:
        found = await self._api.get(GET_SEGMENT, f"/api/segments/{segment}", backfill=True)
        with documented_shape(GET_SEGMENT):
            return found["data"]["attributes"].get("is_processing") is True

    async def create_list(self, name: str) -> str:
        body = orjson.dumps({"data": {"type": "list", "attributes": {"name": name}}})
        await self._api.permit(CREATE_LIST)
        response = (await self._api.post(CREATE_LIST, body)).response()
        with documented_shape(CREATE_LIST):
            return str(response.json()["data"]["id"])

    async def members(
        self, kind: GroupKind, id: str, cursor: str | None, *, since: Millis | None = None
    ) -> MembersPage:
        route = _PROFILE_ROUTES[kind]
        path = f"/api/{kind}s/{id}/profiles?fields[profile]=email,joined_group_at"
        path += f"&sort=joined_group_at&page[size]={PAGE_SIZE}"
        if since is not None:
            since_filter = quote(f"greater-or-equal(joined_group_at,{iso(since)})", safe="")
            path += f"&filter={since_filter}"
        if cursor:
            path += f"&page[cursor]={quote(cursor, safe='')}"
        page = await self._api.get(route, path, backfill=True)
        with documented_shape(route):
            members = [
                Member(
                    email=_normalized(each["attributes"].get("email")),
                    profile_id=str(each["id"]),
                    joined_at=_parse_time(each["attributes"].get("joined_group_at")),
                )
                for each in page["data"]
            ]
            next_cursor = _cursor((page.get("links") or {}).get("next"))
        more = next_cursor is not None and next_cursor != cursor
        return MembersPage(members, next_cursor or cursor, more)

    async def existing(self, emails: Sequence[str]) -> set[str]:
        return set(await self.ids(emails, backfill=True))

    async def ids(self, emails: Sequence[str], *, backfill: bool = False) -> dict[str, str]:
        """Address → Klaviyo's profile id, for the addresses that have a profile."""
        found: dict[str, str] = {}
        for chunk in chunks(emails):
            query = quote("any(email,[" + ",".join(f'"{email}"' for email in chunk) + "])", safe="")
            path = f"/api/profiles?filter={query}&fields[profile]=email&page[size]={PAGE_SIZE}"
            page = await self._api.get(GET_PROFILES, path, backfill=backfill)
            with documented_shape(GET_PROFILES):
                found |= {
                    email: str(each["id"])
                    for each in page["data"]
                    if (email := _profile_email(each))
                }
        return found


def chunks(emails: Sequence[str]) -> Iterator[list[str]]:
    """As many addresses at once as fit into a page and a URL."""
    chunk: list[str] = []
    size = 0
    for email in emails:
        length = len(quote(email, safe="")) + 9
        if chunk and (len(chunk) == PAGE_SIZE or size + length > _MAX_URL):
            yield chunk
            chunk, size = [], 0
        chunk.append(email)
        size += length
    if chunk:
        yield chunk


def _names(route: str, page: Sequence[Any]) -> dict[str, str]:
    with documented_shape(route):
        return {str(each["id"]): str(each["attributes"]["name"]) for each in page}


def _profile_email(profile: Any) -> str | None:
    return _normalized(profile["attributes"].get("email"))


def _normalized(email: Any) -> str | None:
    return email.strip().lower() if isinstance(email, str) and email.strip() else None


def _parse_time(text: Any) -> Millis | None:
    try:
        return to_millis(datetime.fromisoformat(text))
    except (TypeError, ValueError):
        return None


def _cursor(link: Any) -> str | None:
    """The cursor in a link to the next page."""
    if not isinstance(link, str):
        return None
    found = parse_qs(urlsplit(link).query).get("page[cursor]")
    return found[0] if found else None
