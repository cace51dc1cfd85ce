"""The lane of events to Klaviyo, and the endpoint for a platform's webhooks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from connector.app.wiring.context import ConnectionContext
from connector.app.wiring.profiles import ProfileParts, ReadParts
from connector.domain.lanes import EVENTS, PROFILES, Millis
from connector.domain.outcomes import Outcome
from connector.domain.profiles import Observation
from connector.domain.records import Entry, Record
from connector.klaviyo.sink.events import EventSink
from connector.pipeline.attach_wait import LeftWithout
from connector.pipeline.dispatch import Dispatcher
from connector.pipeline.profile_reads import EventFieldExtractor
from connector.pipeline.rendering import EventRenderer, GatedRenderer, render_entry
from connector.pipeline.webhook_endpoint import ReadRules, WebhookEndpoint
from connector.service.runtime import Rendered, Rendering


async def build_events(context: ConnectionContext) -> Dispatcher[Any]:
    """A settled event may free its person's profile for writing."""
    store = context.services.store
    reads = store.reads if context.reader else None
    left_without = LeftWithout() if reads else None
    renderer = EventRenderer(
        context.mapping, context.platform.event_view, store.facts, reads, left_without
    )
    late_after = context.services.config.delivery.late_after
    sink = EventSink(context.api, context.services.clock, late_after=late_after)
    live = context.suppressed("events") is None

    def settled(outcomes: Sequence[Outcome]) -> None:
        context.signals.wake(PROFILES)
        if left_without and (count := left_without.settled(outcomes)):
            context.services.metrics.record_unattached(context.connection.name, count)

    dispatcher: Dispatcher[Any] = await context.dispatcher(
        EVENTS,
        sink,
        GatedRenderer(renderer, live=live),
        settled=settled,
    )

    async def resume(now: Millis) -> int:
        count = await store.outbox.release_waiting(dispatcher.lane.id, now=now)
        dispatcher.wake()
        return count

    if live:
        context.resumptions.append(resume)
    return dispatcher


def build_rendering(context: ConnectionContext) -> Rendering:
    """With a renderer of its own, because one keeps what it has read for its lane's entries."""
    reads = context.services.store.reads if context.reader else None
    facts = context.services.store.facts
    renderer = EventRenderer(context.mapping, context.platform.event_view, facts, reads)
    rendering = asyncio.Lock()

    async def render(entries: Sequence[Entry]) -> Sequence[Rendered]:
        async with rendering:
            await renderer.prepare(entries)
            return [render_entry(renderer, entry) for entry in entries]

    return render


def build_webhook_endpoint(
    context: ConnectionContext, events: Dispatcher[Any], profiles: ProfileParts | None
) -> WebhookEndpoint | None:
    """None where the platform pushes nothing."""
    if context.platform.webhook is None:
        return None
    services = context.services
    extracts = _extractor(context, profiles)
    return WebhookEndpoint(
        events.lane,
        context.platform.webhook(context.connection.settings),
        services.intake,
        services.clock,
        services.metrics,
        wake=context.signals.wake_at,
        reads=_read_rules(context, events, profiles.reads) if profiles else None,
        extracts=extracts,
        suppressed=context.suppressed("events"),
    )


def _read_rules(
    context: ConnectionContext, events: Dispatcher[Any], reads: ReadParts | None
) -> ReadRules | None:
    """Which events make their person be read; None where people are not read."""
    if reads is None:
        return None

    def attach_wait() -> float:
        waits = context.mapping.attach_profile and not events.backlogged
        return reads.attach_wait.seconds() if waits else 0.0

    return ReadRules(
        reads.dispatcher.lane.id,
        triggers_read=context.mapping.refreshes,
        by_id=reads.reader.by_id,
        attach_wait=attach_wait,
        # A second read within the shortest wait is in time for the event that causes it.
        min_interval=context.services.config.delivery.attach_wait / 2,
    )


def _extractor(
    context: ConnectionContext, profiles: ProfileParts | None
) -> Callable[[Record, Millis], Observation | None] | None:
    """Reads fields out of events, where the mapping has such fields and profiles are written."""
    if profiles is None or not context.mapping.event_sourced:
        return None
    return EventFieldExtractor(
        context.mapping,
        context.platform.event_view,
        lane=profiles.writes.lane.id,
        account=context.address_scope,
        email_change=context.connection.email_change,
        partial=context.reader is not None,
        reconfirm_after=context.reconfirm_after,
    ).observation
