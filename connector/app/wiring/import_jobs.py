"""Who follows a connection's import jobs, and those of lanes of its account that do not run."""

from __future__ import annotations

from collections.abc import Callable

from connector.app.wiring.context import ConnectionContext
from connector.domain.lanes import LIST_MEMBERS, PROFILES, Lane
from connector.klaviyo.sink.jobs import ImportJobs
from connector.pipeline.import_jobs import ImportJobTracker, UntrackedJobs
from connector.ports.workers import Worker


def build_tracker(
    context: ConnectionContext, lane: Lane, on_settled: Callable[[], None]
) -> ImportJobTracker:
    services, store = context.services, context.services.store
    receipts = store.profile_receipts if lane.lane_kind is PROFILES else store.membership_receipts
    return ImportJobTracker(
        lane,
        receipts,
        ImportJobs(context.api),
        context.lease,
        services.clock,
        services.metrics,
        on_settled=on_settled,
    )


def build_untracked_jobs(context: ConnectionContext) -> Worker:
    name = context.connection.name

    def on_settled() -> None:
        context.signals.wake(PROFILES, LIST_MEMBERS)

    jobs = UntrackedJobs(
        name,
        lambda: context.services.untracked(name),
        lambda lane: build_tracker(context, lane, on_settled),
    )
    return context.supervise("import_jobs", jobs, of="of other lanes")
