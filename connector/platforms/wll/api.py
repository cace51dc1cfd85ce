"""WLL's HTTP, typed: users, audiences, what everybody may see, and events.

Every answer is an envelope `{status, data, message?}`, and a status that is not `success` is an
error even in a 200. `message` may echo what was sent and is not repeated.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import orjson

from connector.domain.errors import AmbiguousError, Blocked, Problem, Rejected
from connector.domain.lanes import Millis, QuotaUsage
from connector.net.auth import OAuthToken
from connector.net.http import ApiResponse, Http
from connector.net.rate_limit import Limit, RateLimiter
from connector.platforms.wll.settings import Settings
from connector.ports import Clock

GET_USER = "GET /users/{subject}"
GET_USERS = "GET /users"
GET_AUDIENCES = "GET /audiences"
GET_MEMBERS = "GET /audiences/{id}/members"
GET_REWARDS = "GET /rewards"
GET_TIERS = "GET /tiers"
POST_EVENT = "POST /events"

ANY_CALL = "* /v1"
"""Quota is asked for under this name, whatever is called: the limit counts all calls of a key."""
_CACHE_TTL = 600.0
"""Seconds for which what everybody may see is not fetched again."""


def limits(settings: Settings) -> dict[str, Limit]:
    """WLL allows 100 a second per API key and bursts of 400; we keep to `rate_per_second`."""
    rate = settings.rate_per_second
    return {ANY_CALL: Limit(max(1, round(rate)), max(1, round(rate * 60)))}


@dataclass(frozen=True, slots=True)
class HttpClients:
    """The same API, called as an administrator, with the key alone, and by the secret of the event
    type that moves points, where a repeat is not harmless."""

    token: OAuthToken
    admin: Http
    public: Http
    points: Http


@dataclass(frozen=True, slots=True)
class ListPage:
    """One page of a list; `cursor` is where the next one begins, None at the end."""

    items: Sequence[dict[str, Any]]
    cursor: str | None


class WllApi:
    """One tenant's API. Raises DeliveryError throughout."""

    def __init__(
        self,
        settings: Settings,
        clients: HttpClients,
        governor: RateLimiter,
        clock: Clock,
        record_usage: Callable[[Sequence[QuotaUsage]], Awaitable[None]],
    ) -> None:
        self._settings = settings
        self._clients = clients
        self._governor = governor
        self._clock = clock
        self._record_usage = record_usage
        self._public_cache: dict[str, tuple[float, Sequence[Any]]] = {}
        self._cache_lock = asyncio.Lock()

    @property
    def governor(self) -> RateLimiter:
        return self._governor

    def now(self) -> Millis:
        return self._clock.now()

    async def user(self, subject: str) -> dict[str, Any] | None:
        """The user of an authIdentifier, account number or id; None for an unknown one. Its permit
        was given by the caller."""
        path = self._settings.paths.user.replace("{subject}", quote(subject, safe=""))
        try:
            answer = await self._clients.admin.call("GET", path, route=GET_USER)
        except Blocked as error:
            if error.status == 404:
                return None
            raise
        user = _unwrap(answer).get("data")
        if not isinstance(user, dict) or subject.casefold() not in _ids(user):
            raise AmbiguousError(
                Problem.ANSWER_UNREADABLE, "the answer is not about the user asked for"
            )
        return user

    async def users(self, cursor: str | None, *, backfill: bool = False) -> ListPage:
        """A page of everybody."""
        return await self._list(GET_USERS, self._settings.paths.users, cursor, backfill=backfill)

    async def audiences(self, cursor: str | None) -> ListPage:
        """A page of `{id, name}`."""
        return await self._list(GET_AUDIENCES, self._settings.paths.audiences, cursor)

    async def members(self, audience: str, cursor: str | None) -> ListPage:
        """A page of the users in an audience."""
        path = self._settings.paths.members.replace("{id}", quote(audience, safe=""))
        return await self._list(GET_MEMBERS, path, cursor)

    async def rewards(self) -> Sequence[Any]:
        """The rewards, at most ten minutes old."""
        return await self._cached_list(GET_REWARDS, self._settings.paths.rewards)

    async def tiers(self) -> Sequence[Any]:
        """The tiers, at most ten minutes old."""
        return await self._cached_list(GET_TIERS, self._settings.paths.tiers)

    async def post_event(self, event: Mapping[str, Any]) -> str | None:
        """Report the event that moves points, once; WLL's id of it. Its permit was given."""
        path = self._settings.paths.events
        content = orjson.dumps(event)
        answer = await self._clients.points.call("POST", path, route=POST_EVENT, content=content)
        data = _unwrap(answer).get("data")
        id = data.get("id") if isinstance(data, dict) else None
        return id if isinstance(id, str) else None

    async def permit(self, *, backfill: bool = False) -> None:
        """Wait for quota for one call and save that it was granted."""
        await self._governor.acquire(ANY_CALL, self._record_usage, backfill=backfill)

    async def aclose(self) -> None:
        await self._clients.token.aclose()
        for http in (self._clients.admin, self._clients.public, self._clients.points):
            await http.aclose()

    async def _list(
        self, route: str, path: str, cursor: str | None, *, backfill: bool = False
    ) -> ListPage:
        await self.permit(backfill=backfill)
        if cursor is not None:
            path += ("&" if "?" in path else "?") + f"cursor={quote(cursor, safe='')}"
        page = _unwrap(await self._clients.admin.call("GET", path, route=route))
        next_cursor = page.get("next")
        if next_cursor is not None and not isinstance(next_cursor, str | int):
            raise AmbiguousError(Problem.ANSWER_UNREADABLE, "`next` is no cursor")
        items = _items(page)
        if not all(isinstance(item, dict) for item in items):
            raise AmbiguousError(
                Problem.ANSWER_UNREADABLE, "a list holds something that is no object"
            )
        return ListPage(items, str(next_cursor) if next_cursor else None)

    async def _cached_list(self, route: str, path: str) -> Sequence[Any]:
        async with self._cache_lock:
            read_at, items = self._public_cache.get(route, (-_CACHE_TTL, ()))
            if self._clock.monotonic() - read_at < _CACHE_TTL:
                return items
            await self.permit()
            read_at = self._clock.monotonic()
            items = _items(_unwrap(await self._clients.public.call("GET", path, route=route)))
            self._public_cache[route] = (read_at, items)
            return items


def _unwrap(answer: ApiResponse) -> dict[str, Any]:
    """The envelope. Raises Rejected for `fail`, Unknown for `error` and what is no envelope."""
    envelope = answer.json()
    if not isinstance(envelope, dict):
        raise AmbiguousError(Problem.ANSWER_UNREADABLE, "the answer is no JSON object")
    status = envelope.get("status", "success")
    if status == "fail":
        raise Rejected(Problem.PLATFORM_REFUSED, f"status fail in a {answer.status}")
    if status != "success":
        raise AmbiguousError(Problem.SERVER_FAULT, f"status is not success in a {answer.status}")
    return envelope


def _items(page: Mapping[str, Any]) -> Sequence[Any]:
    items = page.get("data")
    if not isinstance(items, list):
        raise AmbiguousError(Problem.ANSWER_UNREADABLE, "`data` is no list")
    return items


def _ids(user: Mapping[str, Any]) -> set[str]:
    ids = (user.get(key) for key in ("authIdentifier", "id", "accountNumber"))
    return {str(id).casefold() for id in ids if id is not None}
