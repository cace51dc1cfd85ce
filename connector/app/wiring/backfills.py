"""A connection's backfills: their sources and commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from connector.app.wiring.context import ConnectionContext
from connector.app.wiring.flow_guard import build_flow_guard
from connector.app.wiring.profiles import ReadParts
from connector.domain.errors import Problem
from connector.domain.lanes import PROFILES, READS
from connector.domain.profiles import ProfileWrite
from connector.domain.records import Appended, Page, Record
from connector.klaviyo.groups import KlaviyoGroups
from connector.pipeline.dispatch import Dispatcher
from connector.ports.workers import Worker
from connector.service import CommandHandler
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


@dataclass(frozen=True, slots=True)
class BackfillParts:
    worker: Worker
    commands: Mapping[str, CommandHandler]


def build_backfills(
    context: ConnectionContext,
    events: Dispatcher[Any],
    writes: Dispatcher[ProfileWrite],
    read_parts: ReadParts,
) -> BackfillParts:
    services, store, name = context.services, context.services.store, context.connection.name
    groups = KlaviyoGroups(context.api)
    reads, profile_reads = read_parts.dispatcher, read_parts.sink
    stream = context.client.people if context.client else None

    def source(kind: str, args: Mapping[str, Any]) -> Source:
        if kind == EMAIL_FILE:
            return EmailFile(Path(args["what"]))
        if kind in KLAVIYO_GROUPS:
            return GroupMembers(groups, KLAVIYO_GROUPS[kind], args["group"])
        if kind == PLATFORM_LISTING and stream is not None:
            return PlatformListing(stream, profile_reads, context.mapping.reads, services.clock)
        return KnownPeople(store.people, name)

    history_import = _build_history_import(context, events)
    worker = BackfillWorker(
        name,
        BackfillLanes(reads.lane, writes.lane.id, lambda: context.signals.wake(READS, PROFILES)),
        source,
        backfills=store.backfills,
        progress=store.backfill_progress,
        guard=build_flow_guard(context),
        groups=groups,
        dry_run=DryRun(
            name,
            profile_reads,
            groups,
            store=store.dry_runs,
            facts=store.facts,
            clock=services.clock,
        ),
        lease=context.lease,
        clock=services.clock,
        metrics=services.metrics,
        is_blocked=lambda: events.state.problem is Problem.KLAVIYO_ACCOUNT,
        history_import=history_import,
    )
    commands = BackfillCommands(
        name,
        worker,
        backfills=store.backfills,
        groups=groups,
        clock=services.clock,
        lists_people=stream is not None,
        history_events=events.lane if history_import else None,
    )
    return BackfillParts(
        context.supervise("backfill", worker),
        {
            "backfill": CommandHandler(commands.start),
            "backfill-stop": CommandHandler(commands.stop),
        },
    )


def _build_history_import(
    context: ConnectionContext, events: Dispatcher[Any]
) -> HistoryImport | None:
    """None where the platform has no history, or events are not sent."""
    history = context.client.history if context.client else None
    if history is None or not context.has("events"):
        return None
    services = context.services

    async def store_records(records: Sequence[Record]) -> Appended:
        now = services.clock.now()
        suppressed = context.suppressed("events")
        page = Page(events.lane, "backfill", records, now, backfill=True, suppressed=suppressed)
        [done] = await services.store.outbox.append([page])
        services.metrics.record_received(page.lane, page.via, done, now)
        events.wake()
        return done

    return HistoryImport(history, store_records)
