"""The composition root: what starts in which order, and stops in which.

Start: store, lease, recovery of what another holder had claimed, connections, servers, lanes,
periodic work. No remote API is waited for, and where replicas share a database no lease either:
any of them takes webhooks, and delivers for the accounts whose lease it gets. Stop: /readyz turns
503 and nothing is claimed any more; the lanes settle what is in flight while the servers still
answer; then the servers stop, then everything else in the reverse order of its start.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

from connector import __version__
from connector.app.accounts import AccountLookups
from connector.app.connections import Connections
from connector.app.following import Following
from connector.app.hints import HintReceiver, HintSender
from connector.app.listeners import Listeners, applications
from connector.app.maintenance import Maintenance
from connector.app.notifications import NotificationWorkers, patience
from connector.app.oauth import oauth_service
from connector.app.problems import ProcessProblems
from connector.app.reencrypt import reencrypt
from connector.app.reload import Reloader
from connector.app.takeover import Takeover
from connector.config import Config
from connector.domain.errors import StoreError
from connector.domain.lanes import Millis
from connector.net import transport
from connector.pipeline.intake import Intake
from connector.pipeline.lease import STORE_RESOURCE, ProcessLeases
from connector.pipeline.store_outage import until_available
from connector.ports import Clock, CommandScope
from connector.ports.workers import Loop, WorkerName
from connector.runtime import log, scheduler
from connector.runtime.changes import TOPICS, ChangeFeed
from connector.runtime.clock import SharedClock, SystemClock
from connector.runtime.encryption import Cipher
from connector.runtime.late_import import import_in_thread
from connector.runtime.metrics import Metrics
from connector.runtime.scheduler import Scheduler
from connector.runtime.supervisor import Periodic, SupervisedWorker
from connector.service import Commands, ConnectionRuntime
from connector.service.changes import StoreChanges
from connector.service.oauth import OAuthService
from connector.service.process import Process, has_ended, read_report
from connector.service.replicas import merge
from connector.service.settings import SettingsService
from connector.store.sql import SqlStore, open_store
from connector.web.health import Health

_CANCEL_TIMEOUT = 1.0
_HEARTBEAT_EVERY = 5.0
_RELOAD_PATIENCE = 15.0
"""Seconds for which a browser that has connected an account waits until it is in use."""
_RELEASE_EVERY = 5.0
"""Seconds after which what became known of people, or was decided elsewhere, releases actions."""
_WAKE_EVERY, _WAKE_SHARED_EVERY = 30.0, 1.0
"""Seconds after which lanes with something ready are woken. Other replicas store webhooks as well,
and on SQLite a process that has lost the lease does; neither can wake them."""


class App:
    """The daemon. `reread` reads the files again; settings made at run time are added here."""

    def __init__(
        self,
        config: Config,
        *,
        clock: Clock | None = None,
        reread: Callable[[], Config] | None = None,
    ) -> None:
        self.config = config
        self.clock = SharedClock(clock or SystemClock())
        self.metrics = Metrics(__version__)
        self.changes = ChangeFeed(self.clock)
        self.metrics.on_change = self.changes.publish
        self.listeners = Listeners(self._current_config, self.clock)
        self.store: SqlStore
        self.leases: ProcessLeases
        self.connections: Connections
        self.commands: Commands
        self.oauth: OAuthService
        self.settings: SettingsService
        self.intake: Intake
        self.health: Health
        self.maintenance: Maintenance
        self._reread = reread
        self._process: Process
        self._notifications: NotificationWorkers
        self._reloader: Reloader
        self._takeover: Takeover
        self._following: Following
        self._hints: HintSender
        self._shared = not _uses_sqlite(config)
        self._problems = ProcessProblems()
        self._scheduler = Scheduler()
        self._workers: list[SupervisedWorker] = []
        self._stack = AsyncExitStack()
        self._started = False
        self._stop_at: float | None = None
        self._log = log.get("app")

    # ── start and stop ───────────────────────────────────────────────────────────────────────────

    async def start(self, *, lease_timeout: float | None = None, serve: bool = True) -> None:
        """Raises ConfigError for what a person must fix, StoreError when another process holds a
        lease longer than `lease_timeout` seconds or the schema does not fit. Without
        `lease_timeout` it waits 30 s where the store is a file, and for no lease where replicas
        share a database. After an error, or when cancelled, `stop` gives back what was taken."""
        timeout = 30.0 if lease_timeout is None else lease_timeout
        if serve and self._shared:
            await self.listeners.listen()
            timeout = float("inf") if lease_timeout is None else lease_timeout
        self.store = await self._open_store()
        self._stack.push_async_callback(self.store.aclose)
        if self.store.maintenance.size_bytes() is None:
            self.metrics.drop_disk_gauges()
        if serve:
            self.listeners.check_limits()
        await until_available(self._set_clock, self.clock, timeout=timeout)
        self.leases = ProcessLeases(self.store, self.clock)
        self._stack.push_async_callback(self.leases.aclose)
        self._compose()
        if not self._shared:
            await self._takeover.take_all(timeout)
        await until_available(self._merge_settings, self.clock, timeout=timeout)
        await until_available(self._reencrypt, self.clock, timeout=timeout)
        await until_available(self._build_connections, self.clock, timeout=timeout)
        self._stack.push_async_callback(self._stop_connections)
        self._stack.push_async_callback(self.commands.stop)
        # Where replicas share a database, whoever takes a lease does so.
        await until_available(self.connections.link, self.clock, timeout=timeout)
        await until_available(self._resume_reports, self.clock, timeout=timeout)
        await until_available(self._heartbeat, self.clock, timeout=timeout)
        if self._shared:
            await self._take_shared(lease_timeout)
        if serve:
            await self._serve()
        # Webhooks are taken from here on, so a stop keeps the port open for the drain delay.
        self._started = self.health.ready = True
        await import_in_thread([*transport.LIBRARY, *scheduler.LIBRARY])
        self.connections.start()
        self._start_workers()
        await self._notifications.restart()
        self._log.info(
            "daemon_ready", version=__version__, connections=len(self.connections.runtimes)
        )

    async def _take_shared(self, timeout: float | None) -> None:
        """Take the leases that no other replica has; with a `timeout` all of them."""
        if timeout is None:
            await until_available(self._takeover.take_free, self.clock)
        else:
            await self._takeover.take_all(timeout)

    async def _set_clock(self) -> None:
        """Where replicas share a database, its clock counts. Raises StoreError."""
        asked_at = self.clock.monotonic()
        if (now := await self.store.leases.database_time()) is not None:
            self.clock.set(now, asked_at=asked_at)

    async def _merge_settings(self) -> None:
        self.config = await self._following.effective(self.config)
        self._following.note_used()

    def _compose(self) -> None:
        """The objects that live as long as the process."""
        self.intake = Intake(
            self.store.outbox, self.store.action_intake, self.store.maintenance.fault
        )
        self._hints = HintSender(self.store.hints, self.clock)
        self.connections = Connections(
            self.store,
            self.leases,
            self.clock,
            self.metrics,
            self._problems,
            self.intake,
            self._shared,
            self._hints.note,
        )
        self._stack.push_async_callback(self.connections.aclose)
        self._takeover = Takeover(
            self.store,
            self.leases,
            self.connections,
            self.clock,
            self.metrics,
            shared=self._shared,
            on_taken=self._note_taken,
        )
        self.oauth = oauth_service(
            self.store, self.clock, lambda: self.config, self._account_connected
        )
        self.settings = SettingsService(
            self.store,
            self.clock,
            config=lambda: self.config,
            read=self._read_files,
            apply=partial(self.reload, requested=False),
        )
        self._process = Process(
            clock=self.clock,
            version=__version__,
            public_url=self.config.server.public_url,
            patience=patience(self.config),
            runtimes=self.connections.runtimes,
            running=self.connections.running,
            problems=self._problems.items,
            workers=self._all_workers,
            quota=self.connections.quota,
            activity=self.metrics.activity,
            holder=self.leases.holder,
            resources=self.connections.resources,
        )
        self.commands = Commands(
            self.store,
            self.clock,
            process=self._process,
            reload=self.reload,
            oauth=self.oauth,
            settings=self.settings,
            on_executed=partial(self.changes.publish, *TOPICS),
            changing=self.connections.changing,
            until_confirmed=self.connections.until_confirmed,
            on_resumed=self.connections.unconfirmed.set,
            scope=self._command_scope,
        )
        self._following = Following(
            self.store,
            self.connections,
            holder=self.leases.holder,
            reload=lambda args: self.commands.execute("reload", args, by="replica"),
        )
        self.maintenance = Maintenance(
            self.store,
            self.intake,
            self.connections,
            self._problems,
            self.commands,
            self._process,
            self.clock,
            self.metrics,
        )
        self.health = Health(
            self.clock,
            self.metrics,
            self.commands,
            self.maintenance.refresh_metrics,
            intake_closed=self._intake_closed,
        )
        self._notifications = NotificationWorkers(
            self._current_config,
            self.store,
            self.leases.of(STORE_RESOURCE),
            self.commands,
            self.clock,
            self.metrics,
        )
        self._reloader = Reloader(
            self._read_config if self._reread else None,
            self._current_config,
            self.connections,
            self._problems,
            self.metrics,
            recover=self._takeover.recover,
            on_reloaded=self._on_reloaded,
        )

    async def stop(self) -> None:
        """Finish what is in flight within [server] shutdown_timeout, then close everything. Also
        after a start that failed or was cancelled: whatever was taken is given back.

        Webhooks are taken until the lanes have settled what was in flight, and for at least
        [server] drain_delay."""
        server = self.config.server
        self._stop_at = self.clock.monotonic() + server.shutdown_timeout
        # Before the lanes, because a reload or a takeover must not start any again.
        await self._stop_workers(but="heartbeat")
        if self._started:
            self._started = False
            self._process.resources = frozenset
            with contextlib.suppress(StoreError):
                await self.commands.save_report()
            await self.commands.stop()
            delay = min(server.drain_delay, server.shutdown_timeout)
            await asyncio.gather(self._hand_everything_over(), self.clock.sleep(delay))
            with contextlib.suppress(StoreError):
                await self.maintenance.save_throughput()
        self._scheduler.stop()
        await self._stop_workers()
        self.changes.close()
        grace = max(0.0, self._stop_at - self.clock.monotonic())
        await self.listeners.stop(grace)
        await self._stack.aclose()
        self._log.info("daemon_stopped")

    def _intake_closed(self) -> bool:
        """Whether /readyz is 503: from the beginning of a stop, and while nothing can be stored."""
        stopping = self._stop_at is not None
        return stopping or self.intake.refusal() is not None or "store" in self._problems

    async def _hand_everything_over(self) -> None:
        """Other replicas need not wait until this process has ended, nor for an account that is
        slow to stop. On SQLite the lease is kept: it also says that a process runs."""
        if not self._shared:
            await self._stop_connections()
            return
        resources = self.connections.resources()
        stops = {asyncio.create_task(self._stop_connections(name)): name for name in resources}
        waiting = set(stops)
        while waiting:
            stopped, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            # Together, because a notification costs every commit of the database a lock.
            await self.leases.give_back([self.leases.of(stops[stop]) for stop in stopped])
        await self.leases.aclose()
        await asyncio.gather(*stops)

    async def _stop_connections(self, resource: str | None = None) -> None:
        """What is cut off at the end of `shutdown_timeout` is ambiguous, and sent again."""
        stop_at = self._stop_at or self.clock.monotonic()
        await self.connections.stop(max(0.0, stop_at - self.clock.monotonic()), resource)

    @property
    def runtimes(self) -> Mapping[str, ConnectionRuntime]:
        """The connections of this process by name."""
        return self.connections.runtimes

    @property
    def port(self) -> int:
        """The port that platforms call."""
        return self.listeners.port

    async def until_idle(self) -> list[str]:
        """See Connections.until_idle."""
        return await self.connections.until_idle()

    async def reload(self, *, requested: bool = True) -> Mapping[str, Any]:
        """See Reloader.reload."""
        return await self._reloader.reload(requested=requested)

    async def _serve(self) -> None:
        public, admin = applications(
            self._current_config,
            self.clock,
            self.metrics,
            self.health,
            self.connections,
            self.commands,
            self.oauth,
            self.changes,
            self.store,
        )
        await self.listeners.serve(public, admin)

    def _current_config(self) -> Config:
        return self.config

    def _read_files(self) -> Config:
        return self._reread() if self._reread else self.config

    async def _read_config(self) -> Config:
        return await self._following.effective(self._read_files())

    async def _account_connected(self, connection: str, other: bool) -> None:
        """Use the new tokens, in whichever process works for the connection. `other`: a person
        confirmed that it belongs to another Klaviyo account from now on."""
        args = {"connection": connection, "other_account": other}
        await self.commands.submit_and_wait("reload", args, by="connect", patience=_RELOAD_PATIENCE)

    async def _retain(self) -> None:
        """Of several replicas one applies retention."""
        if self.leases.of(STORE_RESOURCE).valid():
            await self.apply_retention()

    async def apply_retention(self) -> None:
        await self.maintenance.apply_retention(self.config.retention)

    # ── store and lease ──────────────────────────────────────────────────────────────────────────

    async def _open_store(self) -> SqlStore:
        """Waits for a database that is unavailable: the daemon does not end because of it."""
        store = self.config.store
        return await until_available(
            lambda: open_store(
                store.url,
                migrate=store.migrate,
                listen_url=store.listen_url,
            ),
            self.clock,
            timeout=float("inf") if self._shared else 0.0,
            every=5.0,
        )

    async def _resume_reports(self) -> None:
        """Continue the counts of processes that have ended. On SQLite no other one runs."""
        reports, now = self.store.process_reports, self.clock.now()
        known = await reports.since(Millis(0))
        ended = [s.holder for s in known if not self._shared or has_ended(s, now)]
        if taken := await reports.take(ended):
            newest_first = sorted(taken, key=lambda state: -state.saved_at)
            before = {state.holder: read_report(state.document) for state in newest_first}
            self._process.resume(merge(before, {}))

    async def _build_connections(self) -> None:
        self.connections.adopt(await self.connections.build(self.config))

    # ── workers of the process ───────────────────────────────────────────────────────────────────

    def _start_workers(self) -> None:
        jobs = self._scheduler
        submitted = jobs.every(0.5, self.commands.submitted)
        self._supervise("commands", Periodic(submitted, self._execute_commands))
        compare = StoreChanges(self.store, self.changes).compare
        self._supervise("changes", Periodic(jobs.every(0.5), compare))
        self._supervise("heartbeat", Periodic(jobs.every(_HEARTBEAT_EVERY), self._heartbeat))
        self._supervise("retention", Periodic(jobs.nightly(), self._retain))
        every = _WAKE_SHARED_EVERY if self._shared else _WAKE_EVERY
        due, wake_due = jobs.every(every), partial(self.connections.wake_due, every)
        self._supervise("lane", Periodic(due, wake_due))
        release = Periodic(jobs.every(_RELEASE_EVERY), self.connections.wake_releasable)
        self._supervise("held_actions", release)
        if self._shared:
            receiver = HintReceiver(
                self.store.hints, partial(self._note_hint, due), self._takeover.wakeup.set
            )
            self._supervise("hints", self._hints)
            self._supervise("hints", receiver)
            self._supervise("replicas", Periodic(jobs.every(1.0), self._following.follow_replicas))
        self._supervise("lease", self._takeover)
        lookups = AccountLookups(
            self.connections, self._problems, self.clock, restart=self._reloader.restart
        )
        self._supervise("accounts", lookups)
        jobs.start()

    def _supervise(self, name: WorkerName, loop: Loop) -> None:
        worker = SupervisedWorker(
            name, loop, subject="daemon", clock=self.clock, metrics=self.metrics
        )
        self._workers.append(worker)
        worker.start()

    async def _stop_workers(self, *, but: WorkerName | None = None) -> None:
        stopped = [worker for worker in self._all_workers() if worker.name != but]
        await asyncio.gather(*(worker.stop(_CANCEL_TIMEOUT) for worker in stopped))

    def _all_workers(self) -> Sequence[SupervisedWorker]:
        # Where none was started, a stop came before the store was open.
        return (*self._workers, *self._notifications.workers) if self._workers else ()

    async def _execute_commands(self) -> None:
        """Commands belong to whoever holds the lease of their connection."""
        if any(lease.valid() for lease in self.leases.held()):
            await self.commands.execute_pending()

    def _command_scope(self) -> CommandScope:
        valid = [lease.resource for lease in self.leases.held() if lease.valid()]
        return self.connections.command_scope(valid)

    def _note_hint(self, due: asyncio.Event, connection: str) -> None:
        runtime = self.runtimes.get(connection)
        if runtime and runtime.lease.valid():
            due.set()

    async def _heartbeat(self) -> None:
        await self._set_clock()
        await self.maintenance.heartbeat(self.health, self.config.store)

    async def _note_taken(self, resource: str) -> None:
        """Apply settings that another process changed while it held the store."""
        if resource == STORE_RESOURCE and self._started:
            await self._following.follow_settings()

    async def _reencrypt(self) -> None:
        cipher = Cipher(self.config.security.encryption_key)
        await reencrypt(self.store, cipher, self.clock)

    async def _on_reloaded(self, config: Config) -> None:
        self.config = config
        self._following.note_used()
        self._process.patience = patience(config)
        await self._reencrypt()
        await self._notifications.restart()
        log.configure(format=config.log.format, level=config.log.level)


def _uses_sqlite(config: Config) -> bool:
    return config.store.url.startswith("sqlite")
