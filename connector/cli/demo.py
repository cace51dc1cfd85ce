"""`connector demo`: the whole product on this machine, with no account and on loopback alone."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from connector import log
from connector.app import App, read_config
from connector.cli.look import age
from connector.sandbox import JeriCommerceSandbox, KlaviyoSandbox, Traffic, serve
from connector.templates import shipped_mappings

_CONFIG = """\
[store]
url = "sqlite:///state/demo.db"

[server]
port = {port}

[log]
level = "warning"

[[connections]]
name = "demo"
source = "jericommerce"
mapping = "mappings/jericommerce.toml"

[connections.settings]
base_url = "{jericommerce}"
program = "demo"
api_key = "jeri_sandbox"
webhook_secret = "jeri_webhook_secret"
rate_per_second = 100    # the sandbox has no limit; JeriCommerce publishes none, the default is 5

[connections.klaviyo]
base_url = "{klaviyo}"
private_key = "pk_sandbox"
"""


async def demonstrate(port: int, seconds: float | None, rate: float) -> int:
    """Run until Ctrl-C or for `seconds`; 0 only if what was received was accepted."""
    folder = Path(tempfile.mkdtemp(prefix="connector-demo-"))
    console = Console()
    klaviyo, jericommerce = KlaviyoSandbox(), JeriCommerceSandbox()
    servers = await serve({"klaviyo": (klaviyo.app, 0), "jericommerce": (jericommerce.app, 0)})
    shutil.copytree(shipped_mappings(), folder / "mappings")
    (folder / "connector.toml").write_text(
        _CONFIG.format(
            port=port, klaviyo=servers.url("klaviyo"), jericommerce=servers.url("jericommerce")
        )
    )
    config = read_config(folder / "connector.toml")
    said = (folder / "demo.log").open("a")
    log.configure(level="warning", stream=said)
    app = App(config)
    try:
        await app.start()
        url = f"http://127.0.0.1:{app.port}"
        traffic = Traffic(jericommerce, f"{url}/webhooks/demo", rate=rate)
        await _watch(console, app, klaviyo, traffic, url, folder, seconds)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(app.until_idle(), 30)
        return await _summary(console, app, klaviyo, jericommerce, traffic)
    finally:
        await app.stop()
        await servers.aclose()
        log.configure(level="warning")
        said.close()
        shutil.rmtree(folder, ignore_errors=True)


async def _watch(
    console: Console,
    app: App,
    klaviyo: KlaviyoSandbox,
    traffic: Traffic,
    url: str,
    folder: Path,
    seconds: float | None,
) -> None:
    """Send traffic and show it, until the time is over or somebody presses Ctrl-C."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if seconds is not None:
        loop.call_later(seconds, stop.set)
    console.print(f"connector demo: JeriCommerce sandbox → connector ({url}) → Klaviyo sandbox")
    console.print(f"look: {url}/healthz  {url}/metrics  files: {folder}   stop: Ctrl-C\n")
    sending = asyncio.create_task(traffic.run(stop))
    began = loop.time()
    with Live(console=console, refresh_per_second=4, transient=not console.is_terminal) as live:
        while not stop.is_set():
            live.update(await _view(app, klaviyo, traffic, loop.time() - began))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), 0.5)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.remove_signal_handler(number)
    await sending


async def _view(
    app: App, klaviyo: KlaviyoSandbox, traffic: Traffic, elapsed: float
) -> RenderableType:
    found = await app.operator.status()
    lanes = {(x["kind"], x["destination"]): x for x in found["connections"]["demo"]["lanes"]}
    lane = lanes["event", "klaviyo"]
    grid = Table.grid(padding=(0, 2))
    waiting = lane["ready"] + lane["in_flight"]
    quota = ", ".join(f"{x['last_minute']} {x['endpoint']}" for x in found["quota"])
    for name, value in (
        ("running", f"{elapsed:.0f} s, lane {lane['state']}"),
        ("received", f"{len(traffic.acknowledged):,} acknowledged of {traffic.sent:,} sent"),
        ("accepted", f"{klaviyo.state()['events']:,} events recorded at Klaviyo"),
        ("waiting", f"{waiting:,}, oldest {age(lane['oldest_seconds'])}; held {lane['held']}"),
        ("profiles", _profiles(lanes, klaviyo)),
        ("last minute", quota or "-"),
        ("last problem", await _last_problem(app)),
    ):
        grid.add_row(Text(name, style="bold"), value)
    return Group(grid)


def _profiles(lanes: dict[tuple[str, str], dict[str, Any]], klaviyo: KlaviyoSandbox) -> str:
    reads, writes = lanes["profile", "jericommerce"], lanes["profile", "klaviyo"]
    waiting = reads["ready"] + reads["in_flight"], writes["ready"] + writes["in_flight"]
    known = klaviyo.state()["profiles"]
    return f"{known:,} at Klaviyo; {waiting[0]} to read, {waiting[1]} to write"


async def _last_problem(app: App) -> str:
    for _, _, request in await app.store.insight.recent_requests(50):
        if request.problem:
            return f"{request.problem} {request.problem.meaning}"
    return "none"


async def _summary(
    console: Console,
    app: App,
    klaviyo: KlaviyoSandbox,
    jericommerce: JeriCommerceSandbox,
    traffic: Traffic,
) -> int:
    """Compare what the traffic was told was taken with what Klaviyo's sandbox recorded."""
    counts = klaviyo.unique_ids()
    ids = {f"jericommerce:{id}" for id in traffic.acknowledged}
    missing = [id for id in ids if counts.get(id, 0) == 0]
    doubled = [id for id in ids if counts.get(id, 0) > 1]
    held = sum(b.held for b in await app.store.insight.backlog())
    state = klaviyo.state()
    wrong = _stale(klaviyo, jericommerce)
    lane = app.lines["demo"].events.lane
    latencies = await app.store.insight.latencies(lane.id, 100_000)
    console.print(f"\nreceived   {len(ids):,}   ({traffic.redeliveries} redeliveries recognised)")
    console.print(f"accepted   {len(ids) - len(missing):,}")
    console.print(f"missing    {len(missing)}   doubled {len(doubled)}   held {held}")
    console.print(f"throttled  {state['throttled']}   rules broken {_rules(state)}")
    if latencies:
        middle, late = _quantiles(latencies)
        console.print(f"receipt → accepted: median {middle:.0f} ms, p99 {late} ms")
    told = await app.store.insight.write_latencies(100_000)
    if told:
        middle, late = _quantiles(told)
        console.print(f"receipt → profile accepted: median {middle:.0f} ms, p99 {late} ms")
    console.print(f"profiles   {state['profiles']} at Klaviyo, {len(wrong)} not as at JeriCommerce")
    well = not (missing or doubled or wrong or state["throttled"] or state["violations"])
    console.print("all well" if well and ids else "NOT well")
    return 0 if well and ids else 1


def _stale(klaviyo: KlaviyoSandbox, jericommerce: JeriCommerceSandbox) -> list[str]:
    """Addresses that were told a balance at Klaviyo which is not what JeriCommerce says."""
    wrong = []
    for person in jericommerce.people:
        profile = klaviyo.profile(person.email)
        if profile is None:
            continue
        fields = profile["properties"]
        if "balance" in fields and fields["balance"] != person.balance:
            wrong.append(person.email)
    return wrong


def _quantiles(millis: Sequence[int]) -> tuple[float, int]:
    """Median and 99th percentile."""
    ordered = sorted(millis)
    return statistics.median(ordered), ordered[min(len(ordered) - 1, round(len(ordered) * 0.99))]


def _rules(state: dict[str, Any]) -> str:
    broken = state["violations"]
    return ", ".join(f"{name} {count}" for name, count in broken.items()) or "none"
