"""How much of the quota that is left to it the connector uses: events in bulk, at Klaviyo's true
limits, kept by the sandbox in a process of its own.

The backlog is longer than the quota, so the quota is all that a run waits for. What is reported is
requests against what our share of the limit allows in that time, and every 429.
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

from bench.drain import fill
from bench.intake import config_text
from bench.load import event_bodies
from bench.processes import environment, free_port, running


@dataclass(frozen=True, slots=True)
class Run:
    """One endpoint: requests sent in so many `seconds`, what was `allowed`, and 429s."""

    endpoint: str
    seconds: float
    sent: int
    allowed: float
    throttled: int


def measure(minutes: float, folder: Path) -> Run:
    """Bulk events for so long."""
    from connector.klaviyo.limits import BULK_EVENTS, BULK_EVENTS_MAX, LIMITS

    backlog = round(LIMITS[BULK_EVENTS].steady * (minutes + 0.5)) * BULK_EVENTS_MAX
    with tempfile.TemporaryDirectory(prefix="bench-quota-", dir=folder) as name:
        place, port = Path(name), free_port()
        asyncio.run(fill(place / "connector.db", event_bodies(backlog)))
        sandbox = ["-m", "connector.cli", "sandbox", "--klaviyo-port", str(port)]
        sandbox += ["--jericommerce-port", str(free_port())]
        with running(sandbox, folder=place, port=port):
            said = subprocess.run(
                [sys.executable, "-m", "bench.quota", str(place), str(port), str(minutes * 60)],
                check=True,
                stdout=subprocess.PIPE,
                env=environment(place),
            ).stdout
    return Run(**json.loads(said.splitlines()[-1]))


async def drain(folder: Path, port: int, seconds: float) -> dict[str, object]:
    """The daemon without a port, on this folder's store, for so long."""
    from connector.app.daemon import App, freeze_heap, read_config
    from connector.klaviyo.limits import BULK_EVENTS, LIMITS
    from connector.runtime import log

    config = folder / "connector.toml"
    key = config_text(folder, 0, port).replace("pk_bench", "pk_sandbox")
    config.write_text(key)
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


def _count(app: object, endpoint: str, status: str | None = None) -> int:
    """Requests to an endpoint, by the daemon's own metric."""
    found = 0.0
    for family in app.metrics.requests.collect():  # type: ignore[attr-defined]
        for sample in family.samples:
            labels = sample.labels
            if sample.name.endswith("_total") and labels["endpoint"] == endpoint:
                found += sample.value if status in (None, labels["status"]) else 0
    return round(found)


def text(runs: Sequence[Run]) -> str:
    """A line for each endpoint."""
    return "\n".join(
        f"{run.endpoint}: {run.sent} requests in {run.seconds:.0f} s, {run.allowed:.0f} allowed: "
        f"{run.sent / run.allowed:.0%} (goal: at least 95 %), {run.throttled} answers 429"
        for run in runs
    )


if __name__ == "__main__":
    from connector.cli import session

    where, server_port, length = sys.argv[1:]
    print(json.dumps(session.run(drain(Path(where), int(server_port), float(length)))))
