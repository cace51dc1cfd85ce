"""The door for a platform's webhooks, and the lane of events to Klaviyo."""

from __future__ import annotations

from connector.adapters.klaviyo.sink.events import EventSink
from connector.intake import Door
from connector.lines.site import Site
from connector.operate import KLAVIYO, Line
from connector.rendering import EventRenderer


async def build(site: Site, line: Line) -> None:
    """Events out. An event that ends may free its person's profile for writing."""
    store = site.shop.store
    reads = store.reads if site.profiles else None
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
    if line.reads is None:
        return Door(line.events.lane, webhook)
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
    )
