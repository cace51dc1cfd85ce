"""OAuth at Klaviyo: the app of the configuration, and the tokens of a connection."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from connector.config import Config, Connection
from connector.domain.attention import AttentionItem
from connector.domain.errors import DeliveryError, Problem
from connector.klaviyo.api import KlaviyoApi
from connector.klaviyo.oauth import AppSettings, KlaviyoOAuth, open_oauth, stored_token
from connector.net.auth import TokenEndpoint
from connector.net.http import Http
from connector.net.stored_token import Ended, StoredToken
from connector.net.token_record import TokenRecord
from connector.platforms.kit import RefreshedToken
from connector.ports import Clock, Store
from connector.ports.workers import Worker
from connector.runtime.encryption import Cipher

if TYPE_CHECKING:
    from connector.app.wiring.context import ConnectionContext

_MIN_INTERVAL, _CHECK_INTERVAL = 1.0, 60.0


def app_settings(config: Config, connection: Connection) -> AppSettings:
    klaviyo = connection.klaviyo
    return AppSettings(
        client_id=config.klaviyo_app.client_id,
        client_secret=config.klaviyo_app.client_secret,
        authorize_url=klaviyo.authorize_url,
        token_url=klaviyo.token_url,
        revoke_url=klaviyo.revoke_url,
        base_url=klaviyo.base_url,
        revision=klaviyo.revision,
        install_probe=klaviyo.install_probe is not None,
    )


def open_server(
    config: Config, connection: Connection, clock: Clock
) -> AbstractAsyncContextManager[KlaviyoOAuth]:
    """The authorization server of a connection."""
    return open_oauth(app_settings(config, connection), _transport(config, clock), clock)


def klaviyo_token(
    config: Config, connection: Connection, store: Store, clock: Clock
) -> StoredToken:
    """The credential of a connection with `auth = "oauth"`."""
    return stored_token(
        app_settings(config, connection),
        _transport(config, clock),
        store.secrets,
        Cipher(config.security.encryption_key),
        connection.name,
        clock,
    )


def platform_tokens(
    config: Config, store: Store, connection: Connection, clock: Clock
) -> RefreshedToken | None:
    """Keeps the refresh tokens of the connection's platform; None without an encryption key."""
    cipher = Cipher(config.security.encryption_key)
    if not cipher:
        return None
    problem = Problem.PLATFORM_KEY

    def token(
        endpoint: TokenEndpoint, refresh_token: SecretStr, *, query: str | None
    ) -> StoredToken:
        return StoredToken(
            endpoint,
            TokenRecord(store.secrets, cipher, connection.name, "platform_oauth", clock),
            clock=clock,
            ended=Ended(problem, problem),
            problem=problem,
            seed=refresh_token,
            query=query,
        )

    return token


def _transport(config: Config, clock: Clock) -> Any:
    allow_http = frozenset(config.security.allow_http)

    def transport(url: str) -> Http:
        return Http(url, vendor="klaviyo", clock=clock, credential=dict, allow_http=allow_http)

    return transport


class TokenRefresh:
    """connector.ports.workers.Loop that renews a token before it expires, also while nothing is
    sent: so no delivery waits for it, its authorization never ends for lack of use, and a removal
    of the app is noticed. With `probe_every` seconds Klaviyo is also asked whether the app is
    still installed."""

    def __init__(
        self, token: StoredToken, api: KlaviyoApi, clock: Clock, probe_every: float | None
    ) -> None:
        self.wakeup = asyncio.Event()
        self._token = token
        self._api = api
        self._clock = clock
        self._probe_every = probe_every
        self._probed_at = float("-inf")

    async def run_once(self) -> float:
        try:
            await self._token()
            now = self._clock.monotonic()
            if self._probe_every is not None and now - self._probed_at >= self._probe_every:
                self._probed_at = now
                if not await self._api.is_installed():
                    await self._token.end()
        except DeliveryError:
            pass  # reported by the lanes and by what is stored of the token
        until_renewal = max(_MIN_INTERVAL, self._token.valid_for)
        return min(_CHECK_INTERVAL, until_renewal, self._probe_every or _CHECK_INTERVAL)

    async def idle(self) -> bool:
        return True

    async def attention(self) -> Sequence[AttentionItem]:
        return ()


def build_token_refresh(context: ConnectionContext) -> Worker | None:
    """None where a private key is used."""
    if context.token is None:
        return None
    probe_every = context.connection.klaviyo.install_probe
    loop = TokenRefresh(context.token, context.api, context.services.clock, probe_every)
    return context.supervise("oauth", loop)
