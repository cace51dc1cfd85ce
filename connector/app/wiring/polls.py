"""The poll of a platform that can tell who changed."""

from __future__ import annotations

from connector.app.wiring.backfills import guard
from connector.app.wiring.context import ConnectionContext
from connector.service import ConnectionRuntime
from connector.sync.polls import Poll


def build(context: ConnectionContext, runtime: ConnectionRuntime) -> None:
    """Only for a site whose people are read, after its states are laid."""
    services, client = context.services, context.client
    if client is None or client.changes is None:
        return
    assert runtime.reads is not None
    assert runtime.writes is not None
    assert runtime.profile_reads is not None
    poll = Poll(
        client.changes,
        runtime.profile_reads,
        context.mapping.reads,
        runtime.reads.lane,
        reads=services.store.reads,
        checkpoints=services.store.checkpoints,
        lease=services.lease,
        clock=services.clock,
        metrics=services.metrics,
        guard=guard(context),
        every=context.connection.settings.poll_every,
        on_observed=runtime.writes.wake,
    )
    runtime.workers.append(context.supervise("poll", poll))
    runtime.on_approval_decided.append(lambda answer: poll.wake())
