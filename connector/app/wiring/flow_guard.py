"""The approval that a bulk write needs where live flows depend on it."""

from __future__ import annotations

from connector.app.wiring.context import ConnectionContext
from connector.klaviyo.flows import FlowTriggers
from connector.sync.flow_guard import FlowGuard


def build_flow_guard(context: ConnectionContext) -> FlowGuard:
    services, connection = context.services, context.connection
    return FlowGuard(
        connection.name,
        connection.klaviyo.flow_guard,
        FlowTriggers(context.api),
        services.store.approvals,
        services.clock,
    )
