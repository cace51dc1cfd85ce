"""What one connection notices of another one's backlog: the work of `live` at a low rate, on a
store in which another account's connection has a backlog, first paused and then being sent.

Both accounts have Klaviyo's published limits. The backlog is sent in bulk requests of 1,000 events.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import uvloop

from bench import live
from bench.drain import fill_store
from bench.load import event_bodies
from bench.processes import CpuMark, environment, free_port, pinned, postgresql, running

_LIVE, _OTHER = "bench", "other"


@dataclass(frozen=True, slots=True)
class Turn:
    """The live connection beside a backlog that is paused, and beside one that is sent."""

    paused: live.Run
    sent: live.Run


def measure(
    events: int,
    rate: float,
    seconds: float,
    repeats: int,
    folder: Path,
    *,
    on_postgresql: bool = False,
) -> list[Turn]:
    """`events` in the backlog, `rate` webhooks a second for the live connection. On an SQLite file,
    or on a PostgreSQL of its own."""
    with ExitStack() as stack:
        place = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-fair-", dir=folder))
        )
        port, remote, config = free_port(), free_port(), place / "connector.toml"
        url = f"sqlite:///{place}/connector.db"
        if on_postgresql:
            url = stack.enter_context(postgresql(place))[0].get_uri()
        text = live.config_text(
            place, port=port, remote=remote, connections=(_LIVE, _OTHER), store=url
        )
        config.write_text(text)
        count = round(rate * (seconds + live.WARM_UP)) + 1
        bodies = event_bodies(events + 2 * repeats * count)  # no two have the same id
        asyncio.run(fill_store(url, islice(bodies, events), connection=_OTHER))
        webhooks = iter(live.signed(bodies))
        stack.enter_context(
            running(["-m", "bench.remote", str(remote)], folder=place, port=remote, core=1)
        )
        stack.enter_context(pinned(1))
        command = ["-m", "connector.cli", "--config", str(config)]

        def run(order: str) -> live.Run:
            with running([*command, "run"], folder=place, port=port, core=0) as process:
                words = [sys.executable, *command, order, _OTHER]
                subprocess.run(words, check=True, stdout=subprocess.DEVNULL, env=environment(place))
                mark = CpuMark(process.pid)
                made = [next(webhooks) for _ in range(count)]
                return uvloop.run(live.drive([port], remote, made, rate, seconds, mark))

        return [Turn(run("pause"), run("resume")) for _ in range(repeats)]


def text(turns: Sequence[Turn]) -> str:
    """Medians."""

    def line(title: str, runs: Sequence[live.Run]) -> str:
        p50, p95, p99 = (
            1000 * statistics.median(getattr(run, name) for run in runs)
            for name in ("p50", "p95", "p99")
        )
        late = sum(run.lost + run.refused for run in runs)
        return f"{title}: p50 {p50:.0f} ms, p95 {p95:.0f} ms, p99 {p99:.0f} ms, {late} late"

    ratio = statistics.median(turn.sent.p99 / turn.paused.p99 for turn in turns)
    return "\n".join(
        [
            line("another connection's backlog is paused", [turn.paused for turn in turns]),
            line("it is being sent", [turn.sent for turn in turns]),
            f"p99 beside it ÷ without: {ratio:.2f}",
        ]
    )
