"""Commands that run the daemon or the sandbox, or control a running daemon."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from connector.cli import session

if TYPE_CHECKING:
    import asyncio

    from connector.app.daemon import App


_ALL_LEASES_WITHIN = 30.0
"""Seconds in which `run --until-idle` must get the leases of all connections."""
DEMO_RATE = 4.0
"""Events per second. Each may write a profile, and the quota carries 7.5 a second."""


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
        bool, typer.Option(help="Stop when nothing is ready, in flight or due within 60 s.")
    ] = False,
) -> None:
    """Run the daemon until SIGTERM. It receives webhooks, reads platforms and delivers. With
    --until-idle the exit code is 1 if a lane or account is paused or a poll failed, one line each
    on stdout."""
    config = session.read(context.obj)
    blocked = session.run(_run(config, context.obj, until_idle))
    for line in blocked:
        print(line)
    raise typer.Exit(1 if blocked else 0)


def _prepare_pages() -> None:
    from connector.app.collector import freeze_heap
    from connector.app.listeners import prepare_pages

    prepare_pages()
    # As many objects as the start has made, which stay like those.
    freeze_heap()


async def _run(config: Any, path: Path | None, until_idle: bool) -> list[str]:
    import asyncio

    from connector.app.collector import freeze_heap
    from connector.app.configuration import read_config
    from connector.app.daemon import App

    app = App(config, reread=lambda: read_config(path, complete=False))
    stop, reread = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, reread.set)
    try:
        # What another replica works on does not become idle here.
        patience = _ALL_LEASES_WITHIN if until_idle else None
        starting = asyncio.create_task(app.start(lease_timeout=patience))
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait({starting, stopped}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if not starting.done():
            starting.cancel()  # stopped while waiting for the store or the lease
            await asyncio.gather(starting, return_exceptions=True)
            await app.stop()
            return []
        starting.result()
        # Before lanes have worked: what they leave behind would stay too.
        freeze_heap()
    except Exception:  # also a library that cannot be imported
        await app.stop()  # gives back what the start has taken
        raise
    reading = asyncio.create_task(_reload_on_signal(app, reread))
    if not until_idle:
        loop.run_in_executor(None, _prepare_pages)
    try:
        if until_idle:
            idle = asyncio.create_task(app.until_idle())
            stopped = asyncio.create_task(stop.wait())
            await asyncio.wait({idle, stopped}, return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()
            if not idle.done():
                return []
            await (
                app.apply_retention()
            )  # no daemon applies it where only `run --until-idle` is used
            return idle.result()
        await stop.wait()
        return []
    finally:
        reading.cancel()
        await app.stop()


async def _reload_on_signal(app: App, requested: asyncio.Event) -> None:
    """SIGHUP runs the command `reload`."""
    while True:
        await requested.wait()
        requested.clear()
        await app.commands.execute("reload", {})


def demo(
    port: Annotated[int, typer.Option(help="Port of the connector; 0: any free port.")] = 0,
    seconds: Annotated[
        str, typer.Option("--for", help="Duration, such as 30s. Default: until Ctrl-C.")
    ] = "",
    rate: Annotated[float, typer.Option(help="Events per second.")] = DEMO_RATE,
) -> None:
    """Run the whole product against sandbox platforms. No account is needed; loopback only."""
    from connector.cli.demo import demonstrate

    length = session.seconds(seconds) if seconds else None
    raise typer.Exit(session.run(demonstrate(port, length, rate)))


def sandbox(
    klaviyo_port: Annotated[int, typer.Option(help="Port of the Klaviyo sandbox.")] = 8791,
    jericommerce_port: Annotated[
        int, typer.Option(help="Port of the JeriCommerce sandbox; the others use the next ports.")
    ] = 8792,
    source: Annotated[
        str, typer.Option(help="The platform that sends the traffic.")
    ] = "jericommerce",
    traffic: Annotated[
        str, typer.Option(help="URL to post events to; without it there is no traffic.")
    ] = "",
    rate: Annotated[float, typer.Option(help="Events per second.")] = 20.0,
) -> None:
    """Run the sandbox platforms on loopback, until Ctrl-C."""
    session.run(_sandbox(klaviyo_port, jericommerce_port, source, traffic, rate))


async def _sandbox(klaviyo_port: int, first_port: int, source: str, url: str, rate: float) -> None:
    import asyncio

    from connector.domain.errors import ConfigError
    from connector.sandbox import KlaviyoSandbox, Traffic, serve
    from connector.sandbox.demo_platforms import DEMO_PLATFORMS

    doubles = {demo_platform.source: demo_platform.make() for demo_platform in DEMO_PLATFORMS}
    if source not in doubles:
        raise typer.BadParameter(
            f"no platform {source!r}; available: {', '.join(doubles)}", param_hint="--source"
        )
    apps = {"klaviyo": (KlaviyoSandbox().app, klaviyo_port)}
    apps |= {name: (doubles[name].app, first_port + n) for n, name in enumerate(doubles)}
    try:
        servers = await serve(apps)
    except OSError as error:
        options = "--klaviyo-port and --jericommerce-port choose others"
        raise ConfigError([f"{error.strerror or error}; {options}"]) from None
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
    ready: Annotated[bool, typer.Option(help="Check whether webhooks are accepted.")] = False,
) -> None:
    """Check the running daemon (for HEALTHCHECK and probes). Exit code 0 when it is healthy."""
    from connector.net import loopback

    server = session.read_server(context.obj)
    answer = loopback.get(server.host, server.port, "/readyz" if ready else "/livez")
    no_answer = (
        f"no answer on {server.host} port {server.port}; `connector status` says whether the "
        "daemon runs"
    )
    print(answer.body.decode(errors="replace").strip() if answer else no_answer)
    raise typer.Exit(0 if answer and answer.status == 200 else 1)


def pause(
    context: typer.Context, connection: session.ConnectionName, detach: session.Detach = False
) -> None:
    """Pause a connection's deliveries. Webhooks are still accepted and stored."""
    session.follow(context.obj, "pause", {"connection": connection}, detach=detach)


def resume(
    context: typer.Context, connection: session.ConnectionName, detach: session.Detach = False
) -> None:
    """Resume a connection's deliveries, whatever stopped them."""
    session.follow(context.obj, "resume", {"connection": connection}, detach=detach)


def reload(context: typer.Context, detach: session.Detach = False) -> None:
    """Make the running daemon reload its configuration. An invalid one changes nothing."""
    session.follow(context.obj, "reload", {}, detach=detach)
