"""Which modules a connection can have, by what its platform offers."""

from __future__ import annotations

from collections.abc import Callable

from connector.config import Config
from connector.platforms import registry


def offered_modules(config: Callable[[], Config], name: str) -> frozenset[str]:
    """Raises KeyError for an unknown connection, ConfigError where its platform's package fails."""
    connection = config().connection(name)
    return frozenset(registry.load(connection.source, connection.settings).modules)
