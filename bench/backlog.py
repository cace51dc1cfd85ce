"""Peak memory of the daemon with 10,000 and with 1,000,000 waiting events.

The remote side accepts everything at once; the daemon keeps to its share of Klaviyo's published
limits, drains for a while and is scraped as by Prometheus.
"""

from __future__ import annotations

import asyncio
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.drain import accepted, fill
from bench.intake import config_text
from bench.load import event_bodies
from bench.processes import environment, free_port, running

_SCRAPE_EVERY = 5.0


@dataclass(frozen=True, slots=True)
class Run:
    """One backlog. `peak`: MiB. `sent`: events sent meanwhile."""

    waiting: int
    peak: float
    sent: int


def measure(sizes: Sequence[int], seconds: float, folder: Path) -> list[Run]:
    """One run per size, each in a separate process and on a separate file."""
    return [_run(size, seconds, folder) for size in sizes]


def _run(size: int, seconds: float, folder: Path) -> Run:
    with tempfile.TemporaryDirectory(prefix="bench-backlog-", dir=folder) as name:
        place, port = Path(name), free_port()
        asyncio.run(fill(place / "connector.db", event_bodies(size)))
        with running(["-m", "bench.target", str(port)], folder=place, port=port):
            output = subprocess.run(
                [sys.executable, "-m", "bench.backlog", str(place), str(port), str(seconds)],
                check=True,
                stdout=subprocess.PIPE,
                env=environment(place),
            ).stdout
    result = json.loads(output.splitlines()[-1])
    return Run(size, result["peak"], int(result["sent"]))


async def drain(folder: Path, port: int, seconds: float) -> dict[str, float]:
    """Run the daemon without a port on this folder's store for `seconds`."""
    from connector.app.collector import freeze_heap
    from connector.app.configuration import read_config
    from connector.app.daemon import App
    from connector.runtime import log

    config = folder / "connector.toml"
    config.write_text(config_text(folder, 0, port))
    log.configure(level="error")
    app = App(read_config(config))
    await app.start(serve=False)
    freeze_heap()
    for _ in range(max(1, round(seconds / _SCRAPE_EVERY))):
        await asyncio.sleep(_SCRAPE_EVERY)
        await app.maintenance.refresh_metrics()
        app.metrics.render()
    (runtime,) = app.runtimes.values()
    lane = runtime.events.lane
    sent = accepted(app.metrics, lane)
    await app.stop()
    return {"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "sent": sent}


def text(runs: Sequence[Run]) -> str:
    """A line per size, and the difference."""
    lines = [
        f"{run.waiting:>9,} waiting: peak {run.peak:,.0f} MiB, {run.sent:,} sent" for run in runs
    ]
    spread = max(run.peak for run in runs) - min(run.peak for run in runs)
    return "\n".join([*lines, f"difference: {spread:,.0f} MiB (goal: at most 60)"])


if __name__ == "__main__":
    from connector.cli import session

    where, server_port, length = sys.argv[1:]
    print(json.dumps(session.run(drain(Path(where), int(server_port), float(length)))))
