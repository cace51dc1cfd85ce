"""The lanes that read people at the platform and write profiles to Klaviyo, and who follows the
import jobs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from connector.app.wiring.context import ConnectionContext
from connector.app.wiring.flow_guard import build_flow_guard
from connector.app.wiring.import_jobs import build_tracker
from connector.domain.lanes import EVENTS, PROFILES, READS, Millis
from connector.domain.outcomes import Observed, Outcome, Pending
from connector.domain.profiles import ProfileWrite
from connector.klaviyo.sink.profiles import ProfileSink
from connector.pipeline.attach_wait import AttachWait
from connector.pipeline.dispatch import Dispatcher
from connector.pipeline.profile_reads import PassThrough, ProfileReadSink
from connector.pipeline.rendering import ProfileRenderer
from connector.ports import Reader, Renderer
from connector.ports.workers import Worker
from connector.runtime.supervisor import SupervisedWorker
from connector.sync.goals import goals
from connector.sync.mass_unset import CountingRenderer, MassUnsetWorker

_EVENT_FIRST_MS = 100
"""An event that waited for the read goes before the profile is written, and wakes its lane."""


@dataclass(frozen=True, slots=True)
class ReadParts:
    """Reading people: the platform's side, the sink that observes, the lane, and how long events
    wait for it."""

    reader: Reader
    sink: ProfileReadSink
    dispatcher: Dispatcher[Any]
    attach_wait: AttachWait


@dataclass(frozen=True, slots=True)
class ProfileParts:
    """Writing profiles; `reads` where people can be read at the platform."""

    writes: Dispatcher[ProfileWrite]
    import_jobs: Worker
    mass_unset: Worker | None
    reads: ReadParts | None


async def build_profiles(context: ConnectionContext) -> ProfileParts:
    services = context.services

    def on_written(outcomes: Sequence[Outcome]) -> None:
        if any(isinstance(o, Pending) for o in outcomes):
            tracker.wake()

    renderer: Renderer[ProfileWrite] = ProfileRenderer()
    mass_unset: SupervisedWorker | None = None
    if not context.shadow:
        # Also where the guard is off: removals may wait from before it was switched off.
        lane = await context.lane(PROFILES)
        worker = MassUnsetWorker(
            lane.id,
            context.mapping.version,
            services.store.unset_fields,
            build_flow_guard(context),
            services.clock,
            on_released=lambda: context.signals.wake(PROFILES),
        )
        mass_unset = context.supervise("mass_unset", worker)
        if context.connection.klaviyo.flow_guard != "off":
            renderer = CountingRenderer(
                renderer, lane.id, services.store.unset_fields, services.clock, on_held=worker.wake
            )
    writes: Dispatcher[ProfileWrite] = await context.dispatcher(
        PROFILES,
        ProfileSink(context.api),
        context.suppress_in_shadow(renderer),
        settled=on_written,
    )

    async def resume(now: Millis) -> int:
        count = await services.store.profiles.end_shadow(writes.lane.id, now=now)
        writes.wake()
        return count

    if not context.shadow:
        context.resumptions.append(resume)
    tracker = build_tracker(context, writes.lane, writes.wake)
    reads = await _build_reads(context, context.reader, writes) if context.reader else None
    return ProfileParts(writes, context.supervise("import_jobs", tracker), mass_unset, reads)


async def _build_reads(
    context: ConnectionContext, reader: Reader, writes: Dispatcher[ProfileWrite]
) -> ReadParts:
    connection = context.connection
    sink = ProfileReadSink(
        reader,
        context.mapping,
        lane=writes.lane.id,
        account=context.address_scope,
        email_change=connection.email_change,
        on_leave=connection.on_leave,
        reconfirm_after=context.reconfirm_after,
        goals=goals(connection.tiers, connection.rewards),
    )

    event_first = _EVENT_FIRST_MS if context.mapping.attach_profile else 0

    def settled(outcomes: Sequence[Outcome]) -> None:
        now = context.services.clock.now()
        context.signals.wake_at({EVENTS: now, PROFILES: Millis(now + event_first)})
        for outcome in outcomes:
            if isinstance(outcome, Observed) and not outcome.observation.backfill:
                attach_wait.observe((now - outcome.observation.since) / 1000)

    dispatcher: Dispatcher[Any] = await context.dispatcher(
        READS, sink, PassThrough(), settled=settled
    )
    delivery = context.services.config.delivery
    attach_wait = AttachWait(
        delivery.attach_wait, delivery.attach_wait_max, lambda: dispatcher.starts_in
    )
    return ReadParts(reader, sink, dispatcher, attach_wait)
