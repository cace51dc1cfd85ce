"""A campaign: a flow requests points for 50,000 people at once. Measures how fast the calls are
accepted, how they drain at the platform's real limit, the estimate in `connector status`, memory.

The daemon is `connector run` on an SQLite file; the platform is JeriCommerce's adapter with a
server that accepts everything (`target.py`), each in a separate process. First the real limit
(`rate_per_second` 5) for some minutes, then the rest with a limit a hundred times higher.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from bench.intake import config_text
from bench.load import drive
from bench.processes import environment, free_port, running

PEOPLE = 50_000
RATE = 5
RAISED = 100
_CONNECTIONS = 64
_TIMEOUT = 1_800.0
_SECRET = "flow-secret"
_ACTIONS = f"""
[connections.actions]
secret = "{_SECRET}"
"""


@dataclass(frozen=True, slots=True)
class Run:
    """`acknowledged` calls in `seconds`, and `refused` calls; then `sent` in `limited` seconds at
    the real limit, where status estimated `eta` seconds; then `drained` in `drain_seconds`, of
    which `wrong` were not applied exactly once. Memory in MB."""

    acknowledged: int
    refused: int
    seconds: float
    p99: float
    sent: int
    limited: float
    eta: float
    waiting: int
    drained: int
    drain_seconds: float
    wrong: int
    memory_idle: float
    memory_peak: float


def calls(count: int) -> list[bytes]:
    """`count` flow calls as HTTP messages, each for another person."""
    messages = []
    for number in range(count):
        body = orjson.dumps(
            [{"email": f"person{number}@example.com", "amount": 100, "reason": "Spring"}]
        )
        head = (
            "POST /flows/bench/balance/increase HTTP/1.1\r\nhost: 127.0.0.1\r\n"
            f"content-type: application/json\r\napi-key: {_SECRET}\r\n"
            f"x-klaviyo-flow-id: SPRING\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        messages.append(head.encode() + body)
    return messages


def measure(minutes: float, folder: Path, people: int = PEOPLE) -> Run:
    requests = calls(people)
    server_port = free_port()
    with running(["-m", "bench.target", str(server_port)], folder=folder, port=server_port):
        with _daemon(folder, server_port, RATE) as (process, port):
            idle = _memory(process, "VmRSS")
            tally = drive(port, requests, connections=_CONNECTIONS, warm_up=0.0, seconds=_TIMEOUT)
            before, started_at = _settled(folder), time.monotonic()
            time.sleep(minutes * 60)
            sent, limited = _settled(folder) - before, time.monotonic() - started_at
            status = _status(folder)
            peak = _memory(process, "VmHWM")
        with _daemon(folder, server_port, RATE * RAISED) as (process, _):
            left, started_at = people - _settled(folder), time.monotonic()
            while _settled(folder) < people and time.monotonic() - started_at < _TIMEOUT:
                time.sleep(0.5)
            drained = time.monotonic() - started_at
            peak = max(peak, _memory(process, "VmHWM"))
    return Run(
        acknowledged=tally.accepted_in_all,
        refused=tally.refused,
        seconds=tally.seconds,
        p99=tally.p99,
        sent=sent,
        limited=limited,
        eta=status["eta_seconds"],
        waiting=round(status["waiting"]),
        drained=left,
        drain_seconds=drained,
        wrong=people - _settled(folder),
        memory_idle=idle,
        memory_peak=peak,
    )


@contextlib.contextmanager
def _daemon(
    folder: Path, server_port: int, rate: int
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """`connector run` with the target server as platform and Klaviyo."""
    port = free_port()
    config = folder / "connector.toml"
    settings = f'base_url = "http://127.0.0.1:{server_port}"\nrate_per_second = {rate}'
    text = config_text(folder, port, server_port).replace(
        'program = "demo"', f'program = "demo"\n{settings}'
    )
    config.write_text(text.replace('["events"]', '["actions"]') + _ACTIONS)
    command = ["-m", "connector.cli", "--config", str(config), "run"]
    with running(command, folder=folder, port=port) as process:
        yield process, port


def _settled(folder: Path) -> int:
    with contextlib.closing(sqlite3.connect(folder / "connector.db")) as db:
        return int(db.execute("SELECT count(*) FROM actions WHERE state = 2").fetchone()[0])


def _status(folder: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "connector.cli", "--config", str(folder / "connector.toml")]
    output = subprocess.run(
        [*command, "status", "--json"],
        check=True,
        stdout=subprocess.PIPE,
        env=environment(folder),
    ).stdout
    found: dict[str, float] = json.loads(output)["connections"]["bench"]["actions"]
    return found


def _memory(process: subprocess.Popen[bytes], field: str) -> float:
    """MB of a process, from a field of /proc (Linux; else 0)."""
    path = Path(f"/proc/{process.pid}/status")
    lines = path.read_text().splitlines() if path.exists() else []
    found = [line.split()[1] for line in lines if line.startswith(f"{field}:")]
    return int(found[0]) / 1024 if found else 0.0


def text(runs: Sequence[Run]) -> str:
    lines = []
    for run in runs:
        rate = run.sent / run.limited
        lines += [
            f"accepted: {run.acknowledged:,} calls answered 202 in {run.seconds:.1f} s "
            f"({run.acknowledged / run.seconds:,.0f}/s, p99 {run.p99 * 1000:.0f} ms), "
            f"{run.refused} rejected",
            f"at {RATE} a second: {run.sent:,} sent in {run.limited:.0f} s = {rate:.2f}/s "
            f"({rate / RATE:.0%} of the limit); status: {run.waiting:,} waiting, "
            f"done in {run.eta / 3600:.1f} h",
            f"at {RATE * RAISED} a second: {run.drained:,} in {run.drain_seconds:.0f} s = "
            f"{run.drained / run.drain_seconds:,.0f}/s; {run.wrong} not applied",
            f"memory: {run.memory_idle:.0f} MB before, {run.memory_peak:.0f} MB at its peak",
        ]
    return "\n".join(lines)
