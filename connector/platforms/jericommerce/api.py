"""JeriCommerce's HTTP, typed: one person, the link to his pass, and what it can be told.

Paths and bodies: its guides and API index (facts: JeriCommerce, 1.2 to 1.6). What no public page
states is in docs/unverified.md.
"""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote, urlencode

import orjson

from connector.domain.errors import AmbiguousError, Blocked, Problem
from connector.domain.lanes import Millis, QuotaUsage
from connector.net.http import ApiResponse, Http
from connector.net.rate_limit import Limit, RateLimiter
from connector.platforms.jericommerce.settings import Settings
from connector.ports import Clock

GET_CUSTOMER = "GET /v1/programs/{program}/customers/{email}"
GET_TOKEN = "GET /v1/programs/{program}/customers/token"
BALANCE = "POST /v1/programs/{program}/balance/{direction}"
PUSH = "POST {push_url}"
INTEGRATE = "POST /v1/programs/{program}/integrations/api"

ANY_CALL = "* /v1"
"""Quota is asked for under this name, whatever is called: the limit counts all calls of a key."""


def limits(settings: Settings) -> dict[str, Limit]:
    """No public page states a limit: `rate_per_second` for every call (docs/unverified.md)."""
    rate = max(1, round(settings.rate_per_second))
    limit = Limit(rate, round(settings.rate_per_second * 60) or 1)
    return {ANY_CALL: limit}


@dataclass(frozen=True, slots=True)
class HttpClients:
    """The same API, called in three ways: what may be asked again, what must not be done twice
    (it says itself which statuses mean "not applied"), and the push, at an address of its own."""

    idempotent: Http
    non_idempotent: Http
    push: Http


class JeriCommerceApi:
    """One program's API."""

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

    @property
    def governor(self) -> RateLimiter:
        return self._governor

    def now(self) -> Millis:
        return self._clock.now()

    async def customer(self, email: str) -> dict[str, Any] | None:
        """The customer object, None for an unknown person. Its permit was given by the caller.
        Raises DeliveryError."""
        path = f"/v1/programs/{self._settings.program}/customers/{quote(email, safe='')}"
        return await self._get(GET_CUSTOMER, path)

    async def pass_link(self, email: str, *, backfill: bool = False) -> str | None:
        """The address that downloads the person's wallet pass: whoever has it has the pass.
        None when JeriCommerce makes none. Asks for its own permit."""
        await self.permit(backfill=backfill)
        query = {"email": email, "token_type": "download"}
        if self._settings.pass_token_expires_in:
            query["expires_in"] = self._settings.pass_token_expires_in
        path = f"/v1/programs/{self._settings.program}/customers/token?{urlencode(query)}"
        found = await self._get(GET_TOKEN, path)
        token = found.get("accessToken") if found is not None else None
        if not isinstance(token, str) or not token:
            return None
        encoded = base64.b64encode(token.encode()).decode()
        base, program = self._settings.link_base_url, self._settings.program
        return f"{base}/{program}/download?token={quote(encoded, safe='')}"

    async def change_balance(
        self, direction: Literal["increase", "decrease"], item: Mapping[str, Any]
    ) -> None:
        """Apply `{email, amount, reason}`, once. Its permit was given. Raises DeliveryError."""
        path = f"/v1/programs/{self._settings.program}/balance/{direction}"
        answer = await self._clients.non_idempotent.call(
            "POST", path, route=BALANCE, content=orjson.dumps([item])
        )
        _json_or_none(answer)

    async def push(self, message: Mapping[str, str]) -> None:
        """Send `{customer_id, message, url}`, once; `url` may be missing. Its permit was given.
        Raises DeliveryError."""
        answer = await self._clients.push.call(
            "POST", "", route=PUSH, content=orjson.dumps(message)
        )
        _json_or_none(answer)

    async def integrate(self, items: Sequence[Mapping[str, Any]]) -> Any:
        """Tell `[{email, feature, payload}]`, and what the answer's body says, None where it says
        nothing. Its permit was given. Raises DeliveryError; a 404 means that no item worked."""
        path = f"/v1/programs/{self._settings.program}/integrations/api"
        answer = await self._clients.idempotent.call(
            "POST", path, route=INTEGRATE, content=orjson.dumps(items)
        )
        return _json_or_none(answer)

    async def _get(self, route: str, path: str) -> dict[str, Any] | None:
        """The JSON object, None where there is nothing of that name."""
        try:
            answer = await self._clients.idempotent.call("GET", path, route=route)
        except Blocked as error:
            if error.status == 404:
                return None
            raise
        return _json_object(answer.json())

    async def permit(self, *, backfill: bool = False) -> None:
        """Wait for quota for one call and save that it was granted."""
        await self._governor.acquire(ANY_CALL, self._record_usage, backfill=backfill)

    async def aclose(self) -> None:
        for http in (self._clients.idempotent, self._clients.non_idempotent, self._clients.push):
            await http.aclose()


def _json_object(found: Any) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise AmbiguousError(Problem.ANSWER_UNREADABLE, "the answer is no JSON object")
    return found


def _json_or_none(answer: ApiResponse) -> Any:
    """The body of a change's answer. No page says what it holds, and it may well be empty; but a
    gateway's page in place of an answer proves nothing. Raises Unknown for that."""
    return answer.json() if answer.body else None
