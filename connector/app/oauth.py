"""The OAuth service of a process, on its store and the configuration in effect."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from connector.app.wiring.oauth import open_server
from connector.config import Config
from connector.ports import AuthorizationServer, Clock, Store
from connector.service.oauth import AfterConnect, OAuthService


def oauth_service(
    store: Store, clock: Clock, config: Callable[[], Config], after_connect: AfterConnect
) -> OAuthService:
    """`config` returns the configuration in effect."""

    def server(connection: Any) -> AbstractAsyncContextManager[AuthorizationServer]:
        return open_server(config(), connection, clock)

    return OAuthService(
        store, clock, config=config, open_server=server, after_connect=after_connect
    )


async def no_change(connection: str, other_account: bool) -> None:
    """For a process that runs no connection."""
