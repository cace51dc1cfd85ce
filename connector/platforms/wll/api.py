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

from connector.domain.errors import Blocked, Problem, Rejected, Unknown
from connector.domain.lanes import (
    Millis,
    Spend,
)
from connector.net.auth import OAuthToken
from connector.net.http import Answer, Http
from connector.net.rate_limit import Governor, Limit
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
_KEPT = 600.0
"""Seconds for which what everybody may see is not fetched again."""


def limits(settings: Settings) -> dict[str, Limit]:
    """WLL allows 100 a second per API key and bursts of 400; we keep to `rate_per_second`."""
    rate = settings.rate_per_second
    return {ANY_CALL: Limit(max(1, round(rate)), max(1, round(rate * 60)))}


@dataclass(frozen=True, slots=True)
class Ways:
    """The same API, called as an administrator, with the key alone, and by the secret of the event
    type that moves points, where a repeat is not harmless."""

    token: OAuthToken
    admin: Http
    anybody: Http
    points: Http


@dataclass(frozen=True, slots=True)
class Listing:
    """One page of a list; `cursor` is where the next one begins, None at the end."""

    items: Sequence[dict[str, Any]]
    cursor: str | None


class WllApi:
    """One tenant's API. Raises DeliveryError throughout."""

    def __init__(
        self,
        settings: Settings,
        ways: Ways,
        governor: Governor,
        clock: Clock,
        remember: Callable[[Sequence[Spend]], Awaitable[None]],
    ) -> None:
        self._settings = settings
        self._ways = ways
        self._governor = governor
        self._clock = clock
        self._remember = remember
        self._seen_by_all: dict[str, tuple[float, Sequence[Any]]] = {}
        self._looking = asyncio.Lock()

    @property
    def governor(self) -> Governor:
        return self._governor

    def now(self) -> Millis:
        return self._clock.now()

    async def user(self, subject: str) -> dict[str, Any] | None:
        """The user of an authIdentifier, account number or id; None for an unknown one. Its permit
        was given by the caller."""
        path = self._settings.paths.user.replace("{subject}", quote(subject, safe=""))
        try:
            answer = await self._ways.admin.call("GET", path, route=GET_USER)
        except Blocked as error:
            if error.status == 404:
                return None
            raise
        user = _opened(answer).get("data")
        if not isinstance(user, dict) or subject.casefold() not in _ids(user):
            raise Unknown(Problem.ANSWER_UNREADABLE, "the answer is not about the user asked for")
        return user

    async def users(self, cursor: str | None, *, backfill: bool = False) -> Listing:
        """A page of everybody."""
        return await self._list(GET_USERS, self._settings.paths.users, cursor, backfill=backfill)

    async def audiences(self, cursor: str | None) -> Listing:
        """A page of `{id, name}`."""
        return await self._list(GET_AUDIENCES, self._settings.paths.audiences, cursor)

    async def members(self, audience: str, cursor: str | None) -> Listing:
        """A page of the users in an audience."""
        path = self._settings.paths.members.replace("{id}", quote(audience, safe=""))
        return await self._list(GET_MEMBERS, path, cursor)

    async def rewards(self) -> Sequence[Any]:
        """The rewards, at most ten minutes old."""
        return await self._common(GET_REWARDS, self._settings.paths.rewards)

    async def tiers(self) -> Sequence[Any]:
        """The tiers, at most ten minutes old."""
        return await self._common(GET_TIERS, self._settings.paths.tiers)

    async def report(self, event: Mapping[str, Any]) -> str | None:
        """Report the event that moves points, once; WLL's id of it. Its permit was given."""
        path = self._settings.paths.events
        content = orjson.dumps(event)
        answer = await self._ways.points.call("POST", path, route=POST_EVENT, content=content)
        data = _opened(answer).get("data")
        id = data.get("id") if isinstance(data, dict) else None
        return id if isinstance(id, str) else None

    async def permit(self, *, backfill: bool = False) -> None:
        """Wait for quota for one call and save that it was granted."""
        await self._governor.permit(ANY_CALL, self._remember, backfill=backfill)

    async def aclose(self) -> None:
        await self._ways.token.aclose()
        for http in (self._ways.admin, self._ways.anybody, self._ways.points):
            await http.aclose()

    async def _list(
        self, route: str, path: str, cursor: str | None, *, backfill: bool = False
    ) -> Listing:
        await self.permit(backfill=backfill)
        if cursor is not None:
            path += ("&" if "?" in path else "?") + f"cursor={quote(cursor, safe='')}"
        page = _opened(await self._ways.admin.call("GET", path, route=route))
        following = page.get("next")
        if following is not None and not isinstance(following, str | int):
            raise Unknown(Problem.ANSWER_UNREADABLE, "`next` is no cursor")
        items = _items(page)
        if not all(isinstance(item, dict) for item in items):
            raise Unknown(Problem.ANSWER_UNREADABLE, "a list holds something that is no object")
        return Listing(items, str(following) if following else None)

    async def _common(self, route: str, path: str) -> Sequence[Any]:
        async with self._looking:
            read_at, items = self._seen_by_all.get(route, (-_KEPT, ()))
            if self._clock.monotonic() - read_at < _KEPT:
                return items
            await self.permit()
            read_at = self._clock.monotonic()
            items = _items(_opened(await self._ways.anybody.call("GET", path, route=route)))
            self._seen_by_all[route] = (read_at, items)
            return items


def _opened(answer: Answer) -> dict[str, Any]:
    """The envelope. Raises Rejected for `fail`, Unknown for `error` and what is no envelope."""
    said = answer.json()
    if not isinstance(said, dict):
        raise Unknown(Problem.ANSWER_UNREADABLE, "the answer is no JSON object")
    status = said.get("status", "success")
    if status == "fail":
        raise Rejected(Problem.PLATFORM_REFUSED, f"status fail in a {answer.status}")
    if status != "success":
        raise Unknown(Problem.SERVER_FAULT, f"status is not success in a {answer.status}")
    return said


def _items(page: Mapping[str, Any]) -> Sequence[Any]:
    items = page.get("data")
    if not isinstance(items, list):
        raise Unknown(Problem.ANSWER_UNREADABLE, "`data` is no list")
    return items


def _ids(user: Mapping[str, Any]) -> set[str]:
    ids = (user.get(key) for key in ("authIdentifier", "id", "accountNumber"))
    return {str(id).casefold() for id in ids if id is not None}
