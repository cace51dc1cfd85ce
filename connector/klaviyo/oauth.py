"""OAuth at Klaviyo: the app's authorization, its tokens and their revocation.

Source: developers.klaviyo.com/en/docs/set_up_oauth and handle_your_apps_oauth_flow. Token and
revocation endpoint authenticate the client with HTTP Basic; PKCE S256 is required.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from pydantic import SecretStr

from connector.domain.errors import Problem
from connector.domain.lanes import QuotaUsage
from connector.domain.oauth import KLAVIYO_OAUTH, KLAVIYO_SCOPES, Grant
from connector.klaviyo.api import KlaviyoApi, headers
from connector.klaviyo.limits import LIMITS
from connector.net.auth import HeaderKey, TokenEndpoint, authorization_url
from connector.net.http import Http
from connector.net.rate_limit import RateLimiter
from connector.net.stored_token import Ended, StoredToken, grant_of
from connector.net.token_record import TokenRecord
from connector.ports import Clock, Secrets
from connector.runtime.encryption import Cipher

PROBE_SCOPE = "applications:read"
"""Requested only where `install_probe` is on."""


@dataclass(frozen=True, slots=True)
class AppSettings:
    """The app and the addresses of Klaviyo that it uses: `[klaviyo_app]` and
    `[connections.klaviyo]`."""

    client_id: str
    client_secret: SecretStr
    authorize_url: str
    token_url: str
    revoke_url: str
    base_url: str
    revision: str
    install_probe: bool = False


NewTransport = Callable[[str], Http]
"""An HTTP client of one address, without a credential."""


class KlaviyoOAuth:
    """connector.ports.AuthorizationServer."""

    def __init__(
        self, app: AppSettings, token: TokenEndpoint, revocation: TokenEndpoint, clock: Clock
    ) -> None:
        self._app = app
        self._token = token
        self._revocation = revocation
        self._clock = clock
        probe = {PROBE_SCOPE: "a removal of the app is noticed at the next refresh only"}
        self.scopes: Mapping[str, str] = {
            **KLAVIYO_SCOPES,
            **(probe if app.install_probe else {}),
        }

    def authorization_url(self, *, state: str, verifier: str, redirect_uri: str) -> str:
        return authorization_url(
            self._app.authorize_url,
            client_id=self._app.client_id,
            redirect_uri=redirect_uri,
            scope=" ".join(self.scopes),
            state=state,
            verifier=verifier,
        )

    async def exchange(self, code: str, *, verifier: str, redirect_uri: str) -> Grant:
        return grant_of(
            await self._token.request(
                "authorization_code", code=code, code_verifier=verifier, redirect_uri=redirect_uri
            )
        )

    async def account(self, grant: Grant) -> tuple[str, str]:
        bearer = HeaderKey("Authorization", SecretStr(grant.access_token), prefix="Bearer ")
        http = Http(
            self._app.base_url,
            vendor="klaviyo",
            clock=self._clock,
            credential=bearer,
            headers=headers(self._app.revision),
        )
        limiter = RateLimiter("connect", LIMITS, clock=self._clock, share=1.0)
        api = KlaviyoApi(http, limiter, self._clock, _discard_usage)
        try:
            account = await api.account()
            return account.id, account.name
        finally:
            await api.aclose()

    async def revoke(self, refresh_token: str) -> None:
        await self._revocation.revoke(refresh_token)


@asynccontextmanager
async def open_oauth(
    app: AppSettings, transport: NewTransport, clock: Clock
) -> AsyncIterator[KlaviyoOAuth]:
    """The authorization server of an app, with its HTTP clients open."""
    async with AsyncExitStack() as stack:
        token, revocation = _token_endpoint(app, transport), _revocation_endpoint(app, transport)
        stack.push_async_callback(token.aclose)
        stack.push_async_callback(revocation.aclose)
        yield KlaviyoOAuth(app, token, revocation, clock)


def stored_token(
    app: AppSettings,
    transport: NewTransport,
    store: Secrets,
    cipher: Cipher,
    connection: str,
    clock: Clock,
) -> StoredToken:
    """The credential of a connection that is connected by OAuth."""
    return StoredToken(
        _token_endpoint(app, transport),
        TokenRecord(store, cipher, connection, KLAVIYO_OAUTH, clock),
        clock=clock,
        ended=Ended(Problem.KLAVIYO_NOT_CONNECTED, Problem.KLAVIYO_ACCESS_ENDED),
        problem=Problem.KLAVIYO_KEY,
    )


def _token_endpoint(app: AppSettings, transport: NewTransport) -> TokenEndpoint:
    return _endpoint(app, transport(app.token_url), "POST /oauth/token")


def _revocation_endpoint(app: AppSettings, transport: NewTransport) -> TokenEndpoint:
    return _endpoint(app, transport(app.revoke_url), "POST /oauth/revoke")


def _endpoint(app: AppSettings, transport: Http, route: str) -> TokenEndpoint:
    return TokenEndpoint(
        transport,
        client_id=app.client_id,
        client_secret=app.client_secret,
        auth_method="client_secret_basic",
        route=route,
    )


async def _discard_usage(_: Sequence[QuotaUsage]) -> None:
    """One read with a quota of its own: each connected app has one."""
