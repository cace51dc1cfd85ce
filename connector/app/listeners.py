"""The ports of the daemon, and the applications behind them."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from connector.app.access import access_of, seal_of, trusted_proxies
from connector.app.connections import Connections
from connector.app.offers import offered_modules
from connector.config import Config
from connector.config.secret_lengths import MIN_LENGTH, short_secrets
from connector.net import http
from connector.ports import Clock, Store
from connector.runtime import log
from connector.runtime.changes import ChangeFeed
from connector.runtime.metrics import Metrics
from connector.service import Commands
from connector.service.oauth import OAuthService
from connector.web.asgi import DeferredApp
from connector.web.flows import FlowApp
from connector.web.health import Health
from connector.web.oauth import OAuthApp
from connector.web.protocol import Limits
from connector.web.server import Server, allow_connections, application
from connector.web.webhooks import WebhookApp

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from connector.service.webhook_builder import FlowTarget


_PAGES = ("connector.app.flow_target", "connector.app.setup", "connector.console")


class Listeners:
    """`[server] port`, and `admin_port` where it is another one. `config` is the configuration in
    use."""

    def __init__(self, config: Callable[[], Config], clock: Clock) -> None:
        self.servers: list[Server] = []
        self._config = config
        self._clock = clock
        self._log = log.get("app")

    @property
    def port(self) -> int:
        """The port that platforms call."""
        return self.servers[0].port

    def check_limits(self) -> None:
        """Log what makes it easy to guess a secret, or to exhaust this process."""
        config = self._config()
        for key in short_secrets(config):
            self._log.warning("secret_short", setting=key, needed_characters=MIN_LENGTH)
        ports = 1 if config.server.admin_port == 0 else 2
        if not allow_connections(ports * config.server.max_connections):
            self._log.warning(
                "open_files_limited",
                detail="the limit of open files (ulimit -n) is too low for max_connections",
                max_connections=config.server.max_connections,
            )

    async def listen(self) -> None:
        """Open the ports before there is an application, so that probes get an answer while a
        database or a lease is waited for. Raises ConfigError."""
        server = self._config().server
        await self._start(None, server.port, "server.port")
        if server.admin_port:
            await self._start(None, server.admin_port, "server.admin_port")

    async def serve(self, public: ASGIApp, admin: ASGIApp) -> None:
        """Answer with these applications; the public one alone where there is one port. Raises
        ConfigError."""
        server = self._config().server
        await self._start(public, server.port, "server.port")
        if server.admin_port:
            await self._start(admin, server.admin_port, "server.admin_port")

    async def stop(self, grace: float) -> None:
        """Answer what was read within `grace` seconds, then close."""
        await asyncio.gather(*(server.stop(grace) for server in self.servers))

    async def _start(self, app: ASGIApp | None, port: int, key: str) -> None:
        for server in self.servers:
            if server.key == key:
                server.app = app
                return
        settings = self._config().server
        limits = Limits(
            settings.max_header,
            settings.header_timeout,
            settings.body_timeout,
            settings.max_connections,
        )
        grace = settings.shutdown_timeout
        server = Server(app, settings.host, port, grace=grace, key=key, limits=limits)
        await server.start()
        self.servers.append(server)


def applications(
    config: Callable[[], Config],
    clock: Clock,
    metrics: Metrics,
    health: Health,
    connections: Connections,
    commands: Commands,
    oauth: OAuthService,
    changes: ChangeFeed,
    store: Store,
) -> tuple[ASGIApp, ASGIApp]:
    """What the port for everyone answers, and what the one for operators does. Where there is one
    port, the first answers all of it."""
    runtimes, broken = connections.runtimes, connections.broken
    seal = seal_of(config(), clock)
    access = access_of(config, clock, seal)
    webhooks = WebhookApp(runtimes.get, clock, metrics, broken=broken)
    proxies = trusted_proxies(config())
    flows = FlowApp(runtimes.get, clock, metrics, broken=broken, trusted_proxies=proxies)

    def target(name: str) -> FlowTarget:
        from connector.app.flow_target import flow_target

        return flow_target(config, name)

    def build_api() -> ASGIApp:
        from connector.web.api.app import Api
        from connector.web.api.context import ApiServices

        return Api(ApiServices(commands, access, changes, seal, config, target))

    def build_console() -> ASGIApp:
        from connector.app.setup import connection_setup
        from connector.console import Console, ConsoleServices

        return Console(
            ConsoleServices(
                commands,
                access,
                changes,
                seal,
                clock,
                config,
                target,
                partial(offered_modules, config),
                http.send,
                connection_setup(store, clock, config, runtimes, changes),
            )
        )

    # To import FastAPI takes a third as long as a whole start, the console a twentieth.
    api_app, console = DeferredApp(build_api), DeferredApp(build_console)
    shared = config().server.admin_port == 0
    back = partial(_page_of, config) if shared else lambda name: ""
    endpoints = (webhooks, flows, OAuthApp(oauth, access, back))
    return (
        application(health, endpoints, admin=shared, api=api_app, console=console),
        application(health, admin=True, api=api_app, console=console),
    )


def prepare_pages() -> None:
    """Import what people and scripts ask for, so that the first of them, such as `connector
    status`, does not wait for it. For a thread."""
    for name in _PAGES:
        importlib.import_module(name)
    from connector.web.api.app import prepare

    prepare()


def _page_of(config: Callable[[], Config], name: str) -> str:
    """The console's page of a connection whose Klaviyo account was connected."""
    enabled = config().connection(name).enabled
    return f"/connections/{name}/settings" if enabled else f"/connections/new?name={name}"
