"""Builds the endpoint of a platform's webhooks and the lane of events to Klaviyo."""

from __future__ import annotations

from collections.abc import Callable

from connector.app.wiring.context import ConnectionContext
from connector.domain.lanes import Millis
from connector.domain.profiles import Observation
from connector.domain.records import Record
from connector.klaviyo.sink.events import EventSink
from connector.pipeline.profile_reads import EventFieldExtractor
from connector.pipeline.rendering import EventRenderer
from connector.pipeline.webhook_endpoint import ReadRules, WebhookEndpoint
from connector.service import KLAVIYO, ConnectionRuntime


async def build(context: ConnectionContext, runtime: ConnectionRuntime) -> None:
    """Build the lane of events. A settled event may release its person's profile for writing."""
    store = context.services.store
    reads = store.reads if context.reader else None
    renderer = EventRenderer(context.mapping, context.platform.event_view, store.facts, reads)
    late_after = context.services.config.delivery.late_after
    sink = EventSink(context.api, context.services.clock, late_after=late_after)

    def wake_writes() -> None:
        if runtime.writes:
            runtime.writes.wake()

    runtime.events = await context.dispatcher(
        KLAVIYO,
        "event",
        store,
        sink,
        context.suppress_if_off(renderer, enabled=context.has("events")),
        settled=lambda _: wake_writes(),
    )


def webhook_endpoint(
    context: ConnectionContext, runtime: ConnectionRuntime
) -> WebhookEndpoint | None:
    """The endpoint of the platform's webhooks. Call it after all lanes are built: it wakes them."""
    if context.platform.webhook is None or runtime.events is None:
        return None
    services = context.services
    extracts = _extractor(context, runtime)
    woken = [runtime.events, runtime.reads, runtime.writes if extracts else None]
    dispatchers = [*filter(None, woken), *runtime.extra_dispatchers]
    return WebhookEndpoint(
        runtime.events.lane,
        context.platform.webhook(context.connection.settings),
        services.intake,
        services.clock,
        services.metrics,
        wakes=[dispatcher.wake for dispatcher in dispatchers],
        reads=_read_rules(context, runtime),
        extracts=extracts,
    )


def _read_rules(context: ConnectionContext, runtime: ConnectionRuntime) -> ReadRules | None:
    """Which events make their person be read; None where people are not read."""
    if runtime.reads is None:
        return None
    events = runtime.events
    wait = context.services.config.delivery.attach_wait if context.mapping.attach_profile else 0.0
    return ReadRules(
        runtime.reads.lane.id,
        triggers_read=context.mapping.refreshes,
        needs_refetch=runtime.renews,
        by_id=runtime.by_id,
        attach_wait=round(wait * 1000),
        backlogged=lambda: events.backlogged,
    )


def _extractor(
    context: ConnectionContext, runtime: ConnectionRuntime
) -> Callable[[Record, Millis], Observation | None] | None:
    """Makes observations from events; None where the mapping takes no field from events or no
    profiles are written."""
    if runtime.writes is None or not context.mapping.event_sourced:
        return None
    return EventFieldExtractor(
        context.mapping,
        context.platform.event_view,
        lane=runtime.writes.lane.id,
        account=context.address_scope,
        email_change=context.connection.email_change,
        partial=context.reader is not None,
    ).observation
