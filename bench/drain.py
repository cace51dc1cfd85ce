"""A backlog sent to a server that accepts everything: events per second, CPU seconds per event.

Ours is the daemon as composed by connector.app.daemon (store with ledger and timeline, lease,
dispatcher, the shipped mapping, event sink, metrics) without a port and without Klaviyo's limits.
The floor is `bench.floor` drain. Each side runs in a separate process that reports its CPU time, on
a copy of a file that was filled beforehand with the same events.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import floor as floor_app
from bench.intake import config_text
from bench.load import event_bodies
from bench.processes import environment, free_port, running
from connector.domain.lanes import Lane
from connector.runtime.metrics import Metrics

_TIMEOUT = 180.0
Bodies = Sequence[tuple[str, bytes]]


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one side. `cpu`: seconds per event."""

    rate: float
    cpu: float
    events: int


class Bench:
    """A filled file per side, and a target server."""

    def __init__(self, events: int, folder: Path) -> None:
        self.events = events
        self.folder = folder
        bodies = list(event_bodies(events))
        floor_app.fill(folder / "floor.db", bodies)
        asyncio.run(fill(folder / "connector.db", bodies))

    def ours(self) -> Run:
        return self._run("connector.db", "-m", "bench.drain")

    def floor(self) -> Run:
        return self._run("floor.db", "-m", "bench.floor", "drain")

    def _run(self, file: str, *command: str) -> Run:
        with tempfile.TemporaryDirectory(prefix="bench-drain-", dir=self.folder) as name:
            folder, port = Path(name), free_port()
            shutil.copy(self.folder / file, folder / file)
            return run(folder, port, [*command, str(folder / file)])


def run(folder: Path, port: int, command: Sequence[str]) -> Run:
    """Run a side against a target server on this port."""
    url = f"http://127.0.0.1:{port}"
    with running(["-m", "bench.target", str(port)], folder=folder, port=port):
        output = subprocess.run(
            [sys.executable, *command, url],
            check=True,
            stdout=subprocess.PIPE,
            env=environment(folder),
        ).stdout
    result = json.loads(output.splitlines()[-1])
    events = int(result["events"])
    return Run(events / result["seconds"], result["cpu"] / events, events)


async def fill(path: Path, bodies: Iterable[tuple[str, bytes]]) -> None:
    """Fill the outbox of a file with these events, as webhooks do."""
    await fill_store(f"sqlite:///{path}", bodies)
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")


async def fill_store(
    url: str, bodies: Iterable[tuple[str, bytes]], *, connection: str = "bench"
) -> None:
    """Fill an outbox with these events, as webhooks do."""
    from connector.domain.records import Page
    from connector.platforms.jericommerce.settings import Settings
    from connector.platforms.jericommerce.webhook import EVENT_TYPE, JeriCommerceWebhook
    from connector.runtime.clock import SystemClock
    from connector.store.sql import open_store

    settings = Settings.model_validate({"program": "demo", "api_key": "x", "webhook_secret": "x"})
    webhook = JeriCommerceWebhook(settings)
    store = await open_store(url)
    lane = await store.lanes.ensure(connection, "klaviyo", "event")
    now = SystemClock().now()
    remaining = iter(bodies)
    while batch := list(itertools.islice(remaining, 1000)):
        records = [r for name, body in batch for r in webhook.parse({EVENT_TYPE: name}, body)]
        await store.outbox.append([Page(lane, "webhook", records, now)])
    await store.aclose()


async def drain(store: str, url: str) -> dict[str, float]:
    """Run the daemon on this file, or database, until nothing is left, without rate limits."""
    from connector.app.collector import freeze_heap
    from connector.app.configuration import read_config
    from connector.app.daemon import App
    from connector.klaviyo import limits
    from connector.net.rate_limit import Limit
    from connector.runtime import log

    for endpoint in limits.LIMITS:
        limits.LIMITS[endpoint] = Limit(1_000_000, 1_000_000)
    folder = Path(os.environ["TMPDIR"])
    config = folder / "connector.toml"
    port = int(url.rpartition(":")[2])
    address = store if "://" in store else f"sqlite:///{store}"
    config.write_text(config_text(folder, 0, port, store=address))
    log.configure(level="error")
    app = App(read_config(config))
    waiting = await _waiting(address)
    await app.start(serve=False)
    freeze_heap()  # as `connector run` does
    started_at, used = time.monotonic(), _cpu()
    (runtime,) = app.runtimes.values()
    lane = runtime.events.lane
    while (sent := accepted(app.metrics, lane)) < waiting:
        if time.monotonic() - started_at > _TIMEOUT:
            raise TimeoutError(f"{sent} of {waiting} sent: see stderr")
        await asyncio.sleep(0.02)
    seconds, cpu = time.monotonic() - started_at, _cpu() - used
    await app.stop()
    return {"events": waiting, "seconds": seconds, "cpu": cpu}


async def _waiting(address: str) -> int:
    from connector.store.sql import open_store

    store = await open_store(address)
    waiting = sum(backlog.ready for backlog in await store.reports.backlog())
    await store.aclose()
    return waiting


def accepted(metrics: Metrics, lane: Lane) -> int:
    """The number of records that a lane has delivered, from its metric."""
    labels = (lane.connection, lane.destination, lane.kind, "accepted")
    [found] = metrics.deliveries.labels(*labels).collect()
    return round(next(s.value for s in found.samples if s.name.endswith("_total")))


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    from connector.cli import session

    print(json.dumps(session.run(drain(sys.argv[1], sys.argv[2]))))
