"""`connector demo`: the whole product on this machine, with no account and on loopback alone."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from connector.app.daemon import App, read_config
from connector.cli.format import format_age
from connector.config import Connection
from connector.platforms import registry
from connector.runtime import log
from connector.sandbox import KlaviyoSandbox, Traffic, Webhook, serve
from connector.sandbox.demo_platforms import DEMO_PLATFORMS, DemoPlatform, PlatformSandbox
from connector.tools.templates import shipped_mappings

_CONFIG = """\
[store]
url = "sqlite:///state/demo.db"

[server]
port = {port}

[log]
level = "warning"
"""
_CONNECTION = """
[[connections]]
name = "{source}"
source = "{source}"

[connections.settings]
{settings}
[connections.klaviyo]
base_url = "{klaviyo}"
private_key = "pk_sandbox"
"""


@dataclass(frozen=True, slots=True)
class RunningPlatform:
    """A platform of the demo while it runs."""

    demo_platform: DemoPlatform
    double: PlatformSandbox
    traffic: Traffic


async def demonstrate(port: int, seconds: float | None, rate: float) -> int:
    """Run until Ctrl-C or for `seconds`; 0 only if what was received was accepted."""
    folder = Path(tempfile.mkdtemp(prefix="connector-demo-"))
    console = Console()
    klaviyo = KlaviyoSandbox()
    doubles = {demo_platform.source: demo_platform.make() for demo_platform in DEMO_PLATFORMS}
    servers = await serve(
        {"klaviyo": (klaviyo.app, 0)} | {name: (double.app, 0) for name, double in doubles.items()}
    )
    shutil.copytree(shipped_mappings(), folder / "mappings")
    config = read_config(_write(folder, port, servers.url))
    log_file = (folder / "demo.log").open("a")
    log.configure(level="warning", stream=log_file)
    app = App(config)
    try:
        await app.start()
        url = f"http://127.0.0.1:{app.port}"
        parts = sum(demo_platform.share for demo_platform in DEMO_PLATFORMS)
        platforms = [
            RunningPlatform(
                demo_platform,
                doubles[demo_platform.source],
                Traffic(
                    doubles[demo_platform.source],
                    f"{url}/webhooks/{demo_platform.source}",
                    rate=rate * demo_platform.share / parts,
                    id_of=_unique_id(config.connection(demo_platform.source)),
                ),
            )
            for demo_platform in DEMO_PLATFORMS
        ]
        await _watch(console, app, klaviyo, platforms, url, folder, seconds)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(app.until_idle(), 30)
        return await _summary(console, app, klaviyo, platforms)
    finally:
        await app.stop()
        await servers.aclose()
        log.configure(level="warning")
        log_file.close()
        shutil.rmtree(folder, ignore_errors=True)


def _write(folder: Path, port: int, url: Callable[[str], str]) -> Path:
    """The connector.toml: one connection a platform, all of them to one Klaviyo account."""
    text = _CONFIG.format(port=port)
    for demo_platform in DEMO_PLATFORMS:
        settings = demo_platform.settings.format(url=url(demo_platform.source))
        text += _CONNECTION.format(
            source=demo_platform.source, settings=settings, klaviyo=url("klaviyo")
        )
    path = folder / "connector.toml"
    path.write_text(text)
    return path


def _unique_id(connection: Connection) -> Callable[[Webhook], str]:
    """What the connector will tell Klaviyo that a webhook's event is called; "" for none."""
    platform = registry.load(connection.source, connection.settings)
    assert platform.webhook is not None
    webhook = platform.webhook(connection.settings)

    def unique_id(sent: Webhook) -> str:
        records = webhook.parse(sent.headers, sent.body)
        return records[0].unique_id if records else ""

    return unique_id


async def _watch(
    console: Console,
    app: App,
    klaviyo: KlaviyoSandbox,
    platforms: Sequence[RunningPlatform],
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
    names = ", ".join(one.demo_platform.title for one in platforms)
    console.print(f"connector demo: sandboxes of {names} → connector ({url}) → Klaviyo's sandbox")
    console.print(f"look: {url}/healthz  {url}/metrics  files: {folder}   stop: Ctrl-C\n")
    sending = [asyncio.create_task(one.traffic.run(stop)) for one in platforms]
    began = loop.time()
    with Live(console=console, refresh_per_second=4, transient=not console.is_terminal) as live:
        while not stop.is_set():
            live.update(await _view(app, klaviyo, platforms, loop.time() - began))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), 0.5)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.remove_signal_handler(number)
    await asyncio.gather(*sending)


async def _view(
    app: App, klaviyo: KlaviyoSandbox, platforms: Sequence[RunningPlatform], elapsed: float
) -> RenderableType:
    found = await app.commands.status()
    state = klaviyo.state()
    quota = ", ".join(f"{x['last_minute']} {x['endpoint']}" for x in found["quota"])
    grid = Table.grid(padding=(0, 2))
    grid.add_row(Text("running", style="bold"), f"{elapsed:.0f} s")
    for one in platforms:
        lanes = found["connections"][one.demo_platform.source]["lanes"]
        grid.add_row(Text(one.demo_platform.title, style="bold"), _lane_summary(one, lanes))
    for name, value in (
        ("Klaviyo", f"{state['events']:,} events recorded, {state['profiles']:,} profiles"),
        ("last minute", quota or "-"),
        ("last problem", await _last_problem(app)),
    ):
        grid.add_row(Text(name, style="bold"), value)
    return Group(grid)


def _lane_summary(one: RunningPlatform, lanes: Sequence[Mapping[str, Any]]) -> str:
    """How far what a platform said has come: its three lanes in a line."""
    by_name = {(x["kind"], x["destination"]): x for x in lanes}
    events = by_name["event", "klaviyo"]
    waiting = {key: lane["ready"] + lane["in_flight"] for key, lane in by_name.items()}
    return (
        f"{len(one.traffic.acknowledged):,} acknowledged of {one.traffic.sent:,} sent; "
        f"waiting {waiting['event', 'klaviyo']:,}, oldest {format_age(events['oldest_seconds'])}; "
        f"{waiting['profile', one.demo_platform.source]} people to read, "
        f"{waiting['profile', 'klaviyo']} to write"
    )


async def _last_problem(app: App) -> str:
    for _, _, request in await app.store.reports.recent_requests(50):
        if request.problem:
            return f"{request.problem} {request.problem.meaning}"
    return "none"


async def _summary(
    console: Console, app: App, klaviyo: KlaviyoSandbox, platforms: Sequence[RunningPlatform]
) -> int:
    """Compare what the traffic was told was taken with what Klaviyo's sandbox recorded."""
    counts = klaviyo.unique_ids()
    ids = set().union(*(one.traffic.acknowledged for one in platforms)) - {""}
    missing = [id for id in ids if counts.get(id, 0) == 0]
    doubled = [id for id in ids if counts.get(id, 0) > 1]
    held = sum(b.held for b in await app.store.reports.backlog())
    state = klaviyo.state()
    stale = [email for one in platforms for email in _stale_profiles(klaviyo, one)]
    again = sum(one.traffic.redeliveries for one in platforms)
    console.print(f"\nreceived   {len(ids):,}   ({again} redeliveries recognised)")
    console.print(f"accepted   {len(ids) - len(missing):,}")
    console.print(f"missing    {len(missing)}   doubled {len(doubled)}   held {held}")
    console.print(f"throttled  {state['throttled']}   rules broken {_violations(state)}")
    refused = _platforms(console, platforms)
    for one in platforms:
        lane = app.runtimes[one.demo_platform.source].events.lane
        latencies = await app.store.reports.latencies(lane.id, 100_000)
        if latencies:
            middle, late = _quantiles(latencies)
            console.print(
                f"{one.demo_platform.title}: receipt → accepted: "
                f"median {middle:.0f} ms, p99 {late} ms"
            )
    write_latencies = await app.store.reports.write_latencies(100_000)
    if write_latencies:
        middle, late = _quantiles(write_latencies)
        console.print(f"receipt → profile accepted: median {middle:.0f} ms, p99 {late} ms")
    console.print(f"profiles   {state['profiles']} at Klaviyo, {len(stale)} not as at the platform")
    faults = missing or doubled or stale or refused or state["throttled"] or state["violations"]
    well = bool(ids) and not faults
    console.print("all well" if well else "NOT well")
    return 0 if well else 1


def _platforms(console: Console, platforms: Sequence[RunningPlatform]) -> int:
    """Says what the platforms had to refuse of ours, and how much it was."""
    refused = 0
    for one in platforms:
        state = one.double.state()
        refused += state["throttled"] + sum(state["violations"].values())
        console.print(
            f"{one.demo_platform.title}: throttled {state['throttled']}, "
            f"rules broken {_violations(state)}"
        )
    return refused


def _stale_profiles(klaviyo: KlaviyoSandbox, one: RunningPlatform) -> list[str]:
    """Addresses that were told a balance at Klaviyo which is not what the platform says."""
    stale = []
    for person in one.double.people:
        profile = klaviyo.profile(person.email)
        if profile is None:
            continue
        fields = profile["properties"]
        if (
            one.demo_platform.balance in fields
            and fields[one.demo_platform.balance] != person.balance
        ):
            stale.append(person.email)
    return stale


def _quantiles(millis: Sequence[int]) -> tuple[float, int]:
    """Median and 99th percentile."""
    ordered = sorted(millis)
    return statistics.median(ordered), ordered[min(len(ordered) - 1, round(len(ordered) * 0.99))]


def _violations(state: Mapping[str, Any]) -> str:
    broken = state["violations"]
    return ", ".join(f"{name} {count}" for name, count in broken.items()) or "none"
