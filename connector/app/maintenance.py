"""Upkeep of the store: heartbeat, disk space, retention, and the metrics that it answers."""

from __future__ import annotations

import contextlib
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
from connector.domain.wording import low_disk
from connector.pipeline.intake import Intake
from connector.ports import Clock, Store
from connector.runtime import log
from connector.runtime.metrics import Metrics
from connector.service import Commands
from connector.service.process import Process
from connector.store.sql import file_of
from connector.web.health import Health

_DISK_LOG_INTERVAL = 60.0
_BATCH = 500
_REPORTS_KEPT = 86_400.0
"""Seconds for which the last report of a process that has ended is kept."""
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
            if error.problem is Problem.STORE_DAMAGED:
                # Whoever reads other pages of it finds nothing wrong.
                with contextlib.suppress(StoreError):
                    await self._commands.save_report()
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
        measured = low_disk(file_of(settings.url), free, settings.min_free)
        text = f"{measured}: webhooks are answered 503, deliveries continue"
        self._problems.set("disk", Problem.DISK_LOW, text)

    async def _show_people(self) -> None:
        people = await self._store.reports.people_by_state()
        self._process.people = people
        ours = self._connections.is_ours
        self._metrics.set_people({key: n for key, n in people.items() if ours(key[0])})

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
        await self._store.process_reports.prune(before=self._before(_REPORTS_KEPT))
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
        """Gauges that only the store knows, of the connections that no other process describes.
        Raises StoreError."""
        store, metrics, ours = self._store, self._metrics, self._connections.is_ours
        backlogs = [b for b in await store.reports.backlog() if ours(b.lane.connection)]
        stuck = [g for g in await store.dead_letters.groups() if ours(g.lane.connection)]
        streams = [found for found in await store.reports.streams() if ours(found[0])]
        approvals = [a for a in await store.approvals.find() if ours(a.connection)]
        uncertain = await store.action_views.uncertain()
        groups = [group for group in await store.member_groups.all() if ours(group.connection)]
        secrets = [secret for secret in await store.secrets.all() if ours(secret.owner)]
        await self._show_people()
        metrics.forget_connections()
        metrics.set_backlog(backlogs, self._clock.now())
        metrics.set_dead_letters(stuck)
        for connection, stream, _, saved_at in streams:
            metrics.checkpoint.labels(connection, stream).set(saved_at / 1000)
        metrics.set_approvals(approvals)
        metrics.set_uncertain(uncertain, [n for n in self._connections.runtimes if ours(n)])
        metrics.set_groups(groups)
        for secret in secrets:
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
