"""People in, profiles out: the two lanes of states, and who follows the jobs. Each wakes the
next."""

from __future__ import annotations

from collections.abc import Sequence

from connector.app.wiring.context import Site
from connector.domain.outcomes import (
    Outcome,
    Pending,
)
from connector.domain.profiles import (
    ProfileWrite,
)
from connector.klaviyo.sink.jobs import ImportJobs
from connector.klaviyo.sink.profiles import ProfileSink
from connector.pipeline.dispatch import Dispatcher
from connector.pipeline.import_jobs import Receipts
from connector.pipeline.profile_reads import PassThrough, Refresher
from connector.pipeline.rendering import ProfileRenderer
from connector.ports import Reader, Renderer
from connector.service import KLAVIYO, Line
from connector.sync.goals import signals


async def build(site: Site, line: Line) -> None:
    """Only for a site with profiles. Receipts are the line's from now on, the lane of reads too
    where people can be read."""
    shop = site.shop
    sink = ProfileSink(site.api)

    def written(outcomes: Sequence[Outcome]) -> None:
        if any(isinstance(o, Pending) for o in outcomes):
            receipts.wake()

    renderer: Renderer[ProfileWrite] = ProfileRenderer()
    line.writes = writes = await site.dispatcher(
        KLAVIYO, "profile", shop.store.profiles, sink, site.muted(renderer), settled=written
    )
    if not site.shadow:
        await shop.store.profiles.end_shadow(writes.lane.id, now=shop.clock.now())
    receipts = Receipts(
        writes.lane,
        shop.store.profiles,
        ImportJobs(site.api),
        shop.lease,
        shop.clock,
        shop.metrics,
        settled=writes.wake,
    )

    line.loops.append(receipts.run)
    line.idle.append(receipts.idle)
    line.needs.append(receipts.needs)
    if site.reader is not None:
        await _reads(site, line, site.reader, writes)


async def _reads(site: Site, line: Line, reader: Reader, writes: Dispatcher[ProfileWrite]) -> None:
    connection = site.connection
    line.renews, line.by_id = reader.renews, reader.by_id
    line.refresher = Refresher(
        reader,
        site.mapping,
        lane=writes.lane.id,
        account=site.addresses,
        email_change=connection.email_change,
        on_leave=connection.on_leave,
        signals=signals(connection.tiers, connection.rewards),
    )

    def seen(outcomes: Sequence[Outcome]) -> None:
        line.events.wake()
        writes.wake()

    line.reads = await site.dispatcher(
        connection.source,
        "profile",
        site.shop.store.reads,
        line.refresher,
        PassThrough(),
        settled=seen,
    )
