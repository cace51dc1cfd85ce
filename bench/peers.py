"""The same events by us and by a loop over Klaviyo's official SDK, at Klaviyo's real limits.

Each side is a process of its own and has a sandbox of its own, which enforces the published limits
and answers 2 % of the requests for events 503. The loop sends one event a request, because the SDK
does no more by itself, with the SDK's own repeats. Ours is the daemon without a port, with a
backlog of these events. The wall time begins when a side is ready to send and ends with its last
answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from bench.drain import accepted, fill
from bench.intake import config_text
from bench.load import event_bodies
from bench.processes import environment
from connector.sandbox import KlaviyoSandbox, serve

_FAULTY = 0.02
"""Share of the requests that are answered 503 and have no effect."""
_TIMEOUT = 3_600.0


@dataclass(frozen=True, slots=True)
class Run:
    """One side. `requests`: those of events; `throttled`: its 429s. `lost`: events that Klaviyo
    does not have, `doubled`: those it has more than once."""

    events: int
    seconds: float
    cpu: float
    requests: int
    throttled: int
    lost: int
    doubled: int


@dataclass(frozen=True, slots=True)
class Result:
    ours: Run
    sdk: Run


class _Sandbox:
    """Klaviyo on loopback, in a thread with a loop of its own."""

    def __init__(self) -> None:
        self.klaviyo = KlaviyoSandbox()
        for endpoint in ("events", "event-bulk-create-jobs"):
            self.klaviyo.faults.add(endpoint, "status", status=503, probability=_FAULTY)
        self.port = 0
        self._started, self._ended = threading.Event(), asyncio.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def start(self) -> None:
        self._thread.start()
        self._started.wait(60)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        servers = await serve({"klaviyo": (self.klaviyo.app, 0)})
        self.port = servers.ports["klaviyo"]
        self._started.set()
        await self._ended.wait()
        await servers.aclose()


def measure(events: int, folder: Path) -> Result:
    return Result(_side("ours", events, folder), _side("sdk", events, folder))


def _side(side: str, events: int, folder: Path) -> Run:
    with _sandbox() as sandbox, tempfile.TemporaryDirectory(dir=folder) as name:
        place = Path(name)
        output = subprocess.run(
            [sys.executable, "-m", "bench.peers", side, str(events), str(sandbox.port), name],
            check=True,
            stdout=subprocess.PIPE,
            env=environment(place),
        ).stdout
        found = json.loads(output.splitlines()[-1])
        recorded, state = sandbox.klaviyo.unique_ids(), sandbox.klaviyo.state()
    requests: Any = state["requests"]
    return Run(
        events=events,
        seconds=found["seconds"],
        cpu=found["cpu"],
        requests=sum(
            sum(by.values())
            for label, by in requests.items()
            if label.startswith("POST /api/event")
        ),
        throttled=int(str(state["throttled"])),
        lost=events - len(recorded),
        doubled=sum(count > 1 for count in recorded.values()),
    )


@contextlib.contextmanager
def _sandbox() -> Iterator[_Sandbox]:
    sandbox = _Sandbox()
    sandbox.start()
    try:
        yield sandbox
    finally:
        sandbox.stop()


# ── the sides ────────────────────────────────────────────────────────────────────────────────────


async def ours(events: int, port: int, folder: Path) -> dict[str, float]:
    from connector.app.collector import freeze_heap
    from connector.app.configuration import read_config
    from connector.app.daemon import App
    from connector.runtime import log

    await fill(folder / "connector.db", event_bodies(events))
    config = folder / "connector.toml"
    config.write_text(config_text(folder, 0, port).replace("pk_bench", "pk_sandbox"))
    log.configure(level="critical")
    app = App(read_config(config))
    used, started_at = time.process_time(), time.monotonic()
    await app.start(serve=False)
    freeze_heap()
    (runtime,) = app.runtimes.values()
    while accepted(app.metrics, runtime.events.lane) < events:
        stuck = time.monotonic() - started_at > _TIMEOUT or runtime.events.state.mode != "running"
        if stuck:
            break
        await asyncio.sleep(0.02)
    found = {"seconds": time.monotonic() - started_at, "cpu": time.process_time() - used}
    await app.stop()
    return found


def sdk(events: int, port: int) -> dict[str, float]:
    """What a script does: one call for each event; one that fails for good is printed and left."""
    from klaviyo_api import KlaviyoAPI
    from openapi_client.exceptions import ApiException

    api = KlaviyoAPI(
        "pk_sandbox", max_delay=60, max_retries=3, test_host=f"http://127.0.0.1:{port}"
    )
    bodies = [_event(name, orjson.loads(raw)) for name, raw in event_bodies(events)]
    used, started_at = time.process_time(), time.monotonic()
    for body in bodies:
        try:
            api.Events.create_event(body)
        except ApiException as error:
            print(f"not sent: {error.status}", file=sys.stderr)
    return {"seconds": time.monotonic() - started_at, "cpu": time.process_time() - used}


def _event(name: str, body: dict[str, Any]) -> dict[str, Any]:
    metric = {"data": {"type": "metric", "attributes": {"name": name}}}
    profile = {"data": {"type": "profile", "attributes": {"email": body["email"]}}}
    attributes = {
        "properties": body["properties"],
        "unique_id": body["id"],
        "metric": metric,
        "profile": profile,
    }
    return {"data": {"type": "event", "attributes": attributes}}


def text(result: Result) -> str:
    """The result as text."""
    lines = [
        f"{name}: {run.events:,} events in {run.seconds:.1f} s, {run.cpu:.1f} s of CPU, "
        f"{run.requests:,} requests, {run.throttled} answers 429, {run.lost} lost, "
        f"{run.doubled} doubled"
        for name, run in (("ours", result.ours), ("SDK loop", result.sdk))
    ]
    return "\n".join([*lines, f"SDK loop ÷ ours: {result.sdk.seconds / result.ours.seconds:.1f}"])


if __name__ == "__main__":
    from connector.cli import session

    which, count, where, place = sys.argv[1:]
    if which == "ours":
        print(json.dumps(session.run(ours(int(count), int(where), Path(place)))))
    else:
        print(json.dumps(sdk(int(count), int(where))))
