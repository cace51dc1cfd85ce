"""JeriCommerce's HTTP API: a method per route.

Source of paths and bodies: JeriCommerce's guides and API index. What no public page states is in
docs/unverified.md.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any, Literal
from urllib.parse import quote, urlencode

from connector.net.auth import HeaderKey
from connector.net.http import ApiResponse
from connector.net.rate_limit import RateLimiter
from connector.platforms.jericommerce.settings import Settings
from connector.platforms.json_api import JsonApi
from connector.platforms.kit import Kit

GET_CUSTOMER = "GET /v1/programs/{program}/customers/{email}"
GET_TOKEN = "GET /v1/programs/{program}/customers/token"
BALANCE = "POST /v1/programs/{program}/balance/{direction}"
PUSH = "POST {push_url}"
INTEGRATE = "POST /v1/programs/{program}/integrations/api"

QUOTA = "JeriCommerce API"
"""The one limit counts all calls of a key."""


class JeriCommerceApi(JsonApi):
    """One program's API. A method uses one permit of its caller unless it says otherwise, and
    raises DeliveryError."""

    def __init__(self, settings: Settings, kit: Kit, limiter: RateLimiter) -> None:
        super().__init__(kit, limiter, QUOTA)
        key = HeaderKey("api-key", settings.api_key)
        push_key = key
        if settings.push_auth == "bearer":
            push_key = HeaderKey("Authorization", settings.api_key, prefix="Bearer ")
        self._reads = self.client(settings.base_url, key)
        self._writes = self.client(settings.base_url, key, kit.retry_statuses)
        self._push = self.client(settings.push_url, push_key, kit.retry_statuses)
        self._settings = settings
        self._program = f"/v1/programs/{settings.program}"

    async def customer(self, email: str) -> dict[str, Any] | None:
        """The customer object; None for an unknown person."""
        path = f"{self._program}/customers/{quote(email, safe='')}"
        return await self.find_object(self._reads, path, route=GET_CUSTOMER)

    async def pass_link(self, email: str, *, backfill: bool = False) -> str | None:
        """The address that downloads the person's wallet pass; it is a credential. None if
        JeriCommerce makes none. Requests its own permit."""
        await self.permit(backfill=backfill)
        query = {"email": email, "token_type": "download"}
        if self._settings.pass_token_expires_in:
            query["expires_in"] = self._settings.pass_token_expires_in
        path = f"{self._program}/customers/token?{urlencode(query)}"
        found = await self.find_object(self._reads, path, route=GET_TOKEN)
        token = found.get("accessToken") if found is not None else None
        if not isinstance(token, str) or not token:
            return None
        encoded = base64.b64encode(token.encode()).decode()
        base, program = self._settings.link_base_url, self._settings.program
        return f"{base}/{program}/download?token={quote(encoded, safe='')}"

    async def change_balance(
        self, direction: Literal["increase", "decrease"], item: Mapping[str, Any]
    ) -> None:
        """Apply `{email, amount, reason}`. Not idempotent."""
        path = f"{self._program}/balance/{direction}"
        _json_or_none(await self.call(self._writes, "POST", path, route=BALANCE, body=[item]))

    async def push(self, message: Mapping[str, str]) -> None:
        """Send `{customer_id, message, url}`; `url` may be missing. Not idempotent."""
        _json_or_none(await self.call(self._push, "POST", "", route=PUSH, body=message))

    async def integrate(self, items: Sequence[Mapping[str, Any]]) -> Any:
        """Send `[{email, feature, payload}]`, at most 100. The JSON of the response, None if it is
        empty. A 404 means that no item was applied."""
        path = f"{self._program}/integrations/api"
        return _json_or_none(
            await self.call(self._reads, "POST", path, route=INTEGRATE, body=items)
        )


def _json_or_none(response: ApiResponse) -> Any:
    """The JSON of a response to a change. No page says what it holds, and it may be empty; but a
    gateway's page instead of JSON proves nothing. Raises AmbiguousError for that."""
    return response.json() if response.body else None
