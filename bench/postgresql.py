"""A backlog drained from PostgreSQL, against the same backlog drained from an SQLite file.

Both are `bench.drain` in turn, with its target server and without Klaviyo's limits. PostgreSQL is
on this machine, with its own defaults (`fsync` and `synchronous_commit` on), and shares the cores.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import drain
from bench.load import event_bodies
from bench.processes import SecondsMark, free_port, postgresql, process_tree_seconds


@dataclass(frozen=True, slots=True)
class Turn:
    """A run of each side; `server`: PostgreSQL's own CPU seconds an event."""

    file: drain.Run
    database: drain.Run
    server: float


class _ServerMark(SecondsMark):
    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._before = 0.0

    def begin(self) -> None:
        self._before = process_tree_seconds(self._pid)

    def end(self) -> None:
        self.seconds = process_tree_seconds(self._pid) - self._before


def measure(events: int, repeats: int, folder: Path) -> list[Turn]:
    files = drain.Bench(events, folder)
    with postgresql(folder) as (server, pid):
        server.psql("CREATE DATABASE filled;")
        asyncio.run(drain.fill_store(server.get_uri("filled"), event_bodies(events)))
        turns = []
        for number in range(repeats):
            file, mark = files.ours(), _ServerMark(pid)
            server.psql(f"CREATE DATABASE turn{number} TEMPLATE filled; VACUUM ANALYZE;")
            with tempfile.TemporaryDirectory(prefix="bench-drain-", dir=folder) as name:
                command = ["-m", "bench.drain", server.get_uri(f"turn{number}")]
                mark.begin()
                database = drain.run(Path(name), free_port(), command)
                mark.end()
            turns.append(Turn(file, database, mark.seconds / database.events))
    return turns


def text(turns: Sequence[Turn]) -> str:
    """Medians."""
    rate = statistics.median(turn.database.rate for turn in turns)
    file_rate = statistics.median(turn.file.rate for turn in turns)
    cpu = statistics.median(turn.database.cpu for turn in turns)
    file_cpu = statistics.median(turn.file.cpu for turn in turns)
    server = statistics.median(turn.server for turn in turns)
    return (
        f"PostgreSQL {rate:,.0f} events/s, SQLite {file_rate:,.0f}/s: {rate / file_rate:.0%}\n"
        f"CPU of an event {cpu * 1e6:.0f} µs and {server * 1e6:.0f} µs of the server, "
        f"SQLite {file_cpu * 1e6:.0f} µs"
    )
