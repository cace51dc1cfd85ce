"""A connection's backfills: their sources, the guard before them, and their orders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from connector.app.wiring.context import ConnectionContext
from connector.domain.records import Appended, Page, Record
from connector.klaviyo.flows import FlowTriggers
from connector.klaviyo.groups import KlaviyoGroups
from connector.service import ConnectionRuntime
from connector.sync.backfill.commands import BackfillCommands
from connector.sync.backfill.dry_run import DryRun
from connector.sync.backfill.history_import import HistoryImport
from connector.sync.backfill.sources import (
    EMAIL_FILE,
    KLAVIYO_GROUPS,
    PLATFORM_LISTING,
    EmailFile,
    GroupMembers,
    KnownPeople,
    PlatformListing,
    Source,
)
from connector.sync.backfill.worker import BackfillLanes, BackfillWorker
from connector.sync.flow_guard import FlowGuard


def guard(context: ConnectionContext) -> FlowGuard:
    """What asks before a bulk write of this connection."""
    services, connection = context.services, context.connection
    mode = connection.klaviyo.flow_guard
    return FlowGuard(
        connection.name, mode, FlowTriggers(context.api), services.store.approvals, services.clock
    )


def _history_import(context: ConnectionContext, runtime: ConnectionRuntime) -> HistoryImport | None:
    """Who tells of the past, where the platform does and events are sent."""
    history = context.client.history if context.client else None
    if history is None or not context.has("events"):
        return None
    services = context.services

    async def store_records(records: Sequence[Record]) -> Appended:
        now = services.clock.now()
        page = Page(runtime.events.lane, "backfill", records, now, backfill=True)
        [done] = await services.store.append([page])
        services.metrics.record_received(page.lane, page.via, done, now)
        runtime.events.wake()
        return done

    return HistoryImport(history, store_records)


def build(context: ConnectionContext, runtime: ConnectionRuntime) -> None:
    """Only for a site with profiles, after its states are laid."""
    assert runtime.reads is not None
    assert runtime.writes is not None
    assert runtime.profile_reads is not None
    services, store, name = context.services, context.services.store, context.connection.name
    groups = KlaviyoGroups(context.api)
    reads, writes, profile_reads = runtime.reads, runtime.writes, runtime.profile_reads
    stream = context.client.people if context.client else None

    def wake() -> None:
        reads.wake()
        writes.wake()

    def source(kind: str, args: Mapping[str, Any]) -> Source:
        if kind == EMAIL_FILE:
            return EmailFile(Path(args["what"]))
        if kind in KLAVIYO_GROUPS:
            return GroupMembers(groups, KLAVIYO_GROUPS[kind], args["group"])
        if kind == PLATFORM_LISTING and stream is not None:
            return PlatformListing(stream, profile_reads, context.mapping.reads, services.clock)
        return KnownPeople(store.people, name)

    history_import = _history_import(context, runtime)
    worker = BackfillWorker(
        name,
        BackfillLanes(reads.lane, writes.lane.id, wake),
        source,
        backfills=store.backfills,
        progress=store.backfill_progress,
        guard=guard(context),
        groups=groups,
        dry_run=DryRun(
            name,
            profile_reads,
            groups,
            store=store.dry_runs,
            facts=store.facts,
            clock=services.clock,
        ),
        lease=services.lease,
        clock=services.clock,
        metrics=services.metrics,
        history_import=history_import,
    )
    commands = BackfillCommands(
        name,
        worker,
        backfills=store.backfills,
        groups=groups,
        clock=services.clock,
        lists_people=stream is not None,
        history_events=runtime.events.lane if history_import else None,
    )
    runtime.workers.append(context.supervise("backfill", worker))
    runtime.command_handlers["backfill"] = commands.start
    runtime.command_handlers["backfill-stop"] = commands.stop
    runtime.on_approval_decided.append(lambda answer: worker.wake())
