"""The API of a Yotpo app, for adjustments only: another address, a token, 100 calls a minute.

Source: develop.yotpo.com/reference/adjust-loyalty-customer-points. No page states the address, so
it is a setting.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from connector.domain.errors import Problem, Rejected
from connector.net.auth import HeaderKey, OAuthToken, QueryKey, TokenEndpoint
from connector.net.http import Credential
from connector.net.rate_limit import Limit, RateLimiter
from connector.net.stored_token import StoredToken
from connector.platforms.kit import Kit
from connector.platforms.yotpo.api import SpacedApi
from connector.platforms.yotpo.settings import TOKEN_IN_QUERY, Settings

ADJUST = "POST {adjust_url}"
QUOTA = "Yotpo app API"
_BURST_PER_SECOND = 5


class AppApi(SpacedApi):
    """connector.platforms.yotpo.actions.AdjustApi. A refresh token that Yotpo replaces is stored
    encrypted; without `[security] encryption_key` it is kept as long as this process runs."""

    def __init__(self, settings: Settings, kit: Kit, limiter: RateLimiter) -> None:
        super().__init__(kit, limiter, QUOTA)
        url = urlsplit(settings.adjust_url)
        query = url.query.removesuffix(TOKEN_IN_QUERY).rstrip("&")
        in_query = "access_token" if url.query.endswith(TOKEN_IN_QUERY) else None
        self._path = url.path + (f"?{query}" if query else "")
        self._auth = self._credential(settings, kit, in_query)
        self._writes = self.client(f"{url.scheme}://{url.netloc}", self._auth, kit.retry_statuses)

    def _credential(self, settings: Settings, kit: Kit, in_query: str | None) -> Credential:
        static_token = settings.access_token
        if static_token.get_secret_value():
            if in_query:
                return QueryKey(in_query, static_token)
            return HeaderKey("Authorization", static_token, prefix="Bearer ")
        transport = self.client(settings.token_url, dict[str, str])
        if kit.refreshed_token is not None:
            endpoint = TokenEndpoint(
                transport,
                client_id=settings.client_id,
                client_secret=settings.client_secret,
                as_json=True,
            )
            return kit.refreshed_token(endpoint, settings.refresh_token, query=in_query)
        return OAuthToken(
            transport,
            clock=kit.clock,
            client_id=settings.client_id,
            client_secret=settings.client_secret,
            refresh_token=settings.refresh_token,
            as_json=True,
            query=in_query,
        )

    async def aclose(self) -> None:
        """The token first: its refresh under way must end with a stored answer."""
        if isinstance(self._auth, StoredToken):
            await self._auth.aclose()
        await super().aclose()

    async def adjust(self, body: Mapping[str, Any]) -> Any:
        """The app's page wants an e-mail address, and `visible_to_customer` as a text. Raises
        DeliveryError."""
        if "customer_email" not in body:
            detail = "the app API takes an e-mail address only, and the customer's is not known"
            raise Rejected(Problem.NO_IDENTITY, detail)
        visible = "true" if body["visible_to_customer"] else "false"
        sent = {**body, "visible_to_customer": visible}
        response = await self.call(self._writes, "POST", self._path, route=ADJUST, body=sent)
        return response.json()


async def open_app(settings: Settings, kit: Kit) -> AppApi:
    """The app of the settings."""
    key = f"{urlsplit(settings.adjust_url).netloc} {settings.app_key}"
    limit = Limit(_BURST_PER_SECOND, settings.rate_per_minute)
    return AppApi(settings, kit, await kit.quota(key, {QUOTA: limit}))
