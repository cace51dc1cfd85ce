"""People in, profiles out: the two lanes of states, and who follows the jobs. Each wakes the
next."""

from __future__ import annotations

from collections.abc import Sequence

from connector.app.wiring.context import ConnectionContext
from connector.domain.outcomes import Outcome, Pending
from connector.domain.profiles import ProfileWrite
from connector.klaviyo.sink.jobs import ImportJobs
from connector.klaviyo.sink.profiles import ProfileSink
from connector.pipeline.dispatch import Dispatcher
from connector.pipeline.import_jobs import ImportJobTracker
from connector.pipeline.profile_reads import PassThrough, ProfileReadSink
from connector.pipeline.rendering import ProfileRenderer
from connector.ports import Reader, Renderer
from connector.service import KLAVIYO, ConnectionRuntime
from connector.sync.goals import goals


async def build(context: ConnectionContext, runtime: ConnectionRuntime) -> None:
    """Only for a site with profiles. Receipts are the line's from now on, the lane of reads too
    where people can be read."""
    services = context.services
    sink = ProfileSink(context.api)

    def on_written(outcomes: Sequence[Outcome]) -> None:
        if any(isinstance(o, Pending) for o in outcomes):
            receipts.wake()

    renderer: Renderer[ProfileWrite] = ProfileRenderer()
    runtime.writes = writes = await context.dispatcher(
        KLAVIYO,
        "profile",
        services.store.profiles,
        sink,
        context.suppress_if_off(renderer),
        settled=on_written,
    )
    if not context.shadow:
        await services.store.profiles.end_shadow(writes.lane.id, now=services.clock.now())
    receipts = ImportJobTracker(
        writes.lane,
        services.store.profiles,
        ImportJobs(context.api),
        services.lease,
        services.clock,
        services.metrics,
        on_settled=writes.wake,
    )

    runtime.loops.append(receipts.run)
    runtime.idle.append(receipts.idle)
    runtime.attention.append(receipts.attention)
    if context.reader is not None:
        await _build_reads(context, runtime, context.reader, writes)


async def _build_reads(
    context: ConnectionContext,
    runtime: ConnectionRuntime,
    reader: Reader,
    writes: Dispatcher[ProfileWrite],
) -> None:
    connection = context.connection
    runtime.by_id = reader.by_id
    runtime.profile_reads = ProfileReadSink(
        reader,
        context.mapping,
        lane=writes.lane.id,
        account=context.address_scope,
        email_change=connection.email_change,
        on_leave=connection.on_leave,
        goals=goals(connection.tiers, connection.rewards),
    )

    def on_read(outcomes: Sequence[Outcome]) -> None:
        runtime.events.wake()
        writes.wake()

    runtime.reads = await context.dispatcher(
        connection.source,
        "profile",
        context.services.store.reads,
        runtime.profile_reads,
        PassThrough(),
        settled=on_read,
    )
