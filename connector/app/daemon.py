"""The composition root: what starts in which order, and stops in which.

Start: store, lease, what a dead holder left, lines, doors, lanes, bells.
Stop: doors (nothing new comes in), lanes (what is in flight is settled), lease, store.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from connector import __version__
from connector.app.wiring import BuildResult, ConnectionBuilder
from connector.config import Config
from connector.config import load as load_config
from connector.domain.errors import ConfigError, Problem, StoreError
from connector.domain.lanes import LaneId, Millis
from connector.domain.records import State
from connector.net import http
from connector.pipeline.intake import Intake
from connector.pipeline.lease import LeaseRenewer, holder_name
from connector.platforms.registry import SettingsModels
from connector.ports import Clock
from connector.ports.workers import Loop
from connector.runtime import log
from connector.runtime.clock import SystemClock
from connector.runtime.metrics import Metrics
from connector.runtime.scheduler import Scheduler
from connector.runtime.supervisor import SupervisedWorker
from connector.service import Commands, ConnectionRuntime, notify
from connector.store.sql import SqlStore, open_store
from connector.web.flows import FlowApp
from connector.web.health import Health
from connector.web.server import Server, application
from connector.web.webhooks import WebhookApp

_DAY_MS = 86_400_000
_IDLE_HORIZON = 60.0
_COUNT_PEOPLE_EVERY = 300.0


def read_config(path: Path | None = None) -> Config:
    """The configuration with every platform's settings validated. Raises ConfigError."""
    return load_config(path, settings_models=SettingsModels())


class App:
    """The daemon."""

    def __init__(
        self,
        config: Config,
        *,
        clock: Clock | None = None,
        reread: Callable[[], Config] | None = None,
    ) -> None:
        self.config = config
        self.clock: Clock = clock or SystemClock()
        self.metrics = Metrics(__version__)
        self.runtimes: dict[str, ConnectionRuntime] = {}
        self.broken: dict[str, str] = {}
        self.store: SqlStore
        self.commands: Commands
        self.intake: Intake
        self.health: Health
        self._reread = reread
        self._builder: ConnectionBuilder
        self._lease: LeaseRenewer
        self._servers: list[Server] = []
        self._count_people_at = 0.0
        self._scheduler = Scheduler()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._notify_workers: list[SupervisedWorker] = []
        self._problems: dict[str, str] = {}
        self._lease_lost = asyncio.Event()
        self._log = log.get("app")

    # ── start and stop ───────────────────────────────────────────────────────────────────────────

    async def start(self, *, lease_timeout: float | None = None, serve: bool = True) -> None:
        """Raises ConfigError for what a person must mend, StoreError when another holds the store
        longer than `patience` seconds or its schema does not fit. By itself it waits 30 s where
        the store is a file, and for ever where replicas share a database."""
        if lease_timeout is None:
            lease_timeout = 30.0 if _uses_sqlite(self.config) else float("inf")
        if serve and not _uses_sqlite(self.config):
            await self._listen()
        self.store = await self._open_store()
        if self.store.size_bytes() is None:
            self.metrics.drop_disk_gauges()
        self.commands = Commands(
            self.store,
            self.clock,
            runtimes=self.runtimes,
            reload=self.reload,
            problems=lambda: list(self._problems.values()),
        )
        self.intake = Intake(self.store, self.clock, self.metrics, on_ready=self._on_records_stored)
        self.health = Health(
            self.clock,
            self.metrics,
            self.commands,
            self._scrape,
            intake_closed=lambda: self.intake.closed_by is not None or "store" in self._problems,
        )
        self.store.profiles.reconfirm_after = round(self.config.delivery.reconfirm_after * 1000)
        self._lease = LeaseRenewer(self.store, self.clock, holder_name())
        await self._lease.acquire(lease_timeout)
        await self._take_over()
        self._builder = ConnectionBuilder(
            self.config, self.store, self._lease, self.clock, self.metrics
        )
        self._use_runtimes(await self._builder.build_all(self.config.connections))
        await self._heartbeat()
        if serve:
            await self._serve()
        for runtime in self.runtimes.values():
            self._start_connection(runtime)
        self._start_scheduler()
        await self._start_notifier()
        self.health.ready = True
        self._log.info("ready", version=__version__, connections=len(self.runtimes))

    async def abort_start(self) -> None:
        """Give back what a start that was cut off had taken."""
        await asyncio.gather(*(server.stop() for server in self._servers))
        if hasattr(self, "_lease"):
            await self._lease.release()
        if hasattr(self, "store"):
            await self.store.aclose()

    async def stop(self) -> None:
        """Everything in flight is finished, within [server] shutdown_timeout."""
        if not hasattr(self, "health"):
            return await self.abort_start()
        until = self.clock.monotonic() + self.config.server.shutdown_timeout
        self.health.ready = False
        self._scheduler.stop()
        await self.commands.stop()
        await asyncio.gather(*(server.stop() for server in self._servers))
        left = max(0.0, until - self.clock.monotonic())
        await asyncio.gather(
            *(self._stop_connection(runtime, left) for runtime in self.runtimes.values())
        )
        await asyncio.gather(*(worker.stop(1.0) for worker in self._notify_workers))
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        await self._lease.release()
        await self.store.aclose()
        self._log.info("stopped")

    @property
    def port(self) -> int:
        """The port that platforms call."""
        return self._servers[0].port

    async def until_idle(self) -> list[str]:
        """Wait until nothing is ready, in flight or due within a minute and every poll has looked
        once; then one line for each lane that a person or a probe must restart, and for each poll
        that failed."""
        while not all([await self._idle(runtime) for runtime in self.runtimes.values()]):
            await self.clock.sleep(0.1)
        stopped = [
            f"{runtime.name} {d.lane.kind}s → {d.lane.destination}: "
            f"{d.state.mode}, {d.state.detail}"
            for runtime in self.runtimes.values()
            for d in runtime.dispatchers
            if d.state.mode != "running"
        ]
        attention = [
            item
            for runtime in self.runtimes.values()
            for worker in runtime.workers
            for item in await worker.attention()
        ]
        stopped += [message for key, message in self._problems.items() if key.startswith("broken ")]
        return stopped + [item.text for item in attention if item.key.startswith("poll ")]

    async def _idle(self, runtime: ConnectionRuntime) -> bool:
        """In the order of the road, so that what one lane hands to the next is seen there."""
        if not runtime.enabled:
            return True
        quiet = all([await d.idle_for(_IDLE_HORIZON) for d in runtime.dispatchers])
        done = all([await worker.idle(_IDLE_HORIZON) for worker in runtime.workers])
        return quiet and done and all(d.idle for d in runtime.dispatchers)

    # ── pieces of the start ──────────────────────────────────────────────────────────────────────

    async def _open_store(self) -> SqlStore:
        """Wait for a database that is away: the daemon does not end because of it."""
        logged = False
        while True:
            try:
                return await open_store(self.config.store.url, migrate=self.config.store.migrate)
            except StoreError as error:
                if error.problem is not Problem.STORE_UNAVAILABLE or _uses_sqlite(self.config):
                    raise
                if not logged:
                    self._log.error(
                        "waiting for the store", problem=error.problem.value, detail=error.detail
                    )
                logged = True
                await self.clock.sleep(5.0)

    async def _take_over(self) -> None:
        await self._recover()
        await self.store.commands.requeue()
        self._lease_lost.clear()
        self._lease.start_renewing(self._lease_lost.set)
        self.metrics.lease.labels("store").set(1)

    async def _recover(self) -> None:
        """While no delivery is in flight: what is claimed was cut off."""
        try:
            now, fence = self.clock.now(), self._lease.fence
            recovered = await self.store.recover(fence, now=now)
            recovered += await self.store.reads.recover(fence, now=now)
            recovered += await self.store.profiles.recover(fence, now=now)
            recovered += await self.store.actions.recover(fence, now=now)
            recovered += await self.store.memberships.recover(fence, now=now)
        except StoreError as error:
            if error.problem is not Problem.STORE_HELD or not self.runtimes:
                raise
            return  # whoever took the lease recovers
        if recovered:
            self._log.warning("records in doubt after a stop go singly", records=recovered)

    async def _listen(self) -> None:
        """Open the doors before there is anything behind them, for whoever asks for health while
        a database or a lease is waited for."""
        server = self.config.server
        for key, port in (("server.port", server.port), ("server.admin_port", server.admin_port)):
            if port or key == "server.port":
                listener = Server(None, server.host, port, grace=server.shutdown_timeout, key=key)
                await listener.start()
                self._servers.append(listener)

    async def _serve(self) -> None:
        server = self.config.server
        webhooks = WebhookApp(
            self.runtimes.get, self.intake, self.clock, self.metrics, broken=self.broken
        )
        flows = FlowApp(
            self.runtimes.get,
            self.clock,
            self.metrics,
            closed=lambda: self.intake.closed_by,
            broken=self.broken,
        )
        shared, grace = server.admin_port == 0, server.shutdown_timeout
        public = application(webhooks, self.health, admin=shared, flows=flows)
        listeners = [Server(public, server.host, server.port, grace=grace, key="server.port")]
        if not shared:
            private = application(None, self.health, admin=True)
            listeners.append(
                Server(
                    private, server.host, server.admin_port, grace=grace, key="server.admin_port"
                )
            )
        early = {listener.key: listener for listener in self._servers}
        for listener in listeners:
            if listener.key in early:
                early[listener.key].app = listener.app
            else:
                await listener.start()
                self._servers.append(listener)

    def _use_runtimes(self, built: BuildResult) -> None:
        """These lines from now on; what has none is a person's affair."""
        for name in self.broken:
            self._set_problem(f"broken {name}", None)
        self.runtimes.clear()
        self.runtimes.update(built.runtimes)
        self.broken.clear()
        self.broken.update(built.broken)
        for name, fault in self.broken.items():
            self._set_problem(f"broken {name}", f"{Problem.PLUGIN_BROKEN} {name}: {fault}")
            self._log.error("a connection stands still", connection=name, fault=fault)

    def _start_connection(self, runtime: ConnectionRuntime) -> None:
        if not runtime.enabled:
            return
        for number, dispatcher in enumerate(runtime.dispatchers):
            self._tasks[f"lane {runtime.name} {number}"] = asyncio.create_task(dispatcher.run())
        for worker in runtime.workers:
            worker.start()

    async def _stop_connection(self, runtime: ConnectionRuntime, grace: float) -> None:
        await asyncio.gather(*(worker.stop(1.0) for worker in runtime.workers))
        await asyncio.gather(*(dispatcher.stop(grace) for dispatcher in runtime.dispatchers))
        tasks = self._tasks_of(f"lane {runtime.name} ")
        if tasks:
            # A turn that hangs in the store is cut off; what it claimed is recovered at a start.
            await asyncio.wait(tasks, timeout=1.0)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await runtime.aclose()

    async def _start_notifier(self) -> None:
        """Notify the targets of `[[notify]]` as configured now."""
        await asyncio.gather(*(worker.stop(1.0) for worker in self._notify_workers))
        self._notify_workers.clear()
        if targets := notify.targets(self.config.notify):
            notifier = notify.Notifier(
                targets,
                self._attention,
                self.store.notifications,
                self._lease,
                self.clock,
                notification_poster(self.config, self.clock),
                source=self.config.server.public_url,
            )
            loops: list[Loop] = [notifier, *notifier.deliveries]
            for loop in loops:
                worker = SupervisedWorker(
                    "notifications", loop, subject="notify", clock=self.clock, metrics=self.metrics
                )
                self._notify_workers.append(worker)
                worker.start()

    async def _attention(self) -> dict[str, str]:
        return {item.key: item.text for item in await self.commands.attention()}

    def _tasks_of(self, prefix: str) -> list[asyncio.Task[None]]:
        return [self._tasks.pop(name) for name in list(self._tasks) if name.startswith(prefix)]

    def _on_records_stored(self, lane: LaneId) -> None:
        for runtime in self.runtimes.values():
            if runtime.events.lane.id == lane:
                runtime.events.wake()
                if runtime.reads:
                    runtime.reads.wake()
                if (
                    runtime.writes
                    and runtime.webhook_endpoint
                    and runtime.webhook_endpoint.extracts
                ):
                    runtime.writes.wake()
                for dispatcher in runtime.extra_dispatchers:
                    dispatcher.wake()

    # ── bells ────────────────────────────────────────────────────────────────────────────────────

    def _start_scheduler(self) -> None:
        self._start_periodic("orders", self._scheduler.every(0.5), self._execute_commands)
        self._start_periodic("pulse", self._scheduler.every(5.0), self._heartbeat)
        self._start_periodic("nightly", self._scheduler.nightly(), self.apply_retention)
        self._tasks["lease"] = asyncio.create_task(self._reacquire_lease())
        self._scheduler.start()

    def _start_periodic(
        self, name: str, tick: asyncio.Event, work: Callable[[], Awaitable[None]]
    ) -> None:
        async def run() -> None:
            while True:
                await tick.wait()
                tick.clear()
                try:
                    await work()
                except StoreError as error:
                    self._log.warning(f"{name}: the store does not answer", detail=error.detail)
                except Exception:
                    # A bell must go on ringing, whatever one stroke came to.
                    self._log.exception(f"{name} failed")

        self._tasks[name] = asyncio.create_task(run())

    async def _execute_commands(self) -> None:
        """Orders belong to whoever holds the store."""
        if self._lease.valid():
            await self.commands.execute_pending()

    async def _heartbeat(self) -> None:
        """The loop moves, the writer moves, and there is disk to write to."""
        try:
            await self.store.facts.save_usage(())
            self._set_problem("store", None)
        except StoreError as error:
            # The loop moves and the store has answered, if only to say no.
            self._set_problem("store", f"{error.problem}: {error.problem.meaning}")
            raise
        finally:
            self.health.heartbeat()
        free = self.store.free_bytes()
        low = free is not None and free < self.config.store.min_free
        if low and self.intake.closed_by is None:
            self._log.error("intake is closed: free disk is low", problem=Problem.DISK_LOW.value)
        elif not low and self.intake.closed_by is not None:
            self._log.info("intake is open again")
        self.intake.closed_by = Problem.DISK_LOW if low else None
        self._set_problem(
            "disk", f"{Problem.DISK_LOW}: {Problem.DISK_LOW.meaning}" if low else None
        )

    async def apply_retention(self) -> None:
        """Forget what retention says, a batch at a time so that live traffic hardly notices."""
        keep = self.config.retention
        ages = {
            State.ACCEPTED: keep.event_ids,
            State.SKIPPED: keep.event_ids,
            State.HELD: keep.held,
            State.DEAD: keep.dead_letters,
            State.DISCARDED: keep.dead_letters,
        }
        wanted = {state: round(age * 1000) for state, age in ages.items()}
        deleted = 0
        while count := await self.store.prune(now=self.clock.now(), keep=wanted, limit=2_000):
            deleted += count
            await self.clock.sleep(0.05)
        before = Millis(self.clock.now() - round(keep.timeline * 1000))
        while await self.store.prune_timeline(before=before, limit=2_000):
            await self.clock.sleep(0.05)
        after: int | None = 0
        while after is not None:
            after = await self.store.clear_bodies(before=before, after=after, limit=5_000)
            await self.clock.sleep(0.01)
        before = Millis(self.clock.now() - round(keep.action_keys * 1000))
        while count := await self.store.actions.prune(before=before, limit=2_000):
            deleted += count
            await self.clock.sleep(0.05)
        pages_returned = 0
        while pages := await self.store.free_pages(500):
            pages_returned += pages
            await self.clock.sleep(0.05)
        self._log.info("retention", records_forgotten=deleted, pages_given_back=pages_returned)

    async def _reacquire_lease(self) -> None:
        """When another took the lease, wait until it is free and take over again."""
        while True:
            await self._lease_lost.wait()
            self.metrics.lease.labels("store").set(0)
            try:
                await self._lease.acquire(float("inf"))
                await self._take_over()
            except StoreError as error:
                self._log.warning("lease: the store does not answer", detail=error.detail)
                await self.clock.sleep(1.0)

    async def _scrape(self) -> None:
        now = self.clock.now()
        self.metrics.set_backlog(await self.store.reports.backlog(), now)
        self.metrics.set_dead_letters(await self.store.reports.dead_by_cause())
        for connection, stream, _, saved_at in await self.store.reports.streams():
            self.metrics.checkpoint.labels(connection, stream).set(saved_at / 1000)
        self.metrics.set_approvals(await self.store.approvals.find())
        self.metrics.set_uncertain(await self.store.actions.uncertain(), list(self.runtimes))
        if self.clock.monotonic() >= self._count_people_at:
            # Everybody is looked at, so not at every scrape.
            self._count_people_at = self.clock.monotonic() + _COUNT_PEOPLE_EVERY
            self.metrics.set_people(await self.store.reports.people_by_state())
        self.metrics.set_groups(await self.store.member_groups.all())
        self._builder.limiters.publish_metrics()
        for gauge, value in (
            (self.metrics.store_bytes, self.store.size_bytes()),
            (self.metrics.store_free, self.store.free_bytes()),
        ):
            if value is not None:
                gauge.set(value)

    def _set_problem(self, key: str, message: str | None) -> None:
        if message:
            self._problems[key] = message
        else:
            self._problems.pop(key, None)

    # ── reload ───────────────────────────────────────────────────────────────────────────────────

    async def reload(self) -> Mapping[str, Any]:
        """Apply an edited configuration; a faulty one changes nothing and raises ConfigError."""
        if self._reread is None:
            return {"reloaded": False}
        try:
            config = self._reread()
            self._builder.limiters.reset_uses()
            old, builder = (
                self.runtimes.copy(),
                ConnectionBuilder(
                    config,
                    self.store,
                    self._lease,
                    self.clock,
                    self.metrics,
                    self._builder.limiters,
                ),
            )
            built = await builder.build_all(config.connections)
        except ConfigError as error:
            self.metrics.reload_ok.set(0)
            self._set_problem("reload", f"{Problem.RELOAD_REFUSED}: {error.faults[0]}")
            raise
        self._set_problem("reload", None)
        self.metrics.reload_ok.set(1)
        await asyncio.gather(
            *(
                self._stop_connection(runtime, self.config.server.shutdown_timeout)
                for runtime in old.values()
            )
        )
        await self._recover()
        fixed = {"store", "server"} & {
            name
            for name in ("store", "server")
            if getattr(config, name) != getattr(self.config, name)
        }
        self.config, self._builder = config, builder
        self._use_runtimes(built)
        for runtime in self.runtimes.values():
            for dispatcher in runtime.dispatchers:
                dispatcher.probe_now()
            self._start_connection(runtime)
        await self._start_notifier()
        log.configure(format=config.log.format, level=config.log.level)
        self._log.info(
            "configuration taken", connections=len(self.runtimes), needs_restart=sorted(fixed)
        )
        return {"reloaded": True, "needs_restart": sorted(fixed)}


def notification_poster(config: Config, clock: Clock) -> notify.Post:
    """How a target of `[[notify]]` is reached."""
    return partial(http.post, clock=clock, allow_http=frozenset(config.security.allow_http))


def _uses_sqlite(config: Config) -> bool:
    return config.store.url.startswith("sqlite")


def freeze_heap() -> None:
    """What start-up made stays for good: keep the collector from walking through it for ever
    (a sixth of the CPU of a drain, bench/README.md)."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
