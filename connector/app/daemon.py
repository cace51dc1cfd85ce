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
from connector.app.wiring import Laid, Workshop
from connector.config import Config
from connector.config import load as load_config
from connector.domain.errors import ConfigError, Problem, StoreError
from connector.domain.lanes import (
    LaneId,
    Millis,
)
from connector.domain.records import (
    State,
)
from connector.net import http
from connector.pipeline.intake import Intake
from connector.pipeline.lease import LeaseKeeper, holder_name
from connector.platforms.registry import SettingsModels
from connector.ports import Clock
from connector.runtime import log
from connector.runtime.clock import SystemClock
from connector.runtime.metrics import Metrics
from connector.runtime.scheduler import Bells
from connector.service import Line, Operator, notify
from connector.store.sql import SqlStore, open_store
from connector.web.flows import Flows
from connector.web.health import Health
from connector.web.server import Server, application
from connector.web.webhooks import Hooks

_DAY_MS = 86_400_000
_IDLE_AHEAD = 60.0
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
        self.lines: dict[str, Line] = {}
        self.broken: dict[str, str] = {}
        self.store: SqlStore
        self.operator: Operator
        self.intake: Intake
        self.health: Health
        self._reread = reread
        self._workshop: Workshop
        self._lease: LeaseKeeper
        self._servers: list[Server] = []
        self._count_people_at = 0.0
        self._bells = Bells()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._trouble: dict[str, str] = {}
        self._lost = asyncio.Event()
        self._log = log.get("app")

    # ── start and stop ───────────────────────────────────────────────────────────────────────────

    async def start(self, *, patience: float | None = None, serve: bool = True) -> None:
        """Raises ConfigError for what a person must mend, StoreError when another holds the store
        longer than `patience` seconds or its schema does not fit. By itself it waits 30 s where
        the store is a file, and for ever where replicas share a database."""
        if patience is None:
            patience = 30.0 if _is_file(self.config) else float("inf")
        if serve and not _is_file(self.config):
            await self._listen()
        self.store = await self._open_store()
        if self.store.size_bytes() is None:
            self.metrics.without_disk()
        self.operator = Operator(
            self.store,
            self.clock,
            lines=self.lines,
            reload=self.reload,
            trouble=lambda: list(self._trouble.values()),
        )
        self.intake = Intake(self.store, self.clock, self.metrics, arrived=self._arrived)
        self.health = Health(
            self.clock,
            self.metrics,
            self.operator,
            self._scrape,
            shut=lambda: self.intake.closed is not None or "store" in self._trouble,
        )
        self.store.profiles.reconfirm_after = round(self.config.delivery.reconfirm_after * 1000)
        self._lease = LeaseKeeper(self.store, self.clock, holder_name())
        await self._lease.acquire(patience)
        await self._take_over()
        self._workshop = Workshop(self.config, self.store, self._lease, self.clock, self.metrics)
        self._take(await self._workshop.lay(self.config.connections))
        await self._pulse()
        if serve:
            await self._serve()
        for line in self.lines.values():
            self._run_line(line)
        self._ring()
        self._watch_needs()
        self.health.ready = True
        self._log.info("ready", version=__version__, connections=len(self.lines))

    async def abandon(self) -> None:
        """Give back what a start that was cut off had taken."""
        await asyncio.gather(*(server.stop() for server in self._servers))
        if hasattr(self, "_lease"):
            await self._lease.release()
        if hasattr(self, "store"):
            await self.store.aclose()

    async def stop(self) -> None:
        """Everything in flight is finished, within [server] shutdown_timeout."""
        if not hasattr(self, "health"):
            return await self.abandon()
        until = self.clock.monotonic() + self.config.server.shutdown_timeout
        self.health.ready = False
        self._bells.stop()
        await self.operator.stop()
        await asyncio.gather(*(server.stop() for server in self._servers))
        left = max(0.0, until - self.clock.monotonic())
        await asyncio.gather(*(self._stop_line(line, left) for line in self.lines.values()))
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
        while not all([await self._idle(line) for line in self.lines.values()]):
            await self.clock.sleep(0.1)
        stopped = [
            f"{line.name} {d.lane.kind}s → {d.lane.destination}: {d.state.mode}, {d.state.detail}"
            for line in self.lines.values()
            for d in line.dispatchers
            if d.state.mode != "running"
        ]
        needs = [need for line in self.lines.values() for ask in line.needs for need in await ask()]
        stopped += [line for key, line in self._trouble.items() if key.startswith("broken ")]
        return stopped + [need.text for need in needs if need.key.startswith("poll ")]

    async def _idle(self, line: Line) -> bool:
        """In the order of the road, so that what one lane hands to the next is seen there."""
        if not line.enabled:
            return True
        quiet = all([await d.quiet(_IDLE_AHEAD) for d in line.dispatchers])
        done = all([await idle() for idle in line.idle])
        return quiet and done and all(d.idle for d in line.dispatchers)

    # ── pieces of the start ──────────────────────────────────────────────────────────────────────

    async def _open_store(self) -> SqlStore:
        """Wait for a database that is away: the daemon does not end because of it."""
        told = False
        while True:
            try:
                return await open_store(self.config.store.url, migrate=self.config.store.migrate)
            except StoreError as error:
                if error.problem is not Problem.STORE_UNAVAILABLE or _is_file(self.config):
                    raise
                if not told:
                    self._log.error(
                        "waiting for the store", problem=error.problem.value, detail=error.detail
                    )
                told = True
                await self.clock.sleep(5.0)

    async def _take_over(self) -> None:
        await self._recover()
        await self.store.orders.reopen()
        self._lost.clear()
        self._lease.keep(self._lost.set)
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
            if error.problem is not Problem.STORE_HELD or not self.lines:
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
                door = Server(None, server.host, port, grace=server.shutdown_timeout, key=key)
                await door.start()
                self._servers.append(door)

    async def _serve(self) -> None:
        server = self.config.server
        hooks = Hooks(self.lines.get, self.intake, self.clock, self.metrics, broken=self.broken)
        flows = Flows(
            self.lines.get,
            self.clock,
            self.metrics,
            closed=lambda: self.intake.closed,
            broken=self.broken,
        )
        shared, grace = server.admin_port == 0, server.shutdown_timeout
        public = application(hooks, self.health, admin=shared, flows=flows)
        doors = [Server(public, server.host, server.port, grace=grace, key="server.port")]
        if not shared:
            private = application(None, self.health, admin=True)
            doors.append(
                Server(
                    private, server.host, server.admin_port, grace=grace, key="server.admin_port"
                )
            )
        early = {door.key: door for door in self._servers}
        for door in doors:
            if door.key in early:
                early[door.key].app = door.app
            else:
                await door.start()
                self._servers.append(door)

    def _take(self, laid: Laid) -> None:
        """These lines from now on; what has none is a person's affair."""
        for name in self.broken:
            self._note(f"broken {name}", None)
        self.lines.clear()
        self.lines.update(laid.lines)
        self.broken.clear()
        self.broken.update(laid.broken)
        for name, fault in self.broken.items():
            self._note(f"broken {name}", f"{Problem.PLUGIN_BROKEN} {name}: {fault}")
            self._log.error("a connection stands still", connection=name, fault=fault)

    def _run_line(self, line: Line) -> None:
        if not line.enabled:
            return
        for number, dispatcher in enumerate(line.dispatchers):
            self._tasks[f"lane {line.name} {number}"] = asyncio.create_task(dispatcher.run())
        for number, loop in enumerate(line.loops):
            self._tasks[f"loop {line.name} {number}"] = asyncio.ensure_future(loop())

    async def _stop_line(self, line: Line, grace: float) -> None:
        for task in self._tasks_of(f"loop {line.name} "):
            task.cancel()
        await asyncio.gather(*(dispatcher.stop(grace) for dispatcher in line.dispatchers))
        tasks = self._tasks_of(f"lane {line.name} ")
        if tasks:
            # A turn that hangs in the store is cut off; what it claimed is recovered at a start.
            await asyncio.wait(tasks, timeout=1.0)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await line.aclose()

    def _watch_needs(self) -> None:
        """Tell the targets of `[[notify]]` as the configuration has them now."""
        for task in self._tasks_of("notify"):
            task.cancel()
        if targets := notify.targets(self.config.notify):
            notifier = notify.Notifier(
                targets,
                self._needed,
                self.store.notices,
                self._lease,
                self.clock,
                poster(self.config, self.clock),
                source=self.config.server.public_url,
            )
            self._tasks["notify"] = asyncio.create_task(notifier.run())

    async def _needed(self) -> dict[str, str]:
        return {need.key: need.text for need in await self.operator.needs()}

    def _tasks_of(self, prefix: str) -> list[asyncio.Task[None]]:
        return [self._tasks.pop(name) for name in list(self._tasks) if name.startswith(prefix)]

    def _arrived(self, lane: LaneId) -> None:
        for line in self.lines.values():
            if line.events.lane.id == lane:
                line.events.wake()
                if line.reads:
                    line.reads.wake()
                if line.writes and line.door and line.door.hears:
                    line.writes.wake()
                for dispatcher in line.more:
                    dispatcher.wake()

    # ── bells ────────────────────────────────────────────────────────────────────────────────────

    def _ring(self) -> None:
        self._loop("orders", self._bells.every(0.5), self._carry_out)
        self._loop("pulse", self._bells.every(5.0), self._pulse)
        self._loop("nightly", self._bells.nightly(), self.tidy)
        self._tasks["lease"] = asyncio.create_task(self._regain())
        self._bells.start()

    def _loop(self, name: str, bell: asyncio.Event, work: Callable[[], Awaitable[None]]) -> None:
        async def run() -> None:
            while True:
                await bell.wait()
                bell.clear()
                try:
                    await work()
                except StoreError as error:
                    self._log.warning(f"{name}: the store does not answer", detail=error.detail)
                except Exception:
                    # A bell must go on ringing, whatever one stroke came to.
                    self._log.exception(f"{name} failed")

        self._tasks[name] = asyncio.create_task(run())

    async def _carry_out(self) -> None:
        """Orders belong to whoever holds the store."""
        if self._lease.valid():
            await self.operator.carry_out_all()

    async def _pulse(self) -> None:
        """The loop moves, the writer moves, and there is disk to write to."""
        try:
            await self.store.memory.remember_spend(())
            self._note("store", None)
        except StoreError as error:
            # The loop moves and the store has answered, if only to say no.
            self._note("store", f"{error.problem}: {error.problem.meaning}")
            raise
        finally:
            self.health.beat()
        free = self.store.free_bytes()
        low = free is not None and free < self.config.store.min_free
        if low and self.intake.closed is None:
            self._log.error("intake is closed: free disk is low", problem=Problem.DISK_LOW.value)
        elif not low and self.intake.closed is not None:
            self._log.info("intake is open again")
        self.intake.closed = Problem.DISK_LOW if low else None
        self._note("disk", f"{Problem.DISK_LOW}: {Problem.DISK_LOW.meaning}" if low else None)

    async def tidy(self) -> None:
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
        gone = 0
        while count := await self.store.prune(now=self.clock.now(), keep=wanted, limit=2_000):
            gone += count
            await self.clock.sleep(0.05)
        before = Millis(self.clock.now() - round(keep.timeline * 1000))
        while await self.store.forget_timeline(before=before, limit=2_000):
            await self.clock.sleep(0.05)
        after: int | None = 0
        while after is not None:
            after = await self.store.empty_bodies(before=before, after=after, limit=5_000)
            await self.clock.sleep(0.01)
        before = Millis(self.clock.now() - round(keep.action_keys * 1000))
        while count := await self.store.actions.forget(before=before, limit=2_000):
            gone += count
            await self.clock.sleep(0.05)
        given = 0
        while pages := await self.store.give_back(500):
            given += pages
            await self.clock.sleep(0.05)
        self._log.info("retention", records_forgotten=gone, pages_given_back=given)

    async def _regain(self) -> None:
        """When another took the lease, wait until it is free and take over again."""
        while True:
            await self._lost.wait()
            self.metrics.lease.labels("store").set(0)
            try:
                await self._lease.acquire(float("inf"))
                await self._take_over()
            except StoreError as error:
                self._log.warning("lease: the store does not answer", detail=error.detail)
                await self.clock.sleep(1.0)

    async def _scrape(self) -> None:
        now = self.clock.now()
        self.metrics.backlog(await self.store.insight.backlog(), now)
        self.metrics.dead_letters(await self.store.insight.dead_by_cause())
        for connection, stream, _, saved_at in await self.store.insight.streams():
            self.metrics.checkpoint.labels(connection, stream).set(saved_at / 1000)
        self.metrics.questions(await self.store.approvals.find())
        self.metrics.unknown(await self.store.actions.uncertain(), list(self.lines))
        if self.clock.monotonic() >= self._count_people_at:
            # Everybody is looked at, so not at every scrape.
            self._count_people_at = self.clock.monotonic() + _COUNT_PEOPLE_EVERY
            self.metrics.population(await self.store.insight.population())
        self.metrics.groups(await self.store.memberships.groups())
        self._workshop.quotas.publish()
        for gauge, value in (
            (self.metrics.store_bytes, self.store.size_bytes()),
            (self.metrics.store_free, self.store.free_bytes()),
        ):
            if value is not None:
                gauge.set(value)

    def _note(self, key: str, line: str | None) -> None:
        if line:
            self._trouble[key] = line
        else:
            self._trouble.pop(key, None)

    # ── reload ───────────────────────────────────────────────────────────────────────────────────

    async def reload(self) -> Mapping[str, Any]:
        """Apply an edited configuration; a faulty one changes nothing and raises ConfigError."""
        if self._reread is None:
            return {"reloaded": False}
        try:
            config = self._reread()
            self._workshop.quotas.start_over()
            old, workshop = (
                self.lines.copy(),
                Workshop(
                    config,
                    self.store,
                    self._lease,
                    self.clock,
                    self.metrics,
                    self._workshop.quotas,
                ),
            )
            laid = await workshop.lay(config.connections)
        except ConfigError as error:
            self.metrics.reload_ok.set(0)
            self._note("reload", f"{Problem.RELOAD_REFUSED}: {error.faults[0]}")
            raise
        self._note("reload", None)
        self.metrics.reload_ok.set(1)
        await asyncio.gather(
            *(self._stop_line(line, self.config.server.shutdown_timeout) for line in old.values())
        )
        await self._recover()
        fixed = {"store", "server"} & {
            name
            for name in ("store", "server")
            if getattr(config, name) != getattr(self.config, name)
        }
        self.config, self._workshop = config, workshop
        self._take(laid)
        for line in self.lines.values():
            for dispatcher in line.dispatchers:
                dispatcher.probe_now()
            self._run_line(line)
        self._watch_needs()
        log.configure(format=config.log.format, level=config.log.level)
        self._log.info(
            "configuration taken", connections=len(self.lines), needs_restart=sorted(fixed)
        )
        return {"reloaded": True, "needs_restart": sorted(fixed)}


def poster(config: Config, clock: Clock) -> notify.Post:
    """How a target of `[[notify]]` is reached."""
    return partial(http.post, clock=clock, allow_http=frozenset(config.security.allow_http))


def _is_file(config: Config) -> bool:
    return config.store.url.startswith("sqlite")


def settle_heap() -> None:
    """What start-up made stays for good: keep the collector from walking through it for ever
    (a sixth of the CPU of a drain, bench/README.md)."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
