"""What an event costs with a long history, and with many connections: the work of `live` on a store
that is filled beforehand, spread over all connections.

History: records that were delivered and the people they are about, as they are a day later. Memory
is the peak of the daemon.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import uvloop

from bench import growth, live
from bench.processes import CpuMark, free_port, pinned, running
from connector.domain.records import State
from connector.runtime.clock import SystemClock
from connector.store.sql import open_store

ROWS, CONNECTIONS = (10_000, 100_000), (1, 10, 100)
WARM_UP = 10.0
"""Seconds: a hundred connections look their Klaviyo accounts up in the first four."""
_DAY = 86_400_000
_HISTORY_PER_PERSON = 10


@dataclass(frozen=True, slots=True)
class Run:
    """`cpu`: seconds an event. `memory`: MiB."""

    rows: int
    connections: int
    cpu: float
    memory: float
    p99: float
    lost: int


def measure(rate: float, seconds: float, *, rows: Sequence[int] = ROWS) -> list[Run]:
    """History grows with one connection, and connections with the shortest history."""
    shapes = [(count, 1) for count in rows]
    shapes += [(rows[0], count) for count in CONNECTIONS[1:]]
    return [_run(count, connections, rate, seconds) for count, connections in shapes]


def _run(rows: int, connections: int, rate: float, seconds: float) -> Run:
    with tempfile.TemporaryDirectory(prefix="bench-size-") as name:
        folder, port, remote = Path(name), free_port(), free_port()
        names = [f"c{number}" for number in range(connections)]
        config = folder / "connector.toml"
        config.write_text(live.config_text(folder, port=port, remote=remote, connections=names))
        asyncio.run(_fill(folder, names, rows))
        made = live.webhooks(round(rate * (seconds + WARM_UP)) + 1)
        spread = [
            (
                id,
                message.replace(
                    b"/webhooks/bench", f"/webhooks/{names[n % connections]}".encode(), 1
                ),
            )
            for n, (id, message) in enumerate(made)
        ]
        command = ["-m", "bench.live", str(config)]
        with (
            running(["-m", "bench.remote", str(remote)], folder=folder, port=remote, core=1),
            running(command, folder=folder, port=port, core=0, patience=120.0) as process,
            pinned(1),
        ):
            mark = CpuMark(process.pid)
            found = uvloop.run(
                live.drive([port], remote, spread, rate, seconds, mark, warm_up=WARM_UP)
            )
            status = Path(f"/proc/{process.pid}/status").read_text()
            memory = int(status.partition("VmHWM:")[2].split()[0]) / 1024
    return Run(rows, connections, found.cpu, memory, found.p99, found.lost + found.refused)


async def _fill(folder: Path, names: Sequence[str], rows: int) -> None:
    path = folder / "connector.db"
    store = await open_store(f"sqlite:///{path}")
    lanes = [await store.lanes.ensure(name, "klaviyo", "event") for name in names]
    await store.aclose()
    first, at = lanes[0].id, SystemClock().now() - _DAY
    assert [lane.id for lane in lanes] == list(range(first, first + len(lanes)))
    with contextlib.closing(sqlite3.connect(path)) as db:
        with db:
            db.execute(growth.people_sql(rows // _HISTORY_PER_PERSON, len(names)))
            lane = f"{first} + i % {len(names)}"
            db.execute(growth.records_sql(rows, lane, State.ACCEPTED, at))
        db.execute("ANALYZE")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def text(runs: Sequence[Run]) -> str:
    """A table."""
    lines = [
        f"{'rows':>10}{'connections':>13}{'µs an event':>13}{'MiB':>7}{'p99 ms':>8}{'late':>6}"
    ]
    lines += [
        f"{run.rows:>10,}{run.connections:>13}{run.cpu * 1e6:>13,.0f}{run.memory:>7.0f}"
        f"{run.p99 * 1000:>8,.0f}{run.lost:>6}"
        for run in runs
    ]
    return "\n".join(lines)
