"""Commands that run something, or speak to what runs."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from connector.cli import session

if TYPE_CHECKING:
    from connector.app.daemon import App


def register(app: typer.Typer) -> None:
    app.command()(run)
    app.command()(demo)
    app.command()(sandbox)
    app.command()(healthcheck)
    app.command()(pause)
    app.command()(resume)
    app.command()(reload)


def run(
    context: typer.Context,
    until_idle: Annotated[
        bool, typer.Option(help="End when nothing is ready, in flight or due within a minute.")
    ] = False,
) -> None:
    """The daemon: takes webhooks in, delivers, until SIGTERM."""
    config = session.read(context.obj)
    blocked = session.run(_run(config, context.obj, until_idle))
    for line in blocked:
        print(line)
    raise typer.Exit(1 if blocked else 0)


async def _run(config: Any, path: Path | None, until_idle: bool) -> list[str]:
    from connector.app.daemon import App, freeze_heap, read_config
    from connector.domain.errors import ConfigError

    app = App(config, reread=lambda: read_config(path))
    stop, reread = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, reread.set)
    try:
        starting = asyncio.create_task(app.start())
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait({starting, stopped}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if not starting.done():
            starting.cancel()  # a stop while it waits for its store or its lease
            await asyncio.gather(starting, return_exceptions=True)
            await app.stop()
            return []
        starting.result()
        freeze_heap()
    except ConfigError:
        await app.stop()  # gives back what it has taken, the lease above all
        raise
    reading = asyncio.create_task(_reload_on_signal(app, reread))
    try:
        if until_idle:
            idle = asyncio.create_task(app.until_idle())
            stopped = asyncio.create_task(stop.wait())
            await asyncio.wait({idle, stopped}, return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()
            if not idle.done():
                return []
            await app.apply_retention()  # nobody else does, where a run is all there is
            return idle.result()
        await stop.wait()
        return []
    finally:
        reading.cancel()
        await app.stop()


async def _reload_on_signal(app: App, requested: asyncio.Event) -> None:
    """SIGHUP is the order `reload`."""
    while True:
        await requested.wait()
        requested.clear()
        await app.commands.execute("reload", {})


def demo(
    port: Annotated[int, typer.Option(help="Where the connector listens; 0: any free port.")] = 0,
    seconds: Annotated[
        str, typer.Option("--for", help="How long, as in 30s; else until Ctrl-C.")
    ] = "",
    rate: Annotated[float, typer.Option(help="Events a second.")] = 20.0,
) -> None:
    """The whole product on this machine, with no account. Sandbox platforms and live traffic."""
    from connector.cli.demo import demonstrate

    length = session.seconds(seconds) if seconds else None
    raise typer.Exit(session.run(demonstrate(port, length, rate)))


def sandbox(
    klaviyo_port: Annotated[int, typer.Option(help="Port of the Klaviyo sandbox.")] = 8791,
    jericommerce_port: Annotated[
        int, typer.Option(help="Port of JeriCommerce's; the other platforms' are the next ones.")
    ] = 8792,
    source: Annotated[
        str, typer.Option(help="The platform whose events are posted.")
    ] = "jericommerce",
    traffic: Annotated[
        str, typer.Option(help="Address that events are posted to; none: no traffic.")
    ] = "",
    rate: Annotated[float, typer.Option(help="Events a second.")] = 20.0,
) -> None:
    """The sandbox platforms on loopback, until Ctrl-C."""
    session.run(_sandbox(klaviyo_port, jericommerce_port, source, traffic, rate))


async def _sandbox(klaviyo_port: int, first_port: int, source: str, url: str, rate: float) -> None:
    from connector.sandbox import KlaviyoSandbox, Traffic, serve
    from connector.sandbox.demo_platforms import DEMO_PLATFORMS

    doubles = {demo_platform.source: demo_platform.make() for demo_platform in DEMO_PLATFORMS}
    if source not in doubles:
        raise typer.BadParameter(f"{source}: there are {', '.join(doubles)}", param_hint="--source")
    servers = await serve(
        {"klaviyo": (KlaviyoSandbox().app, klaviyo_port)}
        | {name: (doubles[name].app, first_port + n) for n, name in enumerate(doubles)}
    )
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    for name, port in servers.ports.items():
        print(f"{name}: http://127.0.0.1:{port}", flush=True)
    if url:
        await Traffic(doubles[source], url, rate=rate).run(stop)
    await stop.wait()
    await servers.aclose()


def healthcheck(
    context: typer.Context,
    ready: Annotated[bool, typer.Option(help="Ask whether webhooks can be taken.")] = False,
) -> None:
    """Ask the running daemon how it is. Exit 0 when it is well (for HEALTHCHECK and probes)."""
    from connector.app.daemon import read_config

    server = read_config(context.obj).server
    response = session.run(session.fetch(server, "/readyz" if ready else "/livez"))
    print(response[1].strip())
    raise typer.Exit(0 if response[0] == 200 else 1)


def pause(context: typer.Context, connection: str, detach: session.Detach = False) -> None:
    """Stop a connection's deliveries; intake goes on."""
    session.follow(context.obj, "pause", {"connection": connection}, detach=detach)


def resume(context: typer.Context, connection: str, detach: session.Detach = False) -> None:
    """Start a connection's deliveries again. It does not matter what stopped them."""
    session.follow(context.obj, "resume", {"connection": connection}, detach=detach)


def reload(context: typer.Context, detach: session.Detach = False) -> None:
    """Have the running daemon read its configuration again. A faulty one changes nothing."""
    session.follow(context.obj, "reload", {}, detach=detach)
