"""What an event costs with several replicas on one PostgreSQL: the work of `live`, spread over
eight Klaviyo accounts and over all replicas.

All of them run on the cores of one machine, so CPU seconds are compared and not rates. PostgreSQL
comes from a package, in a folder of its own, as durable as its defaults are.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import uvloop

from bench import live
from bench.processes import (
    CpuMark,
    SecondsMark,
    free_port,
    postgresql,
    process_tree_seconds,
    running,
)

ACCOUNTS = 8
REPLICAS = (1, 2, 4)
_SPREAD_SECONDS = 15.0
"""Until every account has its preferred replica."""


@dataclass(frozen=True, slots=True)
class Run:
    """`cpu`, `database`: seconds an event, of all replicas and of PostgreSQL. `p50`, `p95`: seconds
    from the send of the webhook to the event's acceptance at Klaviyo."""

    replicas: int
    cpu: float
    database: float
    p50: float
    p95: float
    late: int


class _Marks(SecondsMark):
    """Several processes and a database server as one."""

    def __init__(self, pids: Sequence[int], server: int) -> None:
        self._marks = [CpuMark(pid) for pid in pids]
        self._server = server
        self._before = 0.0
        self.database = 0.0

    def begin(self) -> None:
        for mark in self._marks:
            mark.begin()
        self._before = process_tree_seconds(self._server)

    def end(self) -> None:
        for mark in self._marks:
            mark.end()
        self.seconds = sum(mark.seconds for mark in self._marks)
        self.database = process_tree_seconds(self._server) - self._before


def measure(rate: float, seconds: float) -> list[Run]:
    return [_run(replicas, rate, seconds) for replicas in REPLICAS]


def _run(replicas: int, rate: float, seconds: float) -> Run:
    names = [f"c{number}" for number in range(ACCOUNTS)]
    made = [
        (id, message.replace(b"/webhooks/bench", f"/webhooks/{names[n % ACCOUNTS]}".encode(), 1))
        for n, (id, message) in enumerate(live.webhooks(round(rate * (seconds + live.WARM_UP)) + 1))
    ]
    with tempfile.TemporaryDirectory(prefix="bench-replicas-") as name, ExitStack() as stack:
        folder, remote = Path(name), free_port()
        server, server_pid = stack.enter_context(postgresql(folder))
        url = server.get_uri()
        stack.enter_context(
            running(["-m", "bench.remote", str(remote)], folder=folder, port=remote)
        )
        ports, pids = [], []
        for number in range(replicas):
            port, config = free_port(), folder / f"{number}.toml"
            text = live.config_text(folder, port=port, remote=remote, connections=names, store=url)
            config.write_text(text)
            command = ["-m", "bench.live", str(config)]
            process = stack.enter_context(running(command, folder=folder, port=port, patience=60.0))
            ports.append(port)
            pids.append(process.pid)
        time.sleep(_SPREAD_SECONDS)
        marks = _Marks(pids, server_pid)
        found = uvloop.run(live.drive(ports, remote, made, rate, seconds, marks))
    count = max(1.0, rate * seconds)
    return Run(
        replicas,
        marks.seconds / count,
        marks.database / count,
        found.p50,
        found.p95,
        found.lost + found.refused,
    )


def text(runs: Sequence[Run]) -> str:
    """A table."""
    lines = [
        f"{'replicas':>8}{'µs an event':>13}{'× one':>7}{'database µs':>13}{'p50 ms':>8}"
        f"{'p95 ms':>8}{'late':>6}"
    ]
    lines += [
        f"{run.replicas:>8}{run.cpu * 1e6:>13,.0f}{run.cpu / runs[0].cpu:>7.2f}"
        f"{run.database * 1e6:>13,.0f}{run.p50 * 1000:>8,.0f}{run.p95 * 1000:>8,.0f}{run.late:>6}"
        for run in runs
    ]
    return "\n".join(lines)
