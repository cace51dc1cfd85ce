"""JeriCommerce's HTTP, typed: one person, and the link to his pass."""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from urllib.parse import quote, urlencode

from connector.adapters.jericommerce.settings import Settings
from connector.errors import Blocked, Problem, Unknown
from connector.governor import Governor, Limit
from connector.http import Http
from connector.model import Millis, Spend
from connector.ports import Clock

GET_CUSTOMER = "GET /v1/programs/{program}/customers/{email}"
GET_TOKEN = "GET /v1/programs/{program}/customers/token"


def limits(settings: Settings) -> dict[str, Limit]:
    """No public page states a limit: `rate_per_second` for every call (docs/unverified.md)."""
    rate = max(1, round(settings.rate_per_second))
    limit = Limit(rate, round(settings.rate_per_second * 60) or 1)
    return {GET_CUSTOMER: limit}


class JeriCommerceApi:
    """One program's API."""

    def __init__(
        self,
        settings: Settings,
        http: Http,
        governor: Governor,
        clock: Clock,
        remember: Callable[[Sequence[Spend]], Awaitable[None]],
    ) -> None:
        self._settings = settings
        self._http = http
        self._governor = governor
        self._clock = clock
        self._remember = remember

    @property
    def governor(self) -> Governor:
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

    async def _get(self, route: str, path: str) -> dict[str, Any] | None:
        """The JSON object, None where there is nothing of that name."""
        try:
            answer = await self._http.call("GET", path, route=route)
        except Blocked as error:
            if error.status == 404:
                return None
            raise
        return _object(answer.json())

    async def permit(self, *, backfill: bool = False) -> None:
        """Wait for quota for one call and save that it was granted."""
        while True:
            grant = self._governor.reserve(GET_CUSTOMER, 1, backfill=backfill)
            if grant.count:
                await self._remember(grant.spend)
                return
            await self._clock.sleep(grant.wait)

    async def aclose(self) -> None:
        await self._http.aclose()


def _object(found: Any) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise Unknown(Problem.ANSWER_UNREADABLE, "the answer is no JSON object")
    return found
