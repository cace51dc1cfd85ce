"""How much of its quota the connector uses: bulk events at Klaviyo's real limits, which the sandbox
enforces in a separate process.

The backlog is larger than the quota, so a run only waits for quota. Reports the requests against
the number that the connector's share of the limit allows in that time, and every 429.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.drain import fill
from bench.intake import config_text
from bench.load import event_bodies
from bench.processes import environment, free_port, running


@dataclass(frozen=True, slots=True)
class Run:
    """One endpoint. `sent`: requests in `seconds`. `allowed`: by the share. `throttled`: 429s."""

    endpoint: str
    seconds: float
    sent: int
    allowed: float
    throttled: int


def measure(minutes: float, folder: Path) -> Run:
    """Send bulk events for `minutes`."""
    from connector.klaviyo.limits import BULK_EVENTS, BULK_EVENTS_MAX, LIMITS

    backlog = round(LIMITS[BULK_EVENTS].steady * (minutes + 0.5)) * BULK_EVENTS_MAX
    with tempfile.TemporaryDirectory(prefix="bench-quota-", dir=folder) as name:
        place, port = Path(name), free_port()
        asyncio.run(fill(place / "connector.db", event_bodies(backlog)))
        sandbox = ["-m", "connector.cli", "sandbox", "--klaviyo-port", str(port)]
        sandbox += ["--jericommerce-port", str(free_port())]
        with running(sandbox, folder=place, port=port):
            output = subprocess.run(
                [sys.executable, "-m", "bench.quota", str(place), str(port), str(minutes * 60)],
                check=True,
                stdout=subprocess.PIPE,
                env=environment(place),
            ).stdout
    return Run(**json.loads(output.splitlines()[-1]))


async def drain(folder: Path, port: int, seconds: float) -> dict[str, object]:
    """Run the daemon without a port on this folder's store for `seconds`."""
    from connector.app.collector import freeze_heap
    from connector.app.configuration import read_config
    from connector.app.daemon import App
    from connector.klaviyo.limits import BULK_EVENTS, LIMITS
    from connector.runtime import log

    config = folder / "connector.toml"
    config.write_text(config_text(folder, 0, port).replace("pk_bench", "pk_sandbox"))
    log.configure(level="error")
    app = App(read_config(config))
    await app.start(serve=False)
    freeze_heap()
    await asyncio.sleep(seconds)
    (connection,) = app.config.connections
    sent = _count(app, BULK_EVENTS)
    throttled = sum(_count(app, endpoint, "429") for endpoint in LIMITS)
    await app.stop()
    share = connection.klaviyo.effective_rate_share
    return {
        "endpoint": BULK_EVENTS,
        "seconds": seconds,
        "sent": sent,
        "allowed": LIMITS[BULK_EVENTS].steady * share * seconds / 60,
        "throttled": throttled,
    }


def _count(app: Any, endpoint: str, status: str | None = None) -> int:
    """The number of requests to an endpoint, from the daemon's metric."""
    found = 0.0
    for family in app.metrics.requests.collect():
        for sample in family.samples:
            labels = sample.labels
            if sample.name.endswith("_total") and labels["endpoint"] == endpoint:
                found += sample.value if status in (None, labels["status"]) else 0
    return round(found)


def text(runs: Sequence[Run]) -> str:
    """A line per endpoint."""
    return "\n".join(
        f"{run.endpoint}: {run.sent} requests in {run.seconds:.0f} s, {run.allowed:.0f} allowed: "
        f"{run.sent / run.allowed:.0%} (goal: at least 95 %), {run.throttled} responses 429"
        for run in runs
    )


if __name__ == "__main__":
    from connector.cli import session

    where, server_port, length = sys.argv[1:]
    print(json.dumps(session.run(drain(Path(where), int(server_port), float(length)))))
