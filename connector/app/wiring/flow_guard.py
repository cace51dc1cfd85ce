"""The approval that a bulk write needs where live flows depend on it."""

from __future__ import annotations

from connector.app.wiring.context import ConnectionContext
from connector.domain.approvals import DEFAULT_SHARE
from connector.klaviyo.flows import FlowTriggers
from connector.sync.approval_requests import ApprovalRequests
from connector.sync.flow_guard import FlowGuard


def build_flow_guard(context: ConnectionContext, *, share: float = DEFAULT_SHARE) -> FlowGuard:
    return FlowGuard(
        context.connection.klaviyo.flow_guard,
        FlowTriggers(context.api),
        approval_requests(context, share=share),
    )


def approval_requests(
    context: ConnectionContext, *, share: float = DEFAULT_SHARE
) -> ApprovalRequests:
    """Requests for approval that hold for the connection's Klaviyo account."""
    services = context.services
    return ApprovalRequests(
        context.connection.name,
        services.store.approvals,
        services.clock,
        account=context.address_scope,
        share=share,
    )
