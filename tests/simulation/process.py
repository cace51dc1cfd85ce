"""A daemon that runs under the simulated loop: the real App on the simulated store and network."""

from __future__ import annotations

import asyncio
import itertools
import random
import secrets
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from connector.app import connections, daemon, takeover
from connector.app.daemon import App
from connector.app.wiring import faults
from connector.config import Config
from connector.domain import unsets
from connector.domain.errors import ConnectorError
from connector.domain.lanes import Millis
from connector.klaviyo.sink.profiles import ProfileSink
from connector.pipeline import breaker, lease
from connector.runtime import log
from connector.runtime.clock import SystemClock
from connector.store.sql import SqlStore, store_on

from .database import FaultyDatabase
from .loop import OWNER, Owner, SimulatedLoop
from .network import Network

START_MS = 1_790_000_000_000
UNSET_FLOOR = 4
"""People who may lose a field without approval: few are here."""
PROFILES_PER_JOB = 4
"""So that a backfill of few people takes several import jobs."""
_EVERY = 5.0
"""Seconds between two scheduled passes at least: each costs time of the machine."""
_SLOWER = 2.0
"""How many times as long as in production it is until the next scheduled pass, or the next look at
the leases."""


class VirtualClock(SystemClock):
    """connector.ports.Clock on the loop's time."""

    def __init__(self, loop: SimulatedLoop) -> None:
        self._loop = loop

    def now(self) -> Millis:
        return Millis(START_MS + round(self._loop.time() * 1000))

    def monotonic(self) -> float:
        return self._loop.time()


class VirtualScheduler:
    """In place of connector.runtime.scheduler.Scheduler, which uses the machine's clock."""

    def __init__(self) -> None:
        self._events: list[tuple[asyncio.Event, float]] = []
        self._tasks: list[asyncio.Task[None]] = []

    def every(self, seconds: float, event: asyncio.Event | None = None) -> asyncio.Event:
        event = event or asyncio.Event()
        self._events.append((event, max(_SLOWER * seconds, _EVERY)))
        return event

    def nightly(self, hour: int = 3) -> asyncio.Event:
        return self.every(86_400.0)

    def start(self) -> None:
        self._tasks = [asyncio.create_task(_tick(*entry)) for entry in self._events]

    def stop(self) -> None:
        for task in self._tasks:
            task.cancel()


async def _tick(event: asyncio.Event, seconds: float) -> None:
    while True:
        await asyncio.sleep(seconds)
        event.set()


class Process(Owner):
    """One run of the daemon, from its start to its end or its kill."""

    def __init__(
        self,
        name: str,
        loop: SimulatedLoop,
        database: FaultyDatabase,
        config: Callable[[], Config],
    ) -> None:
        super().__init__()
        self.name = name
        self.database = database
        self.app = App(config(), clock=VirtualClock(loop), reread=config)
        self.ended: str | None = None
        """How it ended by itself: "stopped", or the error that ended it, which none should."""
        self.frozen_for = 0.0
        """Seconds."""
        self._frozen_at = 0.0
        self._stopped_at: float | None = None
        self._loop = loop
        self._stop = asyncio.Event()
        self._starting: asyncio.Task[None] | None = None
        loop.spawn(self, self._run())

    @property
    def alive(self) -> bool:
        return self.ended is None and self.condition != "dead"

    @property
    def crashed(self) -> bool:
        return self.ended not in (None, "stopped")

    @property
    def ready(self) -> bool:
        return self.condition == "running" and self.ended is None and self._health_ready()

    def _health_ready(self) -> bool:
        health = getattr(self.app, "health", None)
        return health is not None and bool(health.ready)

    @property
    def has_started(self) -> bool:
        return self._health_ready()

    @property
    def serves(self) -> bool:
        """Whether calls from outside reach an endpoint."""
        return self.ready and not self.stopping

    async def _run(self) -> None:
        try:
            self._starting = asyncio.create_task(self.app.start(serve=False))
            with suppress(asyncio.CancelledError):
                await self._starting
            await self._stop.wait()
            await self.app.stop()
        except ConnectorError as error:
            self.ended = str(error)
            await self.app.stop()
        except Exception as error:
            self.ended = repr(error)
        else:
            self.ended = "stopped"

    def stop(self) -> None:
        """As SIGTERM."""
        self._stopped_at = self._stopped_at or self._loop.time()
        self._loop.spawn(self, self._end())

    async def _end(self) -> None:
        self._stop.set()
        if self._starting:
            self._starting.cancel()

    def kill(self) -> None:
        """As SIGKILL: nothing of it runs any more, and nothing is settled."""
        self.condition = "dead"
        self._send_nothing_more()

    def freeze(self) -> None:
        """As SIGSTOP."""
        self.condition, self._frozen_at = "frozen", self._loop.time()
        self._send_nothing_more()

    def _send_nothing_more(self) -> None:
        """What it has sent is on its way, and none of it is sent again from below."""
        for given_up in self.requests:
            given_up.set()

    def thaw(self) -> None:
        """As SIGCONT."""
        self.frozen_for += self._loop.time() - self._frozen_at
        self._loop.thaw(self)

    @property
    def stopping(self) -> bool:
        return self._stopped_at is not None

    def stopping_since(self, time: float) -> bool:
        """Whether it was stopped before this time, and has not been frozen."""
        return self._stopped_at is not None and self._stopped_at < time and not self.frozen_for

    @property
    def stop_lasts(self) -> float:
        """Seconds since it was stopped, until it has ended, less those in which it was frozen."""
        if self._stopped_at is None or not self.alive or self.condition == "frozen":
            return 0.0
        return self._loop.time() - self._stopped_at - self.frozen_for

    def call(self, work: Callable[[], Awaitable[Any]]) -> asyncio.Task[Any]:
        """Run `work` inside the process."""
        return self._loop.spawn(self, _as_coroutine(work))


async def _as_coroutine(work: Callable[[], Awaitable[Any]]) -> Any:
    return await work()


@contextmanager
def simulated_machine(network: Network, *, seed: int) -> Iterator[None]:
    """The daemon's ways to a database, to the network and to timers lead into the simulation.
    `seed` is that of the backoff's jitter and of tokens."""
    random.seed(seed)

    async def open_store(url: str, **_: Any) -> SqlStore:
        owner = OWNER.get()
        assert isinstance(owner, Process)
        return store_on(owner.database, "sqlite://")

    numbers = itertools.count(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(secrets, "randbits", random.getrandbits)
        patch.setattr(secrets, "token_hex", lambda size: random.randbytes(size).hex())
        # Which replica is preferred for an account follows from their names.
        patch.setattr(lease, "holder_name", lambda: f"machine/{next(numbers)}/-/0")
        patch.setattr(daemon, "open_store", open_store)
        patch.setattr(daemon, "Scheduler", VirtualScheduler)
        patch.setattr(takeover, "_PASS_SECONDS", _SLOWER * takeover._PASS_SECONDS)
        patch.setattr(log, "configure", lambda **settings: None)
        patch.setattr(connections, "Transport", lambda pool: network.transport())
        # Few people are refused here, and they must not stop the others either.
        patch.setattr(breaker, "DEAD_RATE_WINDOW", 8)
        patch.setattr(unsets, "FLOOR", UNSET_FLOOR)
        patch.setattr(ProfileSink, "bulk", replace(_BULK, size=PROFILES_PER_JOB))
        # A pure function of files that do not change.
        patch.setattr(faults, "load_mapping", _load_mapping)
        yield


_BULK = ProfileSink.bulk
assert _BULK
_load_unchanged = cache(faults.load_mapping)


def _load_mapping(path: Path, changes: Any) -> Any:
    assert not changes
    return _load_unchanged(path)
