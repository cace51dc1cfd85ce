"""The poll of a platform that can tell who changed."""

from __future__ import annotations

from connector.app.wiring.backfills import guard
from connector.app.wiring.context import Site
from connector.service import Line
from connector.sync.polls import Poll


def build(site: Site, line: Line) -> None:
    """Only for a site whose people are read, after its states are laid."""
    shop, client = site.shop, site.client
    if client is None or client.changes is None:
        return
    assert line.reads is not None
    assert line.writes is not None
    assert line.refresher is not None
    poll = Poll(
        client.changes,
        line.refresher,
        site.mapping.reads,
        line.reads.lane,
        reads=shop.store.reads,
        checkpoints=shop.store.checkpoints,
        lease=shop.lease,
        clock=shop.clock,
        metrics=shop.metrics,
        guard=guard(site),
        every=site.connection.settings.poll_every,
        seen=line.writes.wake,
    )
    line.loops.append(poll.run)
    line.idle.append(poll.idle)
    line.needs.append(poll.needs)
    line.decided.append(lambda answer: poll.wake())
