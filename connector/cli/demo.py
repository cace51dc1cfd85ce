"""`connector demo`: the whole product against sandbox platforms, on loopback only."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shutil
import signal
import socket
import statistics
import sys
import tempfile
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.live import Live

from connector.app.configuration import read_config
from connector.app.daemon import App
from connector.cli import demo_tour, demo_view, terminal
from connector.cli.demo_panel import Panel
from connector.cli.demo_shop import Shop, both_accounts
from connector.config import Config, Connection
from connector.config.shipped import shipped_mappings
from connector.domain.outcomes import Request
from connector.domain.wording import counted
from connector.platforms import registry
from connector.runtime import log
from connector.sandbox import KlaviyoSandbox, Traffic, Webhook, serve
from connector.sandbox.demo_platforms import DEMO_PLATFORMS, DemoPlatform, PlatformSandbox
from connector.sandbox.jericommerce.server import JeriCommerceSandbox
from connector.sandbox.serve import HOST

_CONFIG = """\
[store]
url = "sqlite:///state/demo.db"

[server]
port = {port}
public_url = "http://127.0.0.1:{port}"
shutdown_timeout = "3s"    # nothing of the demo is needed after it

[delivery]
probe_every = "5s"     # how soon a lane notices that Klaviyo is well again

[log]
level = "warning"
"""
_CONNECTION = """
[[connections]]
name = "{source}"
source = "{source}"
mapping = "mappings/{mapping}.toml"

[connections.settings]
{settings}
[connections.actions]
secret = "{secret}"
"""
_ENV = """\
KLAVIYO_BASE_URL={klaviyo}
KLAVIYO_PRIVATE_KEY={key}
CONNECTOR_ENCRYPTION_KEY={encryption_key}
"""
_KEY = "pk_sandbox"
_SECRET = "demo_flow_secret_of_{source}"
_STRICT = "tour"
"""The name of the mapping that the tour needs."""


@dataclass(frozen=True, slots=True)
class RunningPlatform:
    """A platform of the demo, its sandbox and its traffic."""

    demo_platform: DemoPlatform
    double: PlatformSandbox
    traffic: Traffic
    pulse: demo_view.Pulse = field(default_factory=demo_view.Pulse)


async def demonstrate(port: int, seconds: float | None, rate: float) -> int:
    """Run until Ctrl-C or for `seconds`, then print a summary.

    Returns the exit code: 0 if every received event was recorded once and no rule was broken.
    """
    folder = Path(tempfile.mkdtemp(prefix="connector-demo-"))
    console = terminal.console(soft_wrap=not sys.stdout.isatty())
    klaviyo, shop = KlaviyoSandbox(), Shop()
    print("starting the sandboxes of Klaviyo and the platforms …", file=sys.stderr)
    doubles = {demo_platform.source: demo_platform.make() for demo_platform in DEMO_PLATFORMS}
    servers = await serve(
        {"klaviyo": (both_accounts(klaviyo.app, shop), 0), "shop": (shop.app, 0)}
        | {name: (double.app, 0) for name, double in doubles.items()}
    )
    shutil.copytree(shipped_mappings(), folder / "mappings")
    (folder / "mappings" / f"{_STRICT}.toml").write_text(demo_tour.MAPPING)
    path = _write(folder, port or _free_port(), servers.url)
    config = _read(path)
    log_file = (folder / "demo.log").open("a")
    log.configure(level="warning", stream=log_file)
    app = App(config, reread=lambda: _read(path, complete=False))
    [person, *_] = doubles[demo_tour.SOURCE].people
    steps = demo_tour.steps(person.email)
    panel = Panel(klaviyo, lambda: app.commands.latest_status(), shop, servers.url("shop"), steps)
    try:
        print("starting the connector: store, lease, connections …", file=sys.stderr)
        await app.start()
        url = panel.console = f"http://127.0.0.1:{app.port}"
        await servers.start("panel", panel.app, 0)
        shares = sum(demo_platform.share for demo_platform in DEMO_PLATFORMS)
        platforms = [
            RunningPlatform(
                demo_platform,
                doubles[demo_platform.source],
                Traffic(
                    doubles[demo_platform.source],
                    f"{url}/webhooks/{demo_platform.source}",
                    rate=rate * demo_platform.share / shares,
                    id_of=_unique_id(config.connection(demo_platform.source)),
                ),
            )
            for demo_platform in DEMO_PLATFORMS
        ]
        await _prepare_tour(doubles[demo_tour.SOURCE], url)
        tour = servers.url("panel")
        await _watch(console, app, klaviyo, platforms, (url, tour), folder, seconds)
        await shop.aclose()
        panel.heal()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(app.until_idle(), 30)
        return await print_summary(console, app, klaviyo, platforms)
    finally:
        await shop.aclose()
        await app.stop()
        await servers.aclose()
        log.configure(level="warning")
        log_file.close()
        shutil.rmtree(folder, ignore_errors=True)


async def _prepare_tour(double: PlatformSandbox, url: str) -> None:
    assert isinstance(double, JeriCommerceSandbox)
    await demo_tour.prepare(double, url, _SECRET.format(source=demo_tour.SOURCE))


def _write(folder: Path, port: int, url: Callable[[str], str]) -> Path:
    """Write connector.toml: one connection per platform, all to one Klaviyo account."""
    text = _CONFIG.format(port=port)
    for demo_platform in DEMO_PLATFORMS:
        settings = demo_platform.settings.format(url=url(demo_platform.source))
        text += _CONNECTION.format(
            source=demo_platform.source,
            mapping=_STRICT if demo_platform.source == demo_tour.SOURCE else demo_platform.source,
            settings=settings,
            secret=_SECRET.format(source=demo_platform.source),
        )
    path = folder / "connector.toml"
    path.write_text(text)
    env = _ENV.format(
        klaviyo=url("klaviyo"),
        key=_KEY,
        encryption_key=urlsafe_b64encode(secrets.token_bytes(32)).decode(),
    )
    (folder / ".env").write_text(env)
    return path


def _read(path: Path, *, complete: bool = True) -> Config:
    """The demo's configuration. The environment of the process has no part in it: it may name a
    real account."""
    return read_config(path, environ={}, complete=complete)


def _free_port() -> int:
    """The webhooks' addresses name the port before the connector listens."""
    with socket.socket() as found:
        found.bind((HOST, 0))
        return int(found.getsockname()[1])


def _unique_id(connection: Connection) -> Callable[[Webhook], str]:
    """Maps a webhook to the unique_id that its event has at Klaviyo; "" if it has no event."""
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
    urls: tuple[str, str],
    folder: Path,
    seconds: float | None,
) -> None:
    """Send traffic and show progress, for `seconds` or until Ctrl-C. `urls`: of the connector and
    of the tour."""
    url, tour = urls
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if seconds is not None:
        loop.call_later(seconds, stop.set)
    names = ", ".join(platform.demo_platform.title for platform in platforms)
    console.print(f"connector demo: sandboxes of {names} → connector ({url}) → Klaviyo sandbox")
    console.print(f"console: {url}/")
    console.print(f"tour:    {tour}/   what to try, a shop to connect, Klaviyo to break")
    console.print(f"metrics: {url}/metrics   files: {folder}   stop: Ctrl-C\n")
    sending = [asyncio.create_task(platform.traffic.run(stop)) for platform in platforms]
    started_at = loop.time()
    with Live(console=console, refresh_per_second=4, transient=not console.is_terminal) as live:
        while not stop.is_set():
            live.update(await render_view(app, klaviyo, platforms, loop.time() - started_at))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), 0.5)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.remove_signal_handler(number)
    await asyncio.gather(*sending)


async def render_view(
    app: App, klaviyo: KlaviyoSandbox, platforms: Sequence[RunningPlatform], elapsed: float
) -> RenderableType:
    found = await app.commands.latest_status()
    state, recorded = klaviyo.state(), klaviyo.unique_ids().keys()
    cards = []
    for platform in platforms:
        connection = found.connections[platform.demo_platform.source]
        received = platform.traffic.acknowledged
        platform.pulse.add(elapsed, len(received))
        known = [p for p in platform.double.people if klaviyo.profile(p.email) is not None]
        cards.append(
            demo_view.Card(
                title=platform.demo_platform.title,
                received=len(received),
                accepted=len(received & recorded),
                waiting=sum(lane.ready + lane.in_flight for lane in connection.lanes),
                profiles=len(known) - len(_stale_profiles(klaviyo, platform)),
                people=len(known),
                members=sum(link.there for link in connection.audiences) or None,
                pulse=platform.pulse.line(),
            )
        )
    return demo_view.screen(
        cards,
        elapsed=elapsed,
        events=int(str(state["events"])),
        profiles=int(str(state["profiles"])),
        quota=[use for c in found.connections.values() for use in c.quota],
        failed=await _last_failure(app),
    )


async def _last_failure(app: App) -> Request | None:
    for _, _, request in await app.store.reports.recent_requests(50):
        if request.problem:
            return request
    return None


async def print_summary(
    console: Console, app: App, klaviyo: KlaviyoSandbox, platforms: Sequence[RunningPlatform]
) -> int:
    """Compare the acknowledged events with what the Klaviyo sandbox recorded. Returns the exit
    code."""
    counts = klaviyo.unique_ids()
    ids = set().union(*(platform.traffic.acknowledged for platform in platforms)) - {""}
    missing = [id for id in ids if counts.get(id, 0) == 0]
    duplicated = [id for id in ids if counts.get(id, 0) > 1]
    held = sum(b.held for b in await app.store.reports.backlog())
    state = klaviyo.state()
    stale = [email for platform in platforms for email in _stale_profiles(klaviyo, platform)]
    redeliveries = sum(platform.traffic.redeliveries for platform in platforms)
    repeats = counted(redeliveries, "redelivery", "redeliveries")
    console.print(f"\nreceived   {len(ids):,}   ({repeats} recognised)")
    console.print(f"accepted   {len(ids) - len(missing):,}")
    console.print(f"missing    {len(missing)}   duplicated {len(duplicated)}   held {held}")
    console.print(f"throttled  {state['throttled']}   rules broken {_violations(state)}")
    rejected = _print_platforms(console, platforms)
    for platform in platforms:
        lane = app.runtimes[platform.demo_platform.source].events.lane
        latencies = await app.store.reports.latencies(lane.id, 100_000)
        if latencies:
            median, p99 = _quantiles(latencies)
            console.print(
                f"{platform.demo_platform.title}: receipt → accepted: "
                f"median {median:.0f} ms, p99 {p99} ms"
            )
    write_latencies = await app.store.reports.write_latencies(100_000)
    if write_latencies:
        median, p99 = _quantiles(write_latencies)
        console.print(f"receipt → profile accepted: median {median:.0f} ms, p99 {p99} ms")
    console.print(
        f"profiles   {state['profiles']} at Klaviyo, {len(stale)} different from the platform"
    )
    faults = missing or duplicated or stale or rejected or state["throttled"] or state["violations"]
    passed = bool(ids) and not faults
    console.print("all checks passed" if passed else "CHECKS FAILED")
    return 0 if passed else 1


def _print_platforms(console: Console, platforms: Sequence[RunningPlatform]) -> int:
    """Print what the platforms rejected; returns the number of rejected requests."""
    rejected = 0
    for platform in platforms:
        state = platform.double.state()
        rejected += state["throttled"] + sum(state["violations"].values())
        console.print(
            f"{platform.demo_platform.title}: throttled {state['throttled']}, "
            f"rules broken {_violations(state)}"
        )
    return rejected


def _stale_profiles(klaviyo: KlaviyoSandbox, platform: RunningPlatform) -> list[str]:
    """E-mail addresses whose balance at Klaviyo differs from the platform's."""
    stale = []
    for person in platform.double.people:
        profile = klaviyo.profile(person.email)
        if profile is None:
            continue
        fields = profile["properties"]
        if (
            platform.demo_platform.balance in fields
            and fields[platform.demo_platform.balance] != person.balance
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
