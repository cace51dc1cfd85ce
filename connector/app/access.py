"""Who may use the HTTP side of this process, by the configuration."""

from __future__ import annotations

from ipaddress import ip_network

from connector.config import Config
from connector.ports import Clock
from connector.web.access import Access
from connector.web.sessions import Sessions


def access_of(config: Config, clock: Clock) -> Access:
    """The rules of `[console]`, `[security]` and `[server]`."""
    keys = [key.get_secret_value() for key in config.security.encryption_key]
    return Access(
        config.console,
        clock,
        Sessions(clock, keys, lifetime=config.console.session),
        secure=config.server.public_url.startswith("https://"),
        trusted_proxies=[ip_network(proxy) for proxy in config.server.trusted_proxies],
    )
