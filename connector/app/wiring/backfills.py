"""A connection's backfills: their sources, the guard before them, and their orders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from connector.app.wiring.context import Site
from connector.domain.records import (
    Appended,
    Page,
    Record,
)
from connector.klaviyo.flows import FlowTriggers
from connector.klaviyo.groups import KlaviyoGroups
from connector.service import Line
from connector.sync.backfill.dry_run import Rehearsal
from connector.sync.backfill.history_import import Historian
from connector.sync.backfill.runs import Backfiller, Road
from connector.sync.backfill.sources import (
    EMAILS,
    GROUPS,
    LISTING,
    EmailFile,
    EverSeen,
    Group,
    Listing,
    Source,
)
from connector.sync.flow_guard import Guard


def guard(site: Site) -> Guard:
    """What asks before a bulk write of this connection."""
    shop, connection = site.shop, site.connection
    mode = connection.klaviyo.flow_guard
    return Guard(connection.name, mode, FlowTriggers(site.api), shop.store.approvals, shop.clock)


def _historian(site: Site, line: Line) -> Historian | None:
    """Who tells of the past, where the platform does and events are sent."""
    history = site.client.history if site.client else None
    if history is None or not site.has("events"):
        return None
    shop = site.shop

    async def keep(records: Sequence[Record]) -> Appended:
        now = shop.clock.now()
        page = Page(line.events.lane, "backfill", records, now, backfill=True)
        [done] = await shop.store.append([page])
        shop.metrics.took_in(page.lane, page.via, done, now)
        line.events.wake()
        return done

    return Historian(history, keep)


def build(site: Site, line: Line) -> None:
    """Only for a site with profiles, after its states are laid."""
    assert line.reads is not None
    assert line.writes is not None
    assert line.refresher is not None
    shop, store, name = site.shop, site.shop.store, site.connection.name
    groups = KlaviyoGroups(site.api)
    reads, writes, refresher = line.reads, line.writes, line.refresher
    stream = site.client.people if site.client else None

    def wake() -> None:
        reads.wake()
        writes.wake()

    def source(kind: str, args: Mapping[str, Any]) -> Source:
        if kind == EMAILS:
            return EmailFile(Path(args["what"]))
        if kind in GROUPS:
            return Group(groups, GROUPS[kind], args["group"])
        if kind == LISTING and stream is not None:
            return Listing(stream, refresher, site.mapping.reads, shop.clock)
        return EverSeen(store.backfills, name)

    backfiller = Backfiller(
        name,
        Road(reads.lane, writes.lane.id, wake),
        source,
        backfills=store.backfills,
        guard=guard(site),
        groups=groups,
        rehearsal=Rehearsal(
            name,
            refresher,
            groups,
            backfills=store.backfills,
            memory=store.memory,
            clock=shop.clock,
        ),
        lease=shop.lease,
        clock=shop.clock,
        metrics=shop.metrics,
        lists_people=stream is not None,
        historian=_historian(site, line),
        first_live=lambda: store.backfills.first_live(line.events.lane),
    )
    line.loops.append(backfiller.run)
    line.idle.append(backfiller.idle)
    line.orders["backfill"] = backfiller.order
    line.orders["backfill-stop"] = backfiller.stop
    line.decided.append(lambda answer: backfiller.wake())
