"""Which modules a connection can have, by what its platform offers."""

from __future__ import annotations

from collections.abc import Callable

from connector.config import Config
from connector.platforms import registry
from connector.ports.platform import Offer

_NEEDED: dict[str, frozenset[Offer]] = {
    "events": frozenset(("events",)),
    "profiles": frozenset(("profiles",)),
    "audiences": frozenset(("audiences",)),
    "segments": frozenset(("segments",)),
    "actions": frozenset(("increase", "decrease", "adjust", "push")),
}
"""Module → one of these must be offered."""


def offered_modules(config: Callable[[], Config], name: str) -> frozenset[str]:
    """Raises KeyError for an unknown connection, ConfigError where its platform's package fails."""
    connection = config().connection(name)
    offers = registry.load(connection.source, connection.settings).offers
    return frozenset(module for module, needed in _NEEDED.items() if needed & offers)
