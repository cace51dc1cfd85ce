"""What the flows of a connection call, for the webhook builder."""

from __future__ import annotations

from collections.abc import Callable

from connector.config import Config
from connector.mapping import load
from connector.platforms import registry
from connector.service.webhook_builder import FlowTarget


def flow_target(config: Callable[[], Config], name: str) -> FlowTarget:
    """The target of a connection as configured now. Raises KeyError for an unknown connection,
    InvalidStep for one that takes no flow calls, and ConfigError where its mapping is faulty or
    its platform's package fails."""
    now = config()
    connection = now.connection(name)
    platform = registry.load(connection.source, connection.settings)
    mapping = load(connection.mapping, connection.mapping_changes).mapping
    return FlowTarget.of(now, connection, platform, mapping)
