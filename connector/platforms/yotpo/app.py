"""The API of a Yotpo app, for adjustments alone: another address, a token, 100 a minute.

Source: develop.yotpo.com/reference/adjust-loyalty-customer-points (facts: Yotpo, 2.2). The address
is printed nowhere, so it is a setting.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import orjson

from connector.domain.errors import Problem, Rejected
from connector.net.auth import HeaderKey, OAuthToken, QueryKey
from connector.net.http import Credential, Http
from connector.net.rate_limit import Limit, RateLimiter
from connector.platforms.kit import NOT_APPLIED, Kit
from connector.platforms.yotpo.api import call
from connector.platforms.yotpo.settings import TOKEN_IN_QUERY, Settings

ADJUST = "POST app points/adjust"
_BURST_PER_SECOND = 5


class AppApi:
    """connector.platforms.yotpo.actions.Adjusting."""

    endpoint = ADJUST

    def __init__(
        self, http: Http, path: str, governor: RateLimiter, token: OAuthToken | None
    ) -> None:
        self.governor = governor
        self._http = http
        self._path = path
        self._token = token

    async def adjust(self, body: dict[str, Any]) -> Any:
        """Raises DeliveryError. The app's page wants an address, and `visible` as a text."""
        if "customer_email" not in body:
            detail = "the app API takes an e-mail address only, and the customer's is not known"
            raise Rejected(Problem.NO_IDENTITY, detail)
        visible = "true" if body["visible_to_customer"] else "false"
        content = orjson.dumps({**body, "visible_to_customer": visible})
        return await call(self._http, self.governor, ADJUST, "POST", self._path, ADJUST, content)

    async def aclose(self) -> None:
        await self._http.aclose()
        if self._token is not None:
            await self._token.aclose()


async def open_app(settings: Settings, kit: Kit) -> AppApi:
    """The app that the settings name. A refresh token that Yotpo replaces is replaced here for as
    long as this process runs; docs/unverified.md says what follows."""
    url = urlsplit(settings.adjust_url)
    query = url.query.removesuffix(TOKEN_IN_QUERY).rstrip("&")
    in_query = "access_token" if url.query.endswith(TOKEN_IN_QUERY) else None
    token: OAuthToken | None = None
    credential: Credential
    if settings.access_token.get_secret_value():
        static_token = settings.access_token
        credential = (
            QueryKey(in_query, static_token)
            if in_query
            else HeaderKey("Authorization", static_token, prefix="Bearer ")
        )
    else:
        transport = kit.http(settings.token_url, dict[str, str], NOT_APPLIED)
        credential = token = OAuthToken(
            transport,
            clock=kit.clock,
            client_id=settings.client_id,
            client_secret=settings.client_secret,
            refresh_token=settings.refresh_token,
            as_json=True,
            query=in_query,
        )
    limit = Limit(_BURST_PER_SECOND, settings.rate_per_minute)
    governor = await kit.quota(f"{url.netloc} {settings.app_key}", {ADJUST: limit})
    http = kit.http(f"{url.scheme}://{url.netloc}", credential, kit.retry_statuses)
    return AppApi(http, url.path + (f"?{query}" if query else ""), governor, token)
