"""The platform's HTTP API, with the configured headers as its credential."""

from __future__ import annotations

from typing import Any

from connector.net.http import ApiResponse
from connector.net.rate_limit import RateLimiter
from connector.platforms.http.settings import Settings
from connector.platforms.json_api import JsonApi
from connector.platforms.kit import Kit

QUOTA = "HTTP platform API"
"""`rate_per_second` counts all calls: reads and adjustments share it."""


class HttpApi(JsonApi):
    """Calls use one permit of the caller and raise DeliveryError."""

    def __init__(self, settings: Settings, kit: Kit, limiter: RateLimiter) -> None:
        super().__init__(kit, limiter, QUOTA)

        def credential() -> dict[str, str]:
            headers = {name: value.get_secret_value() for name, value in settings.headers.items()}
            return {"content-type": "application/json", **headers}

        self._reads = self.client(settings.base_url, credential)
        self._writes = self.client(settings.base_url, credential, kit.retry_statuses)

    async def person(self, path: str, *, route: str) -> ApiResponse | None:
        """The response to a read; None for a 404."""
        return await self.find(self._reads, path, route=route)

    async def adjust(self, method: str, path: str, *, route: str, body: Any) -> ApiResponse:
        """The response to an adjustment. Not idempotent."""
        return await self.call(self._writes, method, path, route=route, body=body)
