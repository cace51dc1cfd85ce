"""What the console and the API need of the configuration in effect."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_network

from connector.config import Config
from connector.platforms import registry
from connector.ports import Clock
from connector.runtime.encryption import Seal
from connector.service.webhook_builder import FlowTarget
from connector.web.access import Access
from connector.web.sessions import Sessions
from connector.web.throttle import Network


def access_of(config: Callable[[], Config], clock: Clock, seal: Seal) -> Access:
    """Who may use a port. Passwords and tokens are read from the configuration in effect."""
    now = config()
    return Access(
        lambda: config().console,
        clock,
        Sessions(seal),
        secure=now.server.public_url.startswith("https://"),
        trusted_proxies=trusted_proxies(now),
    )


def seal_of(config: Config, clock: Clock) -> Seal:
    return Seal(clock, config.security.encryption_key, lifetime=config.console.session)


def trusted_proxies(config: Config) -> list[Network]:
    return [ip_network(proxy) for proxy in config.server.trusted_proxies]


def flow_target(config: Callable[[], Config], name: str) -> FlowTarget:
    """What flows of a connection call. Raises KeyError for an unknown connection, InvalidStep for
    one that takes no flow calls, and ConfigError where its platform's package fails."""
    now = config()
    connection = now.connection(name)
    platform = registry.load(connection.source, connection.settings)
    return FlowTarget.of(now, connection, platform)
