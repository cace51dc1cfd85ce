"""Upkeep of the store: heartbeat, disk space, retention, and the metrics that it answers."""

from __future__ import annotations

from collections.abc import Mapping

from connector.app.connections import Connections
from connector.app.problem_log import ProblemLog
from connector.app.problems import ProcessProblems
from connector.config import Retention
from connector.config import Store as StoreSettings
from connector.domain.attention import store_item
from connector.domain.errors import Problem, StoreError
from connector.domain.lanes import Millis
from connector.domain.oauth import KLAVIYO_OAUTH, GrantInfo
from connector.domain.records import State
from connector.domain.wording import format_size
from connector.pipeline.intake import Intake
from connector.ports import Clock, Store
from connector.runtime import log
from connector.runtime.metrics import Metrics
from connector.service import Commands
from connector.service.process import Process
from connector.store.sql import file_of
from connector.web.health import Health

_DISK_LOG_INTERVAL = 60.0
_KEEP_REPORTS = 86_400.0
_BATCH = 500
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
        commands: Commands,
        process: Process,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._store = store
        self._upkeep = store.maintenance
        self._intake = intake
        self._connections = connections
        self._problems = problems
        self._commands = commands
        self._process = process
        self._clock = clock
        self._metrics = metrics
        self._problem_log = ProblemLog(metrics.activity)
        self._disk_logged_at = float("-inf")
        self._log = log.get("maintenance")

    async def heartbeat(self, health: Health, settings: StoreSettings) -> None:
        """The event loop and the store's writer move, and there is disk to write to. Intake closes
        below `min_free` and opens again by itself. Raises StoreError."""
        try:
            if fault := self._upkeep.fault():
                raise fault
            await self._write_something()
            await self._upkeep.fold_counters()
            self._problems.clear("store")
        except StoreError as error:
            # The event loop moves and the store has answered, even if it refused.
            self._problems.set("store", error.problem, store_item(error).text)
            raise
        finally:
            health.heartbeat()
        self._check_disk(settings)
        await self._show_people()

    async def _write_something(self) -> None:
        """Raises StoreError."""
        self._metrics.activity.sample(self._clock.monotonic())
        self._problem_log.update(self._clock.now())
        await self.save_throughput()
        await self._commands.save_report()

    async def save_throughput(self) -> None:
        """For charts. Raises StoreError; a commit without an answer may be counted twice."""
        activity = self._metrics.activity
        counts = activity.take_minutes()
        try:
            await self._store.facts.add_throughput(counts)
        except StoreError:
            activity.return_minutes(counts)
            raise

    def _check_disk(self, settings: StoreSettings) -> None:
        """Intake closes below `min_free`. Space that comes and goes is logged once a minute."""
        free = self._upkeep.free_bytes()
        low = free is not None and free < settings.min_free
        changed = low != (self._intake.closed_by is not None)
        self._intake.closed_by = Problem.DISK_LOW if low else None
        if changed and self._clock.monotonic() - self._disk_logged_at >= _DISK_LOG_INTERVAL:
            self._disk_logged_at = self._clock.monotonic()
            if low:
                self._log.error(
                    "intake_closed",
                    problem=Problem.DISK_LOW.value,
                    free_bytes=free,
                    needed_bytes=settings.min_free,
                )
            else:
                self._log.info("intake_opened", free_bytes=free)
        if not low or free is None:
            self._problems.clear("disk")
            return
        path = file_of(settings.url)
        where = f"the disk of {path}" if path else "the disk"
        text = (
            f"{where} has {format_size(free)} free and needs {format_size(settings.min_free)} "
            "([store] min_free): webhooks are answered 503, deliveries continue"
        )
        self._problems.set("disk", Problem.DISK_LOW, text)

    async def _show_people(self) -> None:
        people = await self._store.reports.people_by_state()
        self._process.people = people
        self._metrics.set_people(people)

    async def apply_retention(self, keep: Retention) -> None:
        """Delete what is older than `[retention]` allows, batch by batch."""
        stuck = {State.HELD: keep.held, State.DEAD: keep.dead_letters}
        ended = {
            State.ACCEPTED: keep.event_ids,
            State.SKIPPED: keep.event_ids,
            State.DISCARDED: keep.dead_letters,
        }
        deleted = await self._prune_records(stuck) + await self._prune_records(ended)
        before = self._before(keep.timeline)
        while await self._upkeep.prune_timeline(before=before, limit=_BATCH):
            await self._clock.sleep(_PAUSE)
        after: int | None = 0
        while after is not None:
            after = await self._upkeep.clear_bodies(before=before, after=after, limit=1_000)
            await self._clock.sleep(_PAUSE / 5)
        before = self._before(keep.action_keys)
        while count := await self._store.actions.prune(before=before, limit=_BATCH):
            deleted += count
            await self._clock.sleep(_PAUSE)
        before = self._before(keep.audit)
        while await self._store.audit.prune(before=before, limit=_BATCH):
            await self._clock.sleep(_PAUSE)
        await self._store.process_reports.prune(before=self._before(_KEEP_REPORTS))
        freed = 0
        while pages := await self._upkeep.free_pages(500):
            freed += pages
            await self._clock.sleep(_PAUSE)
        self._log.info("retention_applied", records_deleted=deleted, pages_freed=freed)

    async def _prune_records(self, keep: Mapping[State, float]) -> int:
        wanted = {state: round(age * 1000) for state, age in keep.items()}
        deleted, after = 0, 0
        while True:
            part = await self._upkeep.prune_records(
                now=self._clock.now(), keep=wanted, limit=_BATCH, after=after
            )
            deleted += part.deleted
            if part.after is None:
                return deleted
            after = part.after
            await self._clock.sleep(_PAUSE)

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
        await self._show_people()
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
