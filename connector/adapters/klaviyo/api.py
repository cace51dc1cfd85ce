"""Klaviyo's HTTP, typed: each call asks for quota, and is noted for the timeline."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import SecretStr

from connector.adapters.klaviyo.limits import GET_ACCOUNTS, GET_METRICS
from connector.auth import HeaderKey
from connector.errors import DeliveryError, Problem, Unknown, Wait
from connector.governor import Governor
from connector.http import Answer, Http, Seen
from connector.model import Request, Spend
from connector.ports import Clock

JSON_API = "application/vnd.api+json"
_NOT_THIS_SHAPE = (AttributeError, IndexError, KeyError, TypeError)


def headers(revision: str) -> dict[str, str]:
    """Sent with every call. Opting out of fall-forward makes a retired revision fail loudly
    (410) instead of changing its behaviour silently."""
    return {
        "revision": revision,
        "accept": JSON_API,
        "content-type": JSON_API,
        "x-klaviyo-revision-fall-forward-opt-out": "1",
    }


def private_key(key: SecretStr) -> HeaderKey:
    return HeaderKey("Authorization", key, prefix="Klaviyo-API-Key ")


@dataclass(frozen=True, slots=True)
class Sent:
    """A request that left and what came of it: `error` is None where it was taken."""

    request: Request
    answer: Answer | None
    error: DeliveryError | None


@dataclass(frozen=True, slots=True)
class Account:
    """GET /api/accounts."""

    id: str
    name: str
    timezone: str


class KlaviyoApi:
    """One connection's calls. `remember` saves quota that was granted outside a claim."""

    def __init__(
        self,
        http: Http,
        governor: Governor,
        clock: Clock,
        remember: Callable[[Sequence[Spend]], Awaitable[None]],
    ) -> None:
        self._http = http
        self._governor = governor
        self._clock = clock
        self._remember = remember

    @property
    def governor(self) -> Governor:
        return self._governor

    async def permit(self, endpoint: str, *, backfill: bool = False) -> None:
        """Wait for quota for one request to `endpoint` and save that it was granted."""
        while True:
            grant = self._governor.reserve(endpoint, 1, backfill=backfill)
            if grant.count:
                await self._remember(grant.spend)
                return
            await self._clock.sleep(grant.wait)

    async def post(self, route: str, body: bytes) -> Sent:
        """Send what already has its permit. Raises nothing that the far end can cause."""
        started, began = self._clock.now(), self._clock.monotonic()
        answer: Answer | None = None
        error: DeliveryError | None = None
        method, path = route.split(" ", 1)
        try:
            answer = await self._http.call(method, path, route=route, content=body)
        except DeliveryError as failed:
            error = failed
            if isinstance(failed, Wait) and failed.after:
                self._governor.slow_down(route, failed.after)
        status = answer.status if answer else error.status if error else None
        request = Request(
            id=secrets.token_hex(8),
            endpoint=route,
            sent_at=started,
            status=status,
            millis=round((self._clock.monotonic() - began) * 1000),
            problem=error.problem if error else None,
        )
        return Sent(request, answer, error)

    async def account(self) -> Account:
        """The account that the key belongs to. Scope accounts:read; raises DeliveryError."""
        page = await self._get(GET_ACCOUNTS, "/api/accounts")
        try:
            first = page["data"][0]
            contact = first["attributes"].get("contact_information") or {}
            return Account(
                id=first["id"],
                name=contact.get("organization_name") or "",
                timezone=first["attributes"].get("timezone") or "UTC",
            )
        except _NOT_THIS_SHAPE as error:
            raise _unreadable(GET_ACCOUNTS) from error

    async def metric_names(self) -> list[tuple[str, str]]:
        """(metric, the integration that sends it), every page. Scope metrics:read."""
        found: list[tuple[str, str]] = []
        path: str | None = "/api/metrics"
        seen: set[str] = set()
        while path and path not in seen:
            seen.add(path)
            page = await self._get(GET_METRICS, path)
            try:
                for metric in page["data"]:
                    integration = metric["attributes"].get("integration") or {}
                    found.append((metric["attributes"]["name"], integration.get("name") or ""))
                following = (page.get("links") or {}).get("next")
                path = "/api/metrics" + following.split("/api/metrics", 1)[1] if following else None
            except _NOT_THIS_SHAPE as error:
                raise _unreadable(GET_METRICS) from error
        return found

    async def _get(self, route: str, path: str) -> Any:
        await self.permit(route)
        try:
            return (await self._http.call("GET", path, route=route)).json()
        except Wait as failed:
            if failed.after:
                self._governor.slow_down(route, failed.after)
            raise

    async def aclose(self) -> None:
        await self._http.aclose()


def _unreadable(route: str) -> Unknown:
    return Unknown(Problem.ANSWER_UNREADABLE, f"{route} answered in another shape than published")


def watch(governor: Governor) -> Callable[[Seen], None]:
    """Let a governor read the headers of every answer."""

    def look(seen: Seen) -> None:
        if seen.status is not None and seen.status != 429:
            governor.observe(seen.route, seen.headers)

    return look
