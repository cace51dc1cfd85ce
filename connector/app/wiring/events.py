"""The door for a platform's webhooks, and the lane of events to Klaviyo."""

from __future__ import annotations

from collections.abc import Callable

from connector.app.wiring.context import ConnectionContext
from connector.domain.lanes import Millis
from connector.domain.profiles import Observation
from connector.domain.records import Record
from connector.klaviyo.sink.events import EventSink
from connector.pipeline.intake import WebhookEndpoint
from connector.pipeline.profile_reads import EventFieldExtractor
from connector.pipeline.rendering import EventRenderer
from connector.service import KLAVIYO, ConnectionRuntime


async def build(context: ConnectionContext, runtime: ConnectionRuntime) -> None:
    """Events out. An event that ends may free its person's profile for writing."""
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
    """Where the platform's webhooks come in, once all lanes stand."""
    if context.platform.webhook is None or runtime.events is None:
        return None
    webhook = context.platform.webhook(context.connection.settings)
    extracts = _extractor(context, runtime)
    if runtime.reads is None:
        return WebhookEndpoint(runtime.events.lane, webhook, extracts=extracts)
    wait = context.services.config.delivery.attach_wait if context.mapping.attach_profile else 0.0
    events = runtime.events
    return WebhookEndpoint(
        events.lane,
        webhook,
        read_lane=runtime.reads.lane.id,
        triggers_read=context.mapping.refreshes,
        by_id=runtime.by_id,
        attach_wait=round(wait * 1000),
        backlogged=lambda: events.backlogged,
        extracts=extracts,
    )


def _extractor(
    context: ConnectionContext, runtime: ConnectionRuntime
) -> Callable[[Record, Millis], Observation | None] | None:
    """What the mapping hears in events, where it does and profiles are written."""
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
