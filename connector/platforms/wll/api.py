"""WLL's HTTP API: a method per route.

Every response is an envelope `{status, data, message?}`, and a status that is not `success` is an
error even in a 200. `message` may echo what was sent and is not repeated.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from connector.domain.errors import AmbiguousError, Problem, Rejected
from connector.net.auth import HeaderKey, OAuthToken
from connector.net.http import ApiResponse
from connector.net.rate_limit import RateLimiter
from connector.platforms.json_api import JsonApi, json_object
from connector.platforms.kit import Kit
from connector.platforms.wll.settings import Settings

GET_USER = "GET /users/{subject}"
GET_USERS = "GET /users"
GET_AUDIENCES = "GET /audiences"
GET_MEMBERS = "GET /audiences/{id}/members"
GET_REWARDS = "GET /rewards"
GET_TIERS = "GET /tiers"
POST_EVENT = "POST /events"

QUOTA = "White Label Loyalty API"
"""The one limit counts all calls of a key."""
_CACHE_TTL = 600.0
"""Seconds for which public lists are not fetched again."""


@dataclass(frozen=True, slots=True)
class ListPage:
    """One page of a list; `cursor` is where the next one begins, None at the end."""

    items: Sequence[dict[str, Any]]
    cursor: str | None


class WllApi(JsonApi):
    """One tenant's API. A method uses one permit of its caller unless it says otherwise, and raises
    DeliveryError."""

    def __init__(self, settings: Settings, kit: Kit, limiter: RateLimiter) -> None:
        super().__init__(kit, limiter, QUOTA)
        key = HeaderKey("X-Api-Key", settings.api_key)
        event_key = HeaderKey("Authorization", settings.points_event_secret, prefix="Bearer ")

        def event_credential() -> Mapping[str, str]:
            return {**key(), **event_key()}

        token = OAuthToken(
            self.client(settings.auth_url, dict),
            clock=kit.clock,
            client_id=settings.client_id,
            client_secret=settings.client_secret,
            extra={"audience": "wlloyalty.net"},
            as_json=True,
            extra_header=key,
        )
        self._reads = self.client(settings.base_url, token)
        self._public_reads = self.client(settings.base_url, key)
        self._writes = self.client(settings.base_url, event_credential, kit.retry_statuses)
        self._paths = settings.paths
        self._public_cache: dict[str, tuple[float, Sequence[Any]]] = {}
        self._cache_lock = asyncio.Lock()

    async def user(self, subject: str) -> dict[str, Any] | None:
        """The user of an authIdentifier, account number or id; None for an unknown one."""
        path = self._paths.user.replace("{subject}", quote(subject, safe=""))
        response = await self.find(self._reads, path, route=GET_USER)
        if response is None:
            return None
        user = _unwrap(response).get("data")
        if not isinstance(user, dict) or subject.casefold() not in _ids(user):
            raise AmbiguousError(
                Problem.ANSWER_UNREADABLE, "the response is not about the requested user"
            )
        return user

    async def users(self, cursor: str | None, *, backfill: bool = False) -> ListPage:
        """A page of all users. Requests its own permit."""
        return await self._list(GET_USERS, self._paths.users, cursor, backfill=backfill)

    async def audiences(self, cursor: str | None) -> ListPage:
        """A page of `{id, name}`. Requests its own permit."""
        return await self._list(GET_AUDIENCES, self._paths.audiences, cursor)

    async def members(self, audience: str, cursor: str | None) -> ListPage:
        """A page of the users in an audience. Requests its own permit."""
        path = self._paths.members.replace("{id}", quote(audience, safe=""))
        return await self._list(GET_MEMBERS, path, cursor)

    async def rewards(self) -> Sequence[Any]:
        """The rewards, at most ten minutes old. Requests its own permit."""
        return await self._cached_list(GET_REWARDS, self._paths.rewards)

    async def tiers(self) -> Sequence[Any]:
        """The tiers, at most ten minutes old. Requests its own permit."""
        return await self._cached_list(GET_TIERS, self._paths.tiers)

    async def post_event(self, event: Mapping[str, Any]) -> str | None:
        """Report the event that adjusts points; WLL's id of it. Not idempotent."""
        response = await self.call(
            self._writes, "POST", self._paths.events, route=POST_EVENT, body=event
        )
        data = _unwrap(response).get("data")
        id = data.get("id") if isinstance(data, dict) else None
        return id if isinstance(id, str) else None

    async def _list(
        self, route: str, path: str, cursor: str | None, *, backfill: bool = False
    ) -> ListPage:
        await self.permit(backfill=backfill)
        if cursor is not None:
            path += ("&" if "?" in path else "?") + f"cursor={quote(cursor, safe='')}"
        page = _unwrap(await self.call(self._reads, "GET", path, route=route))
        next_cursor = page.get("next")
        if next_cursor is not None and not isinstance(next_cursor, str | int):
            raise AmbiguousError(Problem.ANSWER_UNREADABLE, "`next` is not a cursor")
        items = _items(page)
        if not all(isinstance(item, dict) for item in items):
            raise AmbiguousError(
                Problem.ANSWER_UNREADABLE, "a list holds an item that is not an object"
            )
        return ListPage(items, str(next_cursor) if next_cursor else None)

    async def _cached_list(self, route: str, path: str) -> Sequence[Any]:
        async with self._cache_lock:
            read_at, items = self._public_cache.get(route, (-_CACHE_TTL, ()))
            if self.clock.monotonic() - read_at < _CACHE_TTL:
                return items
            await self.permit()
            read_at = self.clock.monotonic()
            response = await self.call(self._public_reads, "GET", path, route=route)
            items = _items(_unwrap(response))
            self._public_cache[route] = (read_at, items)
            return items


def _unwrap(response: ApiResponse) -> dict[str, Any]:
    """The envelope. Raises Rejected for `fail`, AmbiguousError for `error` and for anything that is
    not an envelope."""
    envelope = json_object(response)
    status = envelope.get("status", "success")
    if status == "fail":
        raise Rejected(Problem.PLATFORM_REFUSED, f"status fail in a {response.status}")
    if status != "success":
        raise AmbiguousError(Problem.SERVER_FAULT, f"status is not success in a {response.status}")
    return envelope


def _items(page: Mapping[str, Any]) -> Sequence[Any]:
    items = page.get("data")
    if not isinstance(items, list):
        raise AmbiguousError(Problem.ANSWER_UNREADABLE, "`data` is not a list")
    return items


def _ids(user: Mapping[str, Any]) -> set[str]:
    ids = (user.get(key) for key in ("authIdentifier", "id", "accountNumber"))
    return {str(id).casefold() for id in ids if id is not None}
