"""A backlog sent to a far end that takes everything: events per second, CPU seconds per event.

Ours is the daemon as it is composed (connector.app.daemon: store with ledger and timeline, lease,
dispatcher, the shipped mapping, event sink, metrics) without a port of its own, and with Klaviyo's
limits raised out of the way. Theirs is `bench.floor` drain. Each side runs in a process of its own
that reports its own CPU time, on a copy of a file that was filled beforehand with the same events.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
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

from bench import floor as least
from bench.intake import config_text
from bench.load import event_bodies
from bench.processes import environment, free_port, running

_TIMEOUT = 180.0
Bodies = Sequence[tuple[str, bytes]]


@dataclass(frozen=True, slots=True)
class Run:
    """One repeat of one side; `cpu` in seconds per event."""

    rate: float
    cpu: float
    events: int


class Bench:
    """Two filled files, and a far end."""

    def __init__(self, events: int, folder: Path) -> None:
        self.events = events
        self.folder = folder
        bodies = list(event_bodies(events))
        least.fill(folder / "floor.db", bodies)
        asyncio.run(fill(folder / "connector.db", bodies))

    def ours(self) -> Run:
        return self._run("connector.db", "-m", "bench.drain")

    def floor(self) -> Run:
        return self._run("floor.db", "-m", "bench.floor", "drain")

    def _run(self, file: str, *command: str) -> Run:
        with tempfile.TemporaryDirectory(prefix="bench-drain-", dir=self.folder) as name:
            folder, port = Path(name), free_port()
            shutil.copy(self.folder / file, folder / file)
            with running(["-m", "bench.target", str(port)], folder=folder, port=port):
                said = subprocess.run(
                    [
                        sys.executable,
                        *command,
                        str(folder / file),
                        f"http://127.0.0.1:{port}",
                    ],
                    check=True,
                    stdout=subprocess.PIPE,
                    env=environment(folder),
                ).stdout
        result = json.loads(said.splitlines()[-1])
        events = int(result["events"])
        return Run(events / result["seconds"], result["cpu"] / events, events)


async def fill(path: Path, bodies: Iterable[tuple[str, bytes]]) -> None:
    """An outbox with these events, taken in as webhooks are."""
    from connector.domain.records import Page
    from connector.platforms.jericommerce.settings import Settings
    from connector.platforms.jericommerce.webhook import EVENT_TYPE, JeriCommerceWebhook
    from connector.runtime.clock import SystemClock
    from connector.store.sql import open_store

    settings = Settings.model_validate({"program": "demo", "api_key": "x", "webhook_secret": "x"})
    webhook = JeriCommerceWebhook(settings)
    store = await open_store(f"sqlite:///{path}")
    lane = await store.lanes.ensure("bench", "klaviyo", "event")
    now = SystemClock().now()
    left = iter(bodies)
    while part := list(itertools.islice(left, 1000)):
        records = [r for name, body in part for r in webhook.parse({EVENT_TYPE: name}, body)]
        await store.append([Page(lane, "webhook", records, now)])
    await store.aclose()
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")


async def drain(path: Path, url: str) -> dict[str, float]:
    """Run the daemon's parts on this file until nothing is left. Limits are off."""
    from connector.app.daemon import App, freeze_heap, read_config
    from connector.klaviyo import limits
    from connector.net.rate_limit import Limit
    from connector.runtime import log

    for endpoint in limits.LIMITS:
        limits.LIMITS[endpoint] = Limit(1_000_000, 1_000_000)
    config = path.parent / "connector.toml"
    port = int(url.rpartition(":")[2])
    config.write_text(config_text(path.parent, 0, port))
    log.configure(level="error")
    app = App(read_config(config))
    with contextlib.closing(sqlite3.connect(path)) as db:
        waiting = int(db.execute("SELECT count(*) FROM outbox WHERE state = 0").fetchone()[0])
    await app.start(serve=False)
    freeze_heap()  # as `connector run` does
    began, used = time.monotonic(), _cpu()
    (runtime,) = app.runtimes.values()
    lane = runtime.events.lane
    labels = (lane.connection, lane.destination, lane.kind, "accepted")
    accepted = app.metrics.deliveries.labels(*labels)
    while accepted._value.get() < waiting:
        if time.monotonic() - began > _TIMEOUT:
            raise TimeoutError(f"{accepted._value.get()} of {waiting} sent: see stderr")
        await asyncio.sleep(0.02)
    seconds, cpu = time.monotonic() - began, _cpu() - used
    await app.stop()
    return {"events": waiting, "seconds": seconds, "cpu": cpu}


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    from connector.cli import session

    print(json.dumps(session.run(drain(Path(sys.argv[1]), sys.argv[2]))))
