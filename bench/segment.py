"""A Klaviyo segment told to a platform: how long a full scan takes at Klaviyo's true limits,
against the least that they allow, and what happens when a page of it cannot be had.

The daemon's parts run in this process without a port; both sandboxes in another, Klaviyo with its
published limits. First everybody in the segment is told. Then some leave it, and the next scan
breaks in the middle: nobody may be taken off until a scan is complete.
"""

from __future__ import annotations

import asyncio
import json
import math
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from bench.processes import free_port, running
from bench.states import ROOT
from connector.klaviyo.limits import GET_SEGMENT_PROFILES, LIMITS
from connector.runtime import log

PAGE = 100
_LEAVING = 50
_CONFIG = """\
[store]
url = "sqlite:///{folder}/connector.db"
min_free = "1MB"

[log]
level = "error"

[[connections]]
name = "bench"
source = "jericommerce"
mapping = "{mapping}"
modules = ["segments"]

[connections.settings]
base_url = "http://127.0.0.1:{platform}"
program = "demo"
api_key = "jeri_sandbox"
rate_per_second = 200

[connections.klaviyo]
base_url = "http://127.0.0.1:{klaviyo}"
private_key = "pk_sandbox"
flow_guard = "off"

[[connections.segments]]
segment = "Winback"
target = "winback"
every = "15m"
"""


@dataclass(frozen=True, slots=True)
class Run:
    """`scan` and `least` in seconds for `pages` requests; `left_unfinished` and `left` are people
    taken off by the scan that broke and by the one after; `peak` in MB."""

    members: int
    pages: int
    scan: float
    minimum: float
    throttled: int
    sent: int
    left_unfinished: int
    left: int
    peak: float


async def measure(size: int, folder: Path) -> Run:
    """A segment of so many."""
    klaviyo, platform = free_port(), free_port()
    command = ("-m", "bench.segment", str(size), str(klaviyo), str(platform))
    with running(command, folder=folder, port=platform):
        return await _work(size, folder, klaviyo, platform)


async def _work(size: int, folder: Path, klaviyo: int, platform: int) -> Run:
    from connector.app.daemon import App, read_config

    file = folder / "connector.toml"
    mapping = ROOT / "mappings" / "jericommerce.toml"
    file.write_text(
        _CONFIG.format(folder=folder, mapping=mapping, klaviyo=klaviyo, platform=platform)
    )
    log.configure(level="error")
    app = App(read_config(file))
    began = time.monotonic()
    await app.start(serve=False)
    async with httpx.AsyncClient(timeout=30) as http:
        url = f"http://127.0.0.1:{klaviyo}/_sandbox"

        async def state(port: int) -> Any:
            return json.loads((await http.get(f"http://127.0.0.1:{port}/_sandbox/state")).text)

        async def pages() -> int:
            found = (await state(klaviyo))["requests"].get(GET_SEGMENT_PROFILES, {})
            return sum(count for status, count in found.items() if status == "200")

        async def sent() -> int:
            return int((await http.get(f"http://127.0.0.1:{platform}/_bench/told")).json()["told"])

        await _until(lambda: _complete(app, 1))
        scan, first = time.monotonic() - began, await pages()
        await _until(lambda: _idle(app))
        whole = await sent()
        # Some leave, and the next scan breaks at about its middle.
        gone = await http.post(f"http://127.0.0.1:{klaviyo}/_bench/leave/{_LEAVING}")
        gone.raise_for_status()
        await app.commands.execute(
            "segments-sync", {"connection": "bench", "name": "Winback", "segment": "Winback"}
        )
        middle = first + first * 7 // 10

        async def halfway() -> bool:
            return await pages() >= middle

        await _until(halfway)
        await http.post(
            f"{url}/faults",
            json={"endpoint": "*", "kind": "status", "status": 500},
        )
        await asyncio.sleep(20.0)
        unfinished = whole - await sent()
        await http.delete(f"{url}/faults")
        await _until(lambda: _complete(app, 2))
        await _until(lambda: _idle(app))
        left = whole - await sent()
        found = (await state(klaviyo))["requests"]
    throttled = sum(count.get("429", 0) for count in found.values())
    klaviyo_side = app.config.connections[0].klaviyo
    share = klaviyo_side.effective_rate_share * (1 - klaviyo_side.live_reserve)
    await app.stop()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Run(
        size, first, scan, _minimum_seconds(size, share), throttled, whole, unfinished, left, peak
    )


def _minimum_seconds(size: int, share: float) -> float:
    """Seconds that the minute's limit makes the last page wait; a scan leaves the live reserve."""
    a_minute = math.floor(LIMITS[GET_SEGMENT_PROFILES].steady * share)
    return 60.0 * ((math.ceil(size / PAGE) - 1) // a_minute)


async def _complete(app: Any, scans: int) -> bool:
    groups = await app.store.member_groups.all("bench")
    return any(g.kind == "segment" and g.completed_scan >= scans for g in groups)


async def _idle(app: Any) -> bool:
    (runtime,) = app.runtimes.values()
    return all([await d.idle_for(60) for d in runtime.memberships])


async def _until(look: Callable[[], Any]) -> None:
    while True:
        await asyncio.sleep(0.2)
        if await look():
            return


def text(run: Run) -> str:
    """A few lines for a person."""
    return (
        f"segment of {run.members:,}: {run.pages:,} pages in {run.scan:.0f} s "
        f"(least, with the live reserve left alone, {run.minimum:.0f} s), "
        f"{run.throttled} answers 429, {run.sent:,} told, peak {run.peak:.0f} MB\n"
        f"a scan that broke at 70 %: {run.left_unfinished} taken off; the next that was complete: "
        f"{run.left} of the {_LEAVING} who had left"
    )


async def serve(size: int, klaviyo_port: int, platform_port: int) -> None:
    """Both sandboxes, until the bench ends them."""
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Mount, Route

    from connector.sandbox import JeriCommerceSandbox, KlaviyoSandbox
    from connector.sandbox import serve as listen

    platform, klaviyo = JeriCommerceSandbox(people=size), KlaviyoSandbox()
    emails = [person.email for person in platform.people]
    id = klaviyo.make_segment("Winback", *emails)

    async def sent(request: Request) -> Response:
        return JSONResponse({"told": len(platform.segment("winback"))})

    async def leave(request: Request) -> Response:
        klaviyo.leave_segment(id, *emails[: int(request.path_params["count"])])
        return JSONResponse({})

    one = Starlette(
        routes=[
            Route("/_bench/leave/{count}", leave, methods=["POST"]),
            Mount("/", klaviyo.app),
        ]
    )
    two = Starlette(routes=[Route("/_bench/told", sent), Mount("/", platform.app)])
    await listen({"klaviyo": (one, klaviyo_port), "jericommerce": (two, platform_port)})
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(*(int(word) for word in sys.argv[1:])))
