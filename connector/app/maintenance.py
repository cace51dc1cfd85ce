"""Upkeep of the store: heartbeat, disk space, retention, and the metrics that it answers."""

from __future__ import annotations

from connector.app.connections import Connections
from connector.app.problems import ProcessProblems
from connector.config import Retention
from connector.config import Store as StoreSettings
from connector.domain.errors import Problem, StoreError
from connector.domain.lanes import Millis
from connector.domain.oauth import KLAVIYO_OAUTH, GrantInfo
from connector.domain.records import State
from connector.pipeline.intake import Intake
from connector.ports import Clock, Store
from connector.runtime import log
from connector.runtime.metrics import Metrics
from connector.web.health import Health

_COUNT_PEOPLE_EVERY = 300.0
_BATCH = 2_000
_PAUSE = 0.05
"""Seconds between two batches, so that retention hardly delays live traffic."""


class Maintenance:
    """What the daemon does for its store besides delivering."""

    def __init__(
        self,
        store: Store,
        intake: Intake,
        connections: Connections,
        problems: ProcessProblems,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._store = store
        self._upkeep = store.maintenance
        self._intake = intake
        self._connections = connections
        self._problems = problems
        self._clock = clock
        self._metrics = metrics
        self._count_people_at = 0.0
        self._log = log.get("maintenance")

    async def heartbeat(self, health: Health, settings: StoreSettings) -> None:
        """The event loop and the store's writer move, and there is disk to write to. Intake closes
        below `min_free` and opens again by itself. Raises StoreError."""
        try:
            await self._store.facts.save_usage(())
            self._problems.set("store", None)
        except StoreError as error:
            # The event loop moves and the store has answered, even if it refused.
            self._problems.set("store", f"{error.problem}: {error.problem.meaning}")
            raise
        finally:
            health.heartbeat()
        free = self._upkeep.free_bytes()
        low = free is not None and free < settings.min_free
        if low and self._intake.closed_by is None:
            self._log.error(
                "intake_closed",
                problem=Problem.DISK_LOW.value,
                free_bytes=free,
                needed_bytes=settings.min_free,
            )
        elif not low and self._intake.closed_by is not None:
            self._log.info("intake_opened", free_bytes=free)
        self._intake.closed_by = Problem.DISK_LOW if low else None
        text = f"{Problem.DISK_LOW}: {Problem.DISK_LOW.meaning}" if low else None
        self._problems.set("disk", text)

    async def apply_retention(self, keep: Retention) -> None:
        """Delete what is older than `[retention]` allows, batch by batch."""
        ages = {
            State.ACCEPTED: keep.event_ids,
            State.SKIPPED: keep.event_ids,
            State.HELD: keep.held,
            State.DEAD: keep.dead_letters,
            State.DISCARDED: keep.dead_letters,
        }
        wanted = {state: round(age * 1000) for state, age in ages.items()}
        deleted = 0
        while count := await self._upkeep.prune_records(
            now=self._clock.now(), keep=wanted, limit=_BATCH
        ):
            deleted += count
            await self._clock.sleep(_PAUSE)
        before = self._before(keep.timeline)
        while await self._upkeep.prune_timeline(before=before, limit=_BATCH):
            await self._clock.sleep(_PAUSE)
        after: int | None = 0
        while after is not None:
            after = await self._upkeep.clear_bodies(before=before, after=after, limit=5_000)
            await self._clock.sleep(_PAUSE / 5)
        before = self._before(keep.action_keys)
        while count := await self._store.actions.prune(before=before, limit=_BATCH):
            deleted += count
            await self._clock.sleep(_PAUSE)
        before = self._before(keep.audit)
        while await self._store.audit.prune(before=before, limit=_BATCH):
            await self._clock.sleep(_PAUSE)
        freed = 0
        while pages := await self._upkeep.free_pages(500):
            freed += pages
            await self._clock.sleep(_PAUSE)
        self._log.info("retention_applied", records_deleted=deleted, pages_freed=freed)

    def _before(self, age: float) -> Millis:
        return Millis(self._clock.now() - round(age * 1000))

    async def refresh_metrics(self) -> None:
        """Gauges that only the store knows. Raises StoreError."""
        store, metrics = self._store, self._metrics
        metrics.set_backlog(await store.reports.backlog(), self._clock.now())
        metrics.set_dead_letters(await store.reports.dead_by_cause())
        for connection, stream, _, saved_at in await store.reports.streams():
            metrics.checkpoint.labels(connection, stream).set(saved_at / 1000)
        metrics.set_approvals(await store.approvals.find())
        names = list(self._connections.runtimes)
        metrics.set_uncertain(await store.action_views.uncertain(), names)
        if self._clock.monotonic() >= self._count_people_at:
            # Every person is counted, so not at every scrape.
            self._count_people_at = self._clock.monotonic() + _COUNT_PEOPLE_EVERY
            metrics.set_people(await store.reports.people_by_state())
        metrics.set_groups(await store.member_groups.all())
        for secret in await store.secrets.all():
            if secret.name == KLAVIYO_OAUTH:
                info = GrantInfo.load(secret.info)
                ends = info.ended_at if info.ended_at is not None else info.expires_at
                metrics.oauth_expiry.labels(secret.owner).set(ends / 1000)
        self._connections.limiters.publish_metrics()
        for gauge, value in (
            (metrics.store_bytes, self._upkeep.size_bytes()),
            (metrics.store_free, self._upkeep.free_bytes()),
        ):
            if value is not None:
                gauge.set(value)
