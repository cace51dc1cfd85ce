"""Klaviyo's HTTP, typed: each call asks for quota, and is noted for the timeline."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from pydantic import SecretStr

from connector.domain.attention import Check
from connector.domain.errors import AmbiguousError, Blocked, DeliveryError, Problem, RetryLater
from connector.domain.lanes import QuotaUsage
from connector.domain.outcomes import Request
from connector.klaviyo.limits import GET_ACCOUNTS, GET_METRICS, GET_PROFILE, GET_PROFILES, LIMITS
from connector.net.auth import HeaderKey
from connector.net.http import ApiResponse, CallStats, Http
from connector.net.rate_limit import RateLimiter
from connector.ports import Clock

JSON_API = "application/vnd.api+json"
_SHAPE_ERRORS = (AttributeError, IndexError, KeyError, TypeError)


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
class SentRequest:
    """A request that left and what came of it: `error` is None where it was taken."""

    request: Request
    answer: ApiResponse | None
    error: DeliveryError | None


@dataclass(frozen=True, slots=True)
class Account:
    """GET /api/accounts."""

    id: str
    name: str
    timezone: str


class KlaviyoApi:
    """One connection's calls. `remember` saves quota that was granted outside a claim, and
    `may_send` is asked right before each write: Klaviyo cannot be fenced (promise 12)."""

    def __init__(
        self,
        http: Http,
        governor: RateLimiter,
        clock: Clock,
        record_usage: Callable[[Sequence[QuotaUsage]], Awaitable[None]],
        may_send: Callable[[], bool] = lambda: True,
    ) -> None:
        self._http = http
        self._governor = governor
        self._clock = clock
        self._record_usage = record_usage
        self._may_send = may_send

    @property
    def governor(self) -> RateLimiter:
        return self._governor

    async def permit(self, endpoint: str, *, backfill: bool = False) -> None:
        """Wait for quota for one request to `endpoint` and save that it was granted."""
        await self._governor.acquire(endpoint, self._record_usage, backfill=backfill)

    async def post(self, route: str, body: bytes) -> SentRequest:
        """Send what already has its permit. Raises nothing that the far end can cause."""
        method, path = route.split(" ", 1)
        return await self.send(method, path, route, body)

    async def send(self, method: str, path: str, route: str, body: bytes) -> SentRequest:
        """`post` for a path with data in it, which only its template `route` may tell of.

        Promise 7: an endpoint that limits.py does not name is never written to, and it names none
        that grants a consent, lifts a suppression or unsubscribes anybody."""
        assert route in LIMITS, f"{route} is no endpoint of ours"
        started, began = self._clock.now(), self._clock.monotonic()
        answer: ApiResponse | None = None
        error: DeliveryError | None = None
        try:
            if not self._may_send():
                raise RetryLater(Problem.STORE_HELD, "the lease ended before the request left")
            answer = await self._http.call(method, path, route=route, content=body)
        except DeliveryError as failed:
            error = failed
            if isinstance(failed, RetryLater) and (failed.after or failed.status == 429):
                self._governor.slow_down(route, failed.after or 1.0)
        status = answer.status if answer else error.status if error else None
        request = Request(
            id=secrets.token_hex(8),
            endpoint=route,
            sent_at=started,
            status=status,
            millis=round((self._clock.monotonic() - began) * 1000),
            problem=error.problem if error else None,
        )
        return SentRequest(request, answer, error)

    async def account(self) -> Account:
        """The account that the key belongs to. Scope accounts:read; raises DeliveryError."""
        page = await self.get(GET_ACCOUNTS, "/api/accounts")
        try:
            first = page["data"][0]
            contact = first["attributes"].get("contact_information") or {}
            return Account(
                id=first["id"],
                name=contact.get("organization_name") or "",
                timezone=first["attributes"].get("timezone") or "UTC",
            )
        except _SHAPE_ERRORS as error:
            raise unreadable_answer(GET_ACCOUNTS) from error

    async def check(self) -> Sequence[Check]:
        """Whether the key is good, and whose it is."""
        what = "Klaviyo key"
        try:
            account = await self.account()
        except DeliveryError as error:
            if isinstance(error, Blocked) and error.problem is Problem.KLAVIYO_SCOPE:
                missing_scope = (
                    "accounts:read is missing: the account cannot be told apart by its id"
                )
                return [Check(what, "warning", missing_scope, error.problem)]
            return [Check(what, "fault", error.detail, error.problem)]
        return [Check(what, "ok", f"account {account.id} {account.name}".strip())]

    async def profile_id(self, email: str) -> str | None:
        """Klaviyo's id of the profile with this address. Scope profiles:read."""
        query = quote(f'equals(email,"{email}")', safe="")
        page = await self.get(GET_PROFILES, f"/api/profiles?filter={query}&fields[profile]=email")
        try:
            return str(page["data"][0]["id"]) if page["data"] else None
        except _SHAPE_ERRORS as error:
            raise unreadable_answer(GET_PROFILES) from error

    async def profile_email(self, id: str) -> str | None:
        """The address of a profile, None where there is none or no such profile. Scope
        profiles:read."""
        path = f"/api/profiles/{quote(id, safe='')}?fields[profile]=email"
        try:
            page = await self.get(GET_PROFILE, path)
        except Blocked as error:
            if error.status == 404:
                return None
            raise
        try:
            email = page["data"]["attributes"]["email"]
        except _SHAPE_ERRORS as error:
            raise unreadable_answer(GET_PROFILE) from error
        return email.strip().lower() or None if isinstance(email, str) else None

    async def metric_names(self) -> list[tuple[str, str]]:
        """(metric, the integration that sends it), every page. Scope metrics:read."""
        found: list[tuple[str, str]] = []
        async for page in self.pages(GET_METRICS, "/api/metrics"):
            try:
                for metric in page:
                    integration = metric["attributes"].get("integration") or {}
                    found.append((metric["attributes"]["name"], integration.get("name") or ""))
            except _SHAPE_ERRORS as error:
                raise unreadable_answer(GET_METRICS) from error
        return found

    async def pages(self, route: str, path: str) -> AsyncIterator[list[Any]]:
        """The `data` of every page, following `links.next` until there is none or it repeats."""
        async for document in self.documents(route, path):
            yield document["data"]

    async def documents(self, route: str, path: str) -> AsyncIterator[dict[str, Any]]:
        """Every page whole, with what it includes besides its `data`."""
        next_path: str | None = path
        base = route.split(" ", 1)[1].split("{", 1)[0]
        seen: set[str] = set()
        while next_path and next_path not in seen:
            seen.add(next_path)
            page = await self.get(route, next_path)
            try:
                assert isinstance(page["data"], list)
                link = (page.get("links") or {}).get("next")
                next_path = base + link.split(base, 1)[1] if link else None
            except (AssertionError, *_SHAPE_ERRORS) as error:
                raise unreadable_answer(route) from error
            yield page

    async def get(self, route: str, path: str, *, backfill: bool = False) -> Any:
        """A read, with its own permit: the JSON. Raises DeliveryError."""
        await self.permit(route, backfill=backfill)
        try:
            return (await self._http.call("GET", path, route=route)).json()
        except RetryLater as failed:
            if failed.after:
                self._governor.slow_down(route, failed.after)
            raise

    async def aclose(self) -> None:
        await self._http.aclose()


def unreadable_answer(route: str) -> AmbiguousError:
    return AmbiguousError(
        Problem.ANSWER_UNREADABLE, f"{route} answered in another shape than published"
    )


def observe_headers(governor: RateLimiter) -> Callable[[CallStats], None]:
    """Let a governor read the headers of every answer."""

    def observe(seen: CallStats) -> None:
        if seen.status is not None and seen.status != 429:
            governor.observe(seen.route, seen.headers)

    return observe
