"""The composition root: what starts in which order, and stops in which.

Start: store, lease, recovery of what another holder had claimed, connections, lanes, servers,
periodic work. Stop: servers first (nothing new comes in), then lanes (what is in flight is
settled), then everything else in the reverse order of its start.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from connector import __version__
from connector.app.admin import access_of, flow_target, seal_of, trusted_proxies
from connector.app.connections import Connections
from connector.app.maintenance import Maintenance
from connector.app.oauth import oauth_service
from connector.app.problems import ProcessProblems
from connector.app.reencrypt import reencrypt
from connector.app.reload import Reloader
from connector.config import Config
from connector.config import load as load_config
from connector.domain.errors import Problem, StoreError
from connector.net import http
from connector.pipeline.intake import Intake
from connector.pipeline.lane_queues import all_queues
from connector.pipeline.lease import STORE_RESOURCE, LeaseRenewer, holder_name
from connector.platforms.registry import SettingsModels
from connector.ports import Clock
from connector.ports.workers import Loop, WorkerName
from connector.runtime import log
from connector.runtime.changes import TOPICS, ChangeFeed
from connector.runtime.clock import SystemClock
from connector.runtime.encryption import Cipher, Seal
from connector.runtime.metrics import Metrics
from connector.runtime.scheduler import Scheduler
from connector.runtime.supervisor import Periodic, SupervisedWorker
from connector.service import Commands, ConnectionRuntime, notify
from connector.service.changes import StoreChanges
from connector.service.oauth import OAuthService
from connector.service.process import DEFAULT_PATIENCE, Process, read_report
from connector.store.sql import SqlStore, open_store
from connector.web.access import Access
from connector.web.flows import FlowApp
from connector.web.health import Health
from connector.web.oauth import OAuthApp
from connector.web.protocol import Limits
from connector.web.server import Server, application
from connector.web.webhooks import WebhookApp

if TYPE_CHECKING:
    from starlette.types import ASGIApp

_CANCEL_TIMEOUT = 1.0


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
        self.changes = ChangeFeed(self.clock)
        self.metrics.on_change = self.changes.publish
        self.servers: list[Server] = []
        self.store: SqlStore
        self.connections: Connections
        self.commands: Commands
        self.oauth: OAuthService
        self.intake: Intake
        self.health: Health
        self.maintenance: Maintenance
        self._reread = reread
        self._process: Process
        self._reloader: Reloader
        self._lease: LeaseRenewer
        self._problems = ProcessProblems()
        self._scheduler = Scheduler()
        self._workers: list[SupervisedWorker] = []
        self._notify_workers: list[SupervisedWorker] = []
        self._stack = AsyncExitStack()
        self._stop_at: float | None = None
        self._log = log.get("app")

    # ── start and stop ───────────────────────────────────────────────────────────────────────────

    async def start(self, *, lease_timeout: float | None = None, serve: bool = True) -> None:
        """Raises ConfigError for what a person must fix, StoreError when another process holds the
        store longer than `lease_timeout` seconds or its schema does not fit. Without
        `lease_timeout` it waits 30 s where the store is a file, and without limit where replicas
        share a database. After an error, or when cancelled, `stop` gives back what was taken."""
        if lease_timeout is None:
            lease_timeout = 30.0 if _uses_sqlite(self.config) else float("inf")
        if serve and not _uses_sqlite(self.config):
            await self._listen_early()
        self.store = await self._open_store()
        self._stack.push_async_callback(self.store.aclose)
        if self.store.maintenance.size_bytes() is None:
            self.metrics.drop_disk_gauges()
        lease_lost = asyncio.Event()
        self._lease = LeaseRenewer(self.store, self.clock, holder_name())
        self._stack.push_async_callback(self._lease.release)
        await self._lease.acquire(lease_timeout)
        self._compose()
        await self._take_over(lease_lost)
        if before := await self.store.process_reports.load(STORE_RESOURCE):
            self._process.resume(read_report(before[0]))
        await self._reencrypt()
        self.connections.adopt(await self.connections.build(self.config))
        self._stack.push_async_callback(self._stop_connections)
        self._stack.push_async_callback(self.commands.stop)
        await self._heartbeat()
        if serve:
            await self._serve()
        self.connections.start()
        self._start_workers(lease_lost)
        await self._start_notifier()
        self.health.ready = True
        self._log.info(
            "daemon_ready", version=__version__, connections=len(self.connections.runtimes)
        )

    def _compose(self) -> None:
        """The objects that live as long as the process."""
        self.intake = Intake(
            self.store.outbox, self.store.action_intake, self.store.maintenance.fault
        )
        self.connections = Connections(
            self.store, self._lease, self.clock, self.metrics, self._problems, self.intake
        )
        self.oauth = oauth_service(
            self.store, self.clock, lambda: self.config, self._account_changed
        )
        self._process = Process(
            clock=self.clock,
            version=__version__,
            public_url=self.config.server.public_url,
            patience=_patience(self.config),
            runtimes=self.connections.runtimes,
            problems=self._problems.items,
            workers=self._all_workers,
            quota=self.connections.quota,
            activity=self.metrics.activity,
        )
        self.commands = Commands(
            self.store,
            self.clock,
            process=self._process,
            reload=self.reload,
            on_executed=partial(self.changes.publish, *TOPICS),
            oauth=self.oauth,
        )
        self.maintenance = Maintenance(
            self.store,
            self.intake,
            self.connections,
            self._problems,
            self.commands,
            self._process,
            self._lease,
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
        self._reloader = Reloader(
            self._reread,
            self.connections,
            self._problems,
            self.clock,
            self.metrics,
            recover=self._recover,
            on_reloaded=self._on_reloaded,
        )

    async def stop(self) -> None:
        """Finish what is in flight within [server] shutdown_timeout, then close everything. Also
        after a start that failed or was cancelled: whatever was taken is given back."""
        self._stop_at = self.clock.monotonic() + self.config.server.shutdown_timeout
        self._scheduler.stop()
        self.changes.close()
        await asyncio.gather(*(server.stop() for server in self.servers))
        await self._stack.aclose()
        self._log.info("daemon_stopped")

    def _intake_closed(self) -> bool:
        """Whether /readyz is 503: from the beginning of a stop, and while nothing can be stored."""
        stopping = self._stop_at is not None
        return stopping or self.intake.refusal() is not None or "store" in self._problems

    async def _stop_connections(self) -> None:
        """Servers and lanes share one `shutdown_timeout`."""
        stop_at = self._stop_at or self.clock.monotonic()
        await self.connections.stop(max(0.0, stop_at - self.clock.monotonic()))

    @property
    def runtimes(self) -> Mapping[str, ConnectionRuntime]:
        """The connections of this process by name."""
        return self.connections.runtimes

    @property
    def port(self) -> int:
        """The port that platforms call."""
        return self.servers[0].port

    async def until_idle(self) -> list[str]:
        """See Connections.until_idle."""
        return await self.connections.until_idle()

    async def reload(self) -> Mapping[str, Any]:
        """Apply an edited configuration. A faulty one changes nothing and raises ConfigError."""
        return await self._reloader.reload(self.config)

    async def _account_changed(self, connection: str, other: bool) -> None:
        """Use the new tokens. `other`: a person confirmed that the connection belongs to another
        Klaviyo account from now on."""
        await self.commands.execute("reload", {})
        if other:
            await self.commands.execute("resume", {"connection": connection})

    async def apply_retention(self) -> None:
        await self.maintenance.apply_retention(self.config.retention)

    # ── store and lease ──────────────────────────────────────────────────────────────────────────

    async def _open_store(self) -> SqlStore:
        """Waits for a database that is unavailable: the daemon does not end because of it."""
        logged = False
        while True:
            try:
                return await open_store(self.config.store.url, migrate=self.config.store.migrate)
            except StoreError as error:
                if error.problem is not Problem.STORE_UNAVAILABLE or _uses_sqlite(self.config):
                    raise
                if not logged:
                    self._log.error(
                        "store_unavailable", problem=error.problem.value, detail=error.detail
                    )
                logged = True
                await self.clock.sleep(5.0)

    async def _take_over(self, lease_lost: asyncio.Event) -> None:
        await self._recover()
        await self.store.commands.requeue()
        lease_lost.clear()
        self._lease.start_renewing(lease_lost.set)
        self.metrics.lease.labels("store").set(1)

    async def _recover(self) -> None:
        """While no delivery is in flight: whatever is claimed was cut off."""
        try:
            now, fence = self.clock.now(), self._lease.fence
            recovered = sum([await q.recover(fence, now=now) for q in all_queues(self.store)])
        except StoreError as error:
            if error.problem is not Problem.STORE_HELD or not self.connections.runtimes:
                raise
            return  # whoever took the lease recovers
        if recovered:
            self._log.warning("claims_recovered", records=recovered)

    # ── servers ──────────────────────────────────────────────────────────────────────────────────

    async def _listen_early(self) -> None:
        """Open the ports before there is an application, so that probes get an answer while a
        database or a lease is waited for."""
        server = self.config.server
        for key, port in (("server.port", server.port), ("server.admin_port", server.admin_port)):
            if port or key == "server.port":
                listener = self._server(None, port, key)
                await listener.start()
                self.servers.append(listener)

    async def _serve(self) -> None:
        server = self.config.server
        runtimes, broken = self.connections.runtimes, self.connections.broken
        webhooks = WebhookApp(runtimes.get, self.clock, self.metrics, broken=broken)
        flows = FlowApp(
            runtimes.get,
            self.clock,
            self.metrics,
            broken=broken,
            trusted_proxies=trusted_proxies(self.config),
        )
        shared = server.admin_port == 0
        seal = seal_of(self.config, self.clock)
        access = access_of(lambda: self.config, self.clock, seal)
        api = self._api(access, seal)
        oauth = OAuthApp(self.oauth, access)
        public = application(self.health, (webhooks, flows, oauth), admin=shared, api=api)
        listeners = [self._server(public, server.port, "server.port")]
        if not shared:
            admin = application(self.health, admin=True, api=api)
            listeners.append(self._server(admin, server.admin_port, "server.admin_port"))
        early = {listener.key: listener for listener in self.servers}
        for listener in listeners:
            if listener.key in early:
                early[listener.key].app = listener.app
            else:
                await listener.start()
                self.servers.append(listener)

    def _api(self, access: Access, seal: Seal) -> ASGIApp:
        # FastAPI is a third of the time that the imports of a start take.
        from connector.web.api.app import api
        from connector.web.api.context import ApiServices

        target = partial(flow_target, lambda: self.config)
        return api(ApiServices(self.commands, access, self.changes, seal, target))

    def _server(self, app: ASGIApp | None, port: int, key: str) -> Server:
        server = self.config.server
        limits = Limits(
            server.max_header, server.header_timeout, server.body_timeout, server.max_connections
        )
        grace = server.shutdown_timeout
        return Server(app, server.host, port, grace=grace, key=key, limits=limits)

    # ── workers of the process ───────────────────────────────────────────────────────────────────

    def _start_workers(self, lease_lost: asyncio.Event) -> None:
        scheduler = self._scheduler
        self._supervise("commands", Periodic(scheduler.every(0.5), self._execute_commands))
        compare = StoreChanges(self.store, self.changes).compare
        self._supervise("changes", Periodic(scheduler.every(0.5), compare))
        self._supervise("heartbeat", Periodic(scheduler.every(5.0), self._heartbeat))
        self._supervise("retention", Periodic(scheduler.nightly(), self.apply_retention))
        reacquire = partial(self._reacquire_lease, lease_lost)
        self._supervise("lease", Periodic(lease_lost, reacquire))
        self._stack.push_async_callback(self._stop_workers)
        scheduler.start()

    def _supervise(self, name: WorkerName, loop: Loop) -> None:
        worker = SupervisedWorker(
            name, loop, subject="daemon", clock=self.clock, metrics=self.metrics
        )
        self._workers.append(worker)
        worker.start()

    async def _stop_workers(self) -> None:
        await asyncio.gather(*(worker.stop(_CANCEL_TIMEOUT) for worker in self._all_workers()))

    def _all_workers(self) -> Sequence[SupervisedWorker]:
        return (*self._workers, *self._notify_workers)

    async def _execute_commands(self) -> None:
        """Commands belong to whoever holds the store."""
        if self._lease.valid():
            await self.commands.execute_pending()

    async def _heartbeat(self) -> None:
        await self.maintenance.heartbeat(self.health, self.config.store)

    async def _reacquire_lease(self, lease_lost: asyncio.Event) -> None:
        """Another process took the lease: wait until it is free and take over again."""
        self.metrics.lease.labels("store").set(0)
        await self._lease.acquire(float("inf"))
        await self._take_over(lease_lost)

    async def _start_notifier(self) -> None:
        """Notify the targets of `[[notify]]` as configured now."""
        await asyncio.gather(*(worker.stop(_CANCEL_TIMEOUT) for worker in self._notify_workers))
        self._notify_workers.clear()
        targets = notify.targets(self.config.notify)
        if not targets:
            return
        notifier = notify.Notifier(
            targets,
            self.commands.attention,
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

    async def _reencrypt(self) -> None:
        cipher = Cipher(self.config.security.encryption_key)
        await reencrypt(self.store, cipher, self.clock)

    async def _on_reloaded(self, config: Config) -> None:
        self.config = config
        self._process.patience = _patience(config)
        await self._reencrypt()
        await self._start_notifier()
        log.configure(format=config.log.format, level=config.log.level)


def notification_poster(config: Config, clock: Clock) -> notify.Post:
    """How a target of `[[notify]]` is reached."""
    return partial(http.post, clock=clock, allow_http=frozenset(config.security.allow_http))


def _patience(config: Config) -> float:
    """Of `/healthz` and the status: the shortest of all targets."""
    active = [target.patience for target in notify.targets(config.notify)]
    return min(active, default=DEFAULT_PATIENCE)


def _uses_sqlite(config: Config) -> bool:
    return config.store.url.startswith("sqlite")


def freeze_heap() -> None:
    """What start-up created stays for good: keep the collector from scanning it again and again
    (a sixth of the CPU of a drain, bench/README.md)."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
