"""Klaviyo's HTTP API, typed: each read waits for quota, each write is recorded for timelines."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from pydantic import SecretStr

from connector.domain.attention import Check
from connector.domain.errors import (
    AmbiguousError,
    Blocked,
    DeliveryError,
    GuaranteeError,
    Problem,
    RetryLater,
)
from connector.domain.lanes import QuotaUsage
from connector.domain.outcomes import Request
from connector.klaviyo.limits import (
    GET_ACCOUNTS,
    GET_INSTALLS,
    GET_METRICS,
    GET_PROFILE,
    GET_PROFILES,
    LIMITS,
)
from connector.net.auth import HeaderKey
from connector.net.http import ApiResponse, CallStats, Http
from connector.net.rate_limit import RateLimiter
from connector.ports import Clock

JSON_API = "application/vnd.api+json"
_BETA_REVISION = "2026-10-15.pre"
"""Of the Applications API, which no stable revision has."""


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
    """A write that was sent and its result. `error` is None where it was accepted."""

    request: Request
    result: ApiResponse | DeliveryError

    @property
    def error(self) -> DeliveryError | None:
        return self.result if isinstance(self.result, DeliveryError) else None

    def response(self) -> ApiResponse:
        """The answer. Raises the request's error."""
        if isinstance(self.result, DeliveryError):
            raise self.result
        return self.result


@dataclass(frozen=True, slots=True)
class Account:
    """GET /api/accounts."""

    id: str
    name: str
    timezone: str


class KlaviyoApi:
    """One connection's calls. `record_usage` saves quota that was granted outside a claim."""

    def __init__(
        self,
        http: Http,
        limiter: RateLimiter,
        clock: Clock,
        record_usage: Callable[[Sequence[QuotaUsage]], Awaitable[None]],
    ) -> None:
        self._http = http
        self._limiter = limiter
        self._clock = clock
        self._record_usage = record_usage

    @property
    def limiter(self) -> RateLimiter:
        return self._limiter

    async def permit(self, endpoint: str, *, backfill: bool = False) -> None:
        """Wait for quota for one request to `endpoint` and save that it was granted."""
        await self._limiter.acquire(endpoint, self._record_usage, backfill=backfill)

    async def post(self, route: str, body: bytes) -> SentRequest:
        """Send a write whose quota was granted before. Raises no DeliveryError: see SentRequest."""
        method, path = route.split(" ", 1)
        return await self.send(method, path, route, body)

    async def send(self, method: str, path: str, route: str, body: bytes) -> SentRequest:
        """`post` for a path with data in it; only its template `route` is recorded and logged.

        Raises GuaranteeError for an endpoint that limits.py does not name: it names none that
        grants consent, lifts a suppression or unsubscribes a person (guarantee 7).
        """
        if route not in LIMITS:
            raise GuaranteeError(f"{route} is not an endpoint that the connector may call")
        started, began = self._clock.now(), self._clock.monotonic()
        result = await self._call(method, path, route, body)
        error = result if isinstance(result, DeliveryError) else None
        request = Request(
            id=secrets.token_hex(8),
            endpoint=route,
            sent_at=started,
            status=result.status,
            millis=round((self._clock.monotonic() - began) * 1000),
            problem=error.problem if error else None,
        )
        return SentRequest(request, result)

    async def _call(
        self, method: str, path: str, route: str, body: bytes
    ) -> ApiResponse | DeliveryError:
        try:
            return await self._http.call(method, path, route=route, content=body)
        except DeliveryError as error:
            if isinstance(error, RetryLater):
                self._slow_down(route, error)
            return error

    async def account(self) -> Account:
        """The account of the key. Scope accounts:read. Raises DeliveryError."""
        page = await self.get(GET_ACCOUNTS, "/api/accounts")
        with documented_shape(GET_ACCOUNTS):
            first = page["data"][0]
            contact = first["attributes"].get("contact_information") or {}
            return Account(
                id=first["id"],
                name=contact.get("organization_name") or "",
                timezone=first["attributes"].get("timezone") or "UTC",
            )

    async def check(self) -> Sequence[Check]:
        """Whether the key is valid, and its account."""
        what = "Klaviyo key"
        try:
            account = await self.account()
        except DeliveryError as error:
            if isinstance(error, Blocked) and error.problem is Problem.KLAVIYO_SCOPE:
                missing_scope = (
                    "accounts:read is missing, so a key of another account is not noticed: add it"
                )
                return [Check(what, "warning", missing_scope, error.problem)]
            return [Check(what, "fault", error.detail, error.problem)]
        return [Check(what, "ok", f"account {account.id} {account.name}".strip())]

    async def is_installed(self) -> bool:
        """Whether the app of an OAuth token is still installed (Applications API, beta). Scope
        applications:read. Raises DeliveryError."""
        await self.permit(GET_INSTALLS)
        answer = await self._http.call(
            "GET",
            "/api/application-installs",
            route=GET_INSTALLS,
            headers={"revision": _BETA_REVISION},
        )
        with documented_shape(GET_INSTALLS):
            return bool(answer.json()["data"])

    async def profile_id(self, email: str, *, backfill: bool = False) -> str | None:
        """Klaviyo's id of the profile with this address. Scope profiles:read."""
        query = quote(f'equals(email,"{email}")', safe="")
        path = f"/api/profiles?filter={query}&fields[profile]=email"
        page = await self.get(GET_PROFILES, path, backfill=backfill)
        with documented_shape(GET_PROFILES):
            return str(page["data"][0]["id"]) if page["data"] else None

    async def profile_email(self, id: str) -> str | None:
        """The address of a profile, empty where it has none; None without such a profile. Scope
        profiles:read."""
        path = f"/api/profiles/{quote(id, safe='')}?fields[profile]=email"
        try:
            page = await self.get(GET_PROFILE, path)
        except Blocked as error:
            if error.status == 404:
                return None
            raise
        with documented_shape(GET_PROFILE):
            email = page["data"]["attributes"]["email"]
        return email.strip().lower() if isinstance(email, str) else ""

    async def metric_names(self) -> list[tuple[str, str]]:
        """(metric, the integration that sends it), every page. Scope metrics:read."""
        found: list[tuple[str, str]] = []
        async for page in self.pages(GET_METRICS, "/api/metrics"):
            with documented_shape(GET_METRICS):
                for metric in page:
                    integration = metric["attributes"].get("integration") or {}
                    found.append((metric["attributes"]["name"], integration.get("name") or ""))
        return found

    async def pages(
        self, route: str, path: str, *, backfill: bool = False
    ) -> AsyncIterator[list[Any]]:
        """The `data` of every page, following `links.next` until there is none or it repeats."""
        async for document in self.documents(route, path, backfill=backfill):
            yield document["data"]

    async def documents(
        self, route: str, path: str, *, backfill: bool = False
    ) -> AsyncIterator[dict[str, Any]]:
        """Every page as a whole document, with what it includes besides `data`."""
        next_path: str | None = path
        base = route.split(" ", 1)[1].split("{", 1)[0]
        seen: set[str] = set()
        while next_path and next_path not in seen:
            seen.add(next_path)
            page = await self.get(route, next_path, backfill=backfill)
            with documented_shape(route):
                if not isinstance(page["data"], list):
                    raise TypeError("`data` is no list")
                link = (page.get("links") or {}).get("next")
                next_path = base + link.split(base, 1)[1] if link else None
            yield page

    async def get(self, route: str, path: str, *, backfill: bool = False) -> Any:
        """The JSON of a read, which waits for its quota. Raises DeliveryError."""
        await self.permit(route, backfill=backfill)
        try:
            return (await self._http.call("GET", path, route=route)).json()
        except RetryLater as failed:
            self._slow_down(route, failed)
            raise

    def _slow_down(self, route: str, error: RetryLater) -> None:
        """A 429 without `Retry-After` means the window of one second."""
        if error.after or error.status == 429:
            self._limiter.slow_down(route, error.after or 1.0)

    async def aclose(self) -> None:
        await self._http.aclose()


@contextmanager
def documented_shape(route: str) -> Iterator[None]:
    """Around code that takes an answer of `route` apart. Raises AmbiguousError where the answer has
    another shape than Klaviyo documents."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise AmbiguousError(
            Problem.ANSWER_UNREADABLE, f"{route} answered in another shape than documented"
        ) from error


def observe_headers(limiter: RateLimiter) -> Callable[[CallStats], None]:
    """An `on_call` of Http that passes the headers of every answer to the limiter."""

    def observe(call: CallStats) -> None:
        if call.status is not None and call.status != 429:
            limiter.observe(call.route, call.headers)

    return observe
