"""Who may use the HTTP side of this process, by the configuration."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_network

from connector.config import Config
from connector.ports import Clock
from connector.runtime.encryption import Seal
from connector.web.access import Access
from connector.web.sessions import Sessions
from connector.web.throttle import Network


def seal_of(config: Config, clock: Clock) -> Seal:
    """What session cookies and opaque ids are sealed with."""
    return Seal(clock, config.security.encryption_key, lifetime=config.console.session)


def access_of(config: Callable[[], Config], clock: Clock, seal: Seal) -> Access:
    """The rules of `[console]` in effect, and of `[server]`."""
    now = config()
    return Access(
        lambda: config().console,
        clock,
        Sessions(seal),
        secure=now.server.public_url.startswith("https://"),
        trusted_proxies=trusted_proxies(now),
    )


def trusted_proxies(config: Config) -> list[Network]:
    return [ip_network(proxy) for proxy in config.server.trusted_proxies]
