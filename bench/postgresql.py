"""A backlog drained from PostgreSQL, against the same backlog drained from an SQLite file; and the
disk and the log (WAL) that PostgreSQL writes for it.

Both are `bench.drain` in turn, with its target server and without Klaviyo's limits. PostgreSQL is
on this machine, with its own defaults (`fsync` and `synchronous_commit` on), and shares the cores.
"""

from __future__ import annotations

import asyncio
import re
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
    """A run of each side; `server`: PostgreSQL's own CPU seconds an event, `log`: bytes of its log
    an event, and the bytes of the database an event `before` and `after`."""

    file: drain.Run
    database: drain.Run
    server: float
    log: float
    before: float
    after: float


@dataclass(frozen=True, slots=True)
class Result:
    """`stored`: bytes of the log that storing an event wrote."""

    stored: float
    turns: Sequence[Turn]


class _ServerMark(SecondsMark):
    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._before = 0.0

    def begin(self) -> None:
        self._before = process_tree_seconds(self._pid)

    def end(self) -> None:
        self.seconds = process_tree_seconds(self._pid) - self._before


def measure(events: int, repeats: int, folder: Path) -> Result:
    files = drain.Bench(events, folder)
    with postgresql(folder) as (server, pid):

        def ask(query: str) -> float:
            [number] = re.findall(r"^\s*(\d+)\s*$", server.psql(query), re.M)
            return float(number)

        def log_bytes() -> float:
            return ask("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint;")

        def size(database: str) -> float:
            return ask(f"SELECT pg_database_size('{database}');")

        server.psql("CREATE DATABASE filled;")
        begun = log_bytes()
        asyncio.run(drain.fill_store(server.get_uri("filled"), event_bodies(events)))
        stored = (log_bytes() - begun) / events
        turns = []
        for number in range(repeats):
            file, mark = files.ours(), _ServerMark(pid)
            server.psql(
                f"CREATE DATABASE turn{number} TEMPLATE filled; VACUUM ANALYZE; CHECKPOINT;"
            )
            begun, before = log_bytes(), size(f"turn{number}")
            with tempfile.TemporaryDirectory(prefix="bench-drain-", dir=folder) as name:
                command = ["-m", "bench.drain", server.get_uri(f"turn{number}")]
                mark.begin()
                database = drain.run(Path(name), free_port(), command)
                mark.end()
            log, after = (log_bytes() - begun) / events, size(f"turn{number}") / events
            cpu = mark.seconds / database.events
            turns.append(Turn(file, database, cpu, log, before / events, after))
    return Result(stored, turns)


def text(result: Result) -> str:
    """Medians."""
    turns = result.turns
    rate = statistics.median(turn.database.rate for turn in turns)
    file_rate = statistics.median(turn.file.rate for turn in turns)
    cpu = statistics.median(turn.database.cpu for turn in turns)
    file_cpu = statistics.median(turn.file.cpu for turn in turns)
    server = statistics.median(turn.server for turn in turns)
    return (
        f"PostgreSQL {rate:,.0f} events/s, SQLite {file_rate:,.0f}/s: {rate / file_rate:.0%}\n"
        f"CPU of an event {cpu * 1e6:.0f} µs and {server * 1e6:.0f} µs of the server, "
        f"SQLite {file_cpu * 1e6:.0f} µs\n"
        f"Log of an event {result.stored:,.0f} bytes to store it and "
        f"{statistics.median(turn.log for turn in turns):,.0f} to deliver it; on disk "
        f"{statistics.median(turn.before for turn in turns):,.0f} bytes before and "
        f"{statistics.median(turn.after for turn in turns):,.0f} after"
    )
