"""Who may use the HTTP side of this process, by the configuration."""

from __future__ import annotations

from ipaddress import ip_network

from connector.config import Config
from connector.ports import Clock
from connector.runtime.encryption import Seal
from connector.web.access import Access
from connector.web.sessions import Sessions


def seal_of(config: Config, clock: Clock) -> Seal:
    """What session cookies and opaque ids are sealed with."""
    return Seal(clock, config.security.encryption_key, lifetime=config.console.session)


def access_of(config: Config, clock: Clock, seal: Seal) -> Access:
    """The rules of `[console]` and `[server]`."""
    return Access(
        config.console,
        clock,
        Sessions(seal),
        secure=config.server.public_url.startswith("https://"),
        trusted_proxies=[ip_network(proxy) for proxy in config.server.trusted_proxies],
    )
