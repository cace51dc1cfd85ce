"""Commands that run something, or speak to what runs."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from connector.cli import session


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
    """The daemon: takes webhooks in and delivers, until SIGTERM."""
    config = session.read(context.obj)
    blocked = session.run(_run(config, context.obj, until_idle))
    for line in blocked:
        print(line)
    raise typer.Exit(1 if blocked else 0)


async def _run(config: Any, path: Path | None, until_idle: bool) -> list[str]:
    from connector.app import App, read_config, run_until_signal

    app = App(config, reread=lambda: read_config(path))
    stop, reread = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, reread.set)
    await app.start()
    try:
        if until_idle:
            idle = asyncio.create_task(app.until_idle())
            stopped = asyncio.create_task(stop.wait())
            await asyncio.wait({idle, stopped}, return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()
            return idle.result() if idle.done() else []
        await run_until_signal(app, stop, reread)
        return []
    finally:
        await app.stop()


def demo(
    port: Annotated[int, typer.Option(help="Where the connector listens; 0: any free port.")] = 0,
    seconds: Annotated[
        str, typer.Option("--for", help="How long, as in 30s; else until Ctrl-C.")
    ] = "",
    rate: Annotated[float, typer.Option(help="Events a second.")] = 20.0,
) -> None:
    """The whole product on this machine, with no account: sandbox platforms and live traffic."""
    from pydantic import TypeAdapter, ValidationError

    from connector.cli.demo import demonstrate
    from connector.config import Duration

    length: float | None = None
    if seconds:
        try:
            length = TypeAdapter(Duration).validate_python(seconds)
        except ValidationError:
            raise typer.BadParameter(f"{seconds!r} is no duration such as 30s") from None
    raise typer.Exit(session.run(demonstrate(port, length, rate)))


def sandbox(
    klaviyo_port: Annotated[int, typer.Option(help="Port of the Klaviyo sandbox.")] = 8791,
    jericommerce_port: Annotated[int, typer.Option(help="Port of JeriCommerce's.")] = 8792,
    traffic: Annotated[
        str, typer.Option(help="Address that events are posted to; none: no traffic.")
    ] = "",
    rate: Annotated[float, typer.Option(help="Events a second.")] = 20.0,
) -> None:
    """The sandbox platforms on loopback, until Ctrl-C."""
    session.run(_sandbox(klaviyo_port, jericommerce_port, traffic, rate))


async def _sandbox(klaviyo_port: int, jericommerce_port: int, url: str, rate: float) -> None:
    from connector.sandbox import JeriCommerceSandbox, KlaviyoSandbox, Traffic, serve

    klaviyo, jericommerce = KlaviyoSandbox(), JeriCommerceSandbox()
    servers = await serve(
        {
            "klaviyo": (klaviyo.app, klaviyo_port),
            "jericommerce": (jericommerce.app, jericommerce_port),
        }
    )
    for name, port in servers.ports.items():
        print(f"{name}: http://127.0.0.1:{port}", flush=True)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    if url:
        await Traffic(jericommerce, url, rate=rate).run(stop)
    await stop.wait()
    await servers.aclose()


def healthcheck(
    context: typer.Context,
    ready: Annotated[bool, typer.Option(help="Ask whether webhooks can be taken.")] = False,
) -> None:
    """Ask the running daemon how it is; exit 0 when it is well (for HEALTHCHECK and probes)."""
    from connector.app import read_config

    server = read_config(context.obj).server
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(server.host, server.host)
    said = session.run(_ask(host, server.port, "/readyz" if ready else "/livez"))
    print(said[1].strip())
    raise typer.Exit(0 if said[0] == 200 else 1)


async def _ask(host: str, port: int, path: str) -> tuple[int, str]:
    from connector.http import ask

    return await ask(f"http://{f'[{host}]' if ':' in host else host}:{port}{path}")


def _order(context: typer.Context, kind: str, **args: Any) -> None:
    done, result = session.run(session.order(session.read(context.obj), kind, args))
    print(", ".join(f"{key}: {value}" for key, value in result.items()), file=_out(done))
    raise typer.Exit(0 if done else 1)


def _out(done: bool) -> Any:
    return sys.stdout if done else sys.stderr


def pause(context: typer.Context, connection: str) -> None:
    """Stop a connection's deliveries; intake goes on."""
    _order(context, "pause", connection=connection)


def resume(context: typer.Context, connection: str) -> None:
    """Start a connection's deliveries again, whatever stopped them."""
    _order(context, "resume", connection=connection)


def reload(context: typer.Context) -> None:
    """Have the running daemon read its configuration again; a faulty one changes nothing."""
    _order(context, "reload")
