"""A Klaviyo segment that is synced to a platform: the duration of a full scan at Klaviyo's real
limits, against the minimum that they allow, and the effect of a page that cannot be read.

The daemon runs in this process without a port; both sandboxes in another, Klaviyo with its
published limits. First all members are sent. Then some leave the segment, and the next scan fails
in the middle: no member may be removed until a scan is complete.
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
    """`scan` and `minimum`: seconds for `pages` requests. `left_unfinished` and `left`: people who
    were removed by the scan that failed and by the next one. `peak`: MB."""

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
    """Measure a segment of `size` members."""
    klaviyo, platform = free_port(), free_port()
    command = ("-m", "bench.segment", str(size), str(klaviyo), str(platform))
    with running(command, folder=folder, port=platform):
        return await _work(size, folder, klaviyo, platform)


async def _work(size: int, folder: Path, klaviyo: int, platform: int) -> Run:
    from connector.app.configuration import read_config
    from connector.app.daemon import App

    file = folder / "connector.toml"
    mapping = ROOT / "mappings" / "jericommerce.toml"
    file.write_text(
        _CONFIG.format(folder=folder, mapping=mapping, klaviyo=klaviyo, platform=platform)
    )
    log.configure(level="error")
    app = App(read_config(file))
    started_at = time.monotonic()
    await app.start(serve=False)
    async with httpx.AsyncClient(timeout=30) as http:
        url = f"http://127.0.0.1:{klaviyo}/_sandbox"

        async def state(port: int) -> Any:
            return json.loads((await http.get(f"http://127.0.0.1:{port}/_sandbox/state")).text)

        async def pages() -> int:
            found = (await state(klaviyo))["requests"].get(GET_SEGMENT_PROFILES, {})
            return sum(count for status, count in found.items() if status == "200")

        async def sent() -> int:
            return int(
                (await http.get(f"http://127.0.0.1:{platform}/_bench/members")).json()["members"]
            )

        await _until(lambda: _complete(app, 1))
        scan, first = time.monotonic() - started_at, await pages()
        await _until(lambda: _idle(app))
        total = await sent()
        # Some leave, and the next scan fails at 70 %.
        response = await http.post(f"http://127.0.0.1:{klaviyo}/_bench/leave/{_LEAVING}")
        response.raise_for_status()
        await app.commands.execute(
            "segments-sync", {"connection": "bench", "name": "Winback", "segment": "Winback"}
        )
        fails_at = first + first * 7 // 10

        async def is_reached() -> bool:
            return await pages() >= fails_at

        await _until(is_reached)
        await http.post(
            f"{url}/faults",
            json={"endpoint": "*", "kind": "status", "status": 500},
        )
        await asyncio.sleep(20.0)
        unfinished = total - await sent()
        await http.delete(f"{url}/faults")
        await _until(lambda: _complete(app, 2))
        await _until(lambda: _idle(app))
        left = total - await sent()
        found = (await state(klaviyo))["requests"]
    throttled = sum(count.get("429", 0) for count in found.values())
    settings = app.config.connections[0].klaviyo
    share = settings.effective_rate_share * (1 - settings.live_reserve)
    await app.stop()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Run(
        size, first, scan, _minimum_seconds(size, share), throttled, total, unfinished, left, peak
    )


def _minimum_seconds(size: int, share: float) -> float:
    """Seconds until the last page at the limit per minute, without the live reserve."""
    per_minute = math.floor(LIMITS[GET_SEGMENT_PROFILES].steady * share)
    return 60.0 * ((math.ceil(size / PAGE) - 1) // per_minute)


async def _complete(app: Any, scans: int) -> bool:
    groups = await app.store.member_groups.all("bench")
    return any(g.kind == "segment" and g.completed_scan >= scans for g in groups)


async def _idle(app: Any) -> bool:
    (runtime,) = app.runtimes.values()
    return all([await d.idle(60) for d in runtime.memberships])


async def _until(condition: Callable[[], Any]) -> None:
    while True:
        await asyncio.sleep(0.2)
        if await condition():
            return


def text(run: Run) -> str:
    """The result as text."""
    return (
        f"segment of {run.members:,}: {run.pages:,} pages in {run.scan:.0f} s "
        f"(minimum without the live reserve {run.minimum:.0f} s), "
        f"{run.throttled} responses 429, {run.sent:,} members sent, peak {run.peak:.0f} MB\n"
        f"a scan that failed at 70 %: {run.left_unfinished} removed; the next complete scan: "
        f"{run.left} of the {_LEAVING} who had left"
    )


async def serve(size: int, klaviyo_port: int, platform_port: int) -> None:
    """Serve both sandboxes until the process is stopped."""
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Mount, Route

    from connector.sandbox import JeriCommerceSandbox, KlaviyoSandbox
    from connector.sandbox import serve as listen

    platform, klaviyo = JeriCommerceSandbox(people=size), KlaviyoSandbox()
    emails = [person.email for person in platform.people]
    id = klaviyo.make_segment("Winback", *emails)

    async def members(request: Request) -> Response:
        return JSONResponse({"members": len(platform.segment("winback"))})

    async def leave(request: Request) -> Response:
        klaviyo.leave_segment(id, *emails[: int(request.path_params["count"])])
        return JSONResponse({})

    klaviyo_app = Starlette(
        routes=[
            Route("/_bench/leave/{count}", leave, methods=["POST"]),
            Mount("/", klaviyo.app),
        ]
    )
    platform_app = Starlette(routes=[Route("/_bench/members", members), Mount("/", platform.app)])
    await listen(
        {"klaviyo": (klaviyo_app, klaviyo_port), "jericommerce": (platform_app, platform_port)}
    )
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(*(int(argument) for argument in sys.argv[1:])))
