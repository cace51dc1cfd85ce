"""The poll of a platform that can list who changed."""

from __future__ import annotations

from connector.app.wiring.context import ConnectionContext
from connector.app.wiring.flow_guard import build_flow_guard
from connector.app.wiring.profiles import ReadParts
from connector.domain.lanes import PROFILES
from connector.ports.workers import Worker
from connector.sync.polls import Poll


def build_poll(context: ConnectionContext, reads: ReadParts) -> Worker | None:
    """None where the platform has no list of changes."""
    services, client = context.services, context.client
    if client is None or client.changes is None:
        return None
    poll = Poll(
        client.changes,
        reads.sink,
        context.mapping.reads,
        reads.dispatcher.lane,
        reads=services.store.reads,
        checkpoints=services.store.checkpoints,
        lease=context.lease,
        clock=services.clock,
        metrics=services.metrics,
        guard=build_flow_guard(context),
        every=context.connection.settings.poll_every,
        on_observed=lambda: context.signals.wake(PROFILES),
    )
    return context.supervise("poll", poll)
