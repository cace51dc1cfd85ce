"""The door for a platform's webhooks, and the lane of events to Klaviyo."""

from __future__ import annotations

from collections.abc import Callable

from connector.app.wiring.context import Site
from connector.domain.lanes import (
    Millis,
)
from connector.domain.profiles import (
    Observation,
)
from connector.domain.records import (
    Record,
)
from connector.klaviyo.sink.events import EventSink
from connector.pipeline.intake import Door
from connector.pipeline.profile_reads import Listener
from connector.pipeline.rendering import EventRenderer
from connector.service import KLAVIYO, Line


async def build(site: Site, line: Line) -> None:
    """Events out. An event that ends may free its person's profile for writing."""
    store = site.shop.store
    reads = store.reads if site.reader else None
    renderer = EventRenderer(site.mapping, site.platform.event_view, store.memory, reads)
    late_after = site.shop.config.delivery.late_after
    sink = EventSink(site.api, site.shop.clock, late_after=late_after)

    def freed() -> None:
        if line.writes:
            line.writes.wake()

    line.events = await site.dispatcher(
        KLAVIYO,
        "event",
        store,
        sink,
        site.muted(renderer, on=site.has("events")),
        settled=lambda _: freed(),
    )


def door(site: Site, line: Line) -> Door | None:
    """Where the platform's webhooks come in, once all lanes stand."""
    if site.platform.webhook is None or line.events is None:
        return None
    webhook = site.platform.webhook(site.connection.settings)
    hears = _hears(site, line)
    if line.reads is None:
        return Door(line.events.lane, webhook, hears=hears)
    wait = site.shop.config.delivery.attach_wait if site.mapping.attach_profile else 0.0
    events = line.events
    return Door(
        events.lane,
        webhook,
        reads=line.reads.lane.id,
        wants_read=site.mapping.refreshes,
        renews=line.renews,
        by_id=line.by_id,
        attach_wait=round(wait * 1000),
        hurried=lambda: events.hurried,
        hears=hears,
    )


def _hears(site: Site, line: Line) -> Callable[[Record, Millis], Observation | None] | None:
    """What the mapping hears in events, where it does and profiles are written."""
    if line.writes is None or not site.mapping.heard:
        return None
    return Listener(
        site.mapping,
        site.platform.event_view,
        lane=line.writes.lane.id,
        account=site.addresses,
        email_change=site.connection.email_change,
        partial=site.reader is not None,
    ).observation
