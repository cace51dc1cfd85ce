"""`connector connect` and `connector disconnect`: the Klaviyo account of a connection by OAuth."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from connector.cli import session

if TYPE_CHECKING:
    from connector.config import Config
    from connector.service.oauth import OAuthService
    from connector.store.sql import SqlStore

_POLL_INTERVAL = 0.2


def register(app: typer.Typer) -> None:
    app.command()(connect)
    app.command()(disconnect)


def connect(
    context: typer.Context,
    connection: session.ConnectionName,
    wait: Annotated[str, typer.Option(help="How long to wait for the browser.")] = "15m",
) -> None:
    """Connect a Klaviyo account by OAuth. Prints an address to open in a browser and waits until
    access is granted there. Without a running daemon this command receives the answer itself."""
    config = session.read(context.obj)
    session.connection(config, connection)
    outcome = session.run(_connect(config, connection, session.seconds(wait)))
    if error := outcome.get("error"):
        print(error, file=sys.stderr)
        raise typer.Exit(1)
    print(f"connected {connection} to {outcome['account']} {outcome['account_name']}".rstrip())
    for scope, effect in outcome["missing_scopes"].items():
        print(f"scope {scope} was not granted: {effect}", file=sys.stderr)
    raise typer.Exit(0)


def disconnect(
    context: typer.Context,
    connection: session.ConnectionName,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
) -> None:
    """Disconnect a Klaviyo account. Revokes the tokens at Klaviyo, which removes the app there, and
    deletes them here. Deliveries wait until the connection is connected again. Asks for
    confirmation where stdin is a terminal."""
    config = session.read(context.obj)
    session.connection(config, connection)
    if not yes and sys.stdin.isatty():
        question = f"Disconnect {connection}, which removes the app at Klaviyo?"
        typer.confirm(question, abort=True, err=True)
    args = {"connection": connection}
    session.print_result(session.run(session.run_command(config, "disconnect", args)))


async def _connect(config: Config, name: str, timeout: float) -> dict[str, Any]:
    from connector.app.oauth import no_change, oauth_service
    from connector.runtime.clock import SystemClock
    from connector.store.sql import open_store

    store = await open_store(config.store.url, migrate=config.store.migrate)
    try:
        service = oauth_service(store, SystemClock(), lambda: config, no_change)
        since = SystemClock().now()
        address = await service.ticket(name, by=session.current_user())
        async with _listening(config, store, service):
            print("Open this address in a browser:", address, sep="\n", file=sys.stderr, flush=True)
            return await _outcome(service, name, since, timeout)
    finally:
        await store.aclose()


@asynccontextmanager
async def _listening(config: Config, store: SqlStore, service: OAuthService) -> AsyncIterator[None]:
    """Answers the browser here, unless a daemon does."""
    from connector.app.access import access_of, seal_of
    from connector.runtime.clock import SystemClock
    from connector.service import Commands
    from connector.web.oauth import OAuthApp
    from connector.web.protocol import Limits
    from connector.web.server import Server

    if await Commands(store, SystemClock()).holder() is not None:
        yield
        return
    clock = SystemClock()
    app, server = (
        OAuthApp(service, access_of(lambda: config, clock, seal_of(config, clock))),
        config.server,
    )
    limits = Limits(
        server.max_header, server.header_timeout, server.body_timeout, server.max_connections
    )
    listener = Server(app, server.host, server.port, grace=1.0, key="server.port", limits=limits)
    await listener.start()
    try:
        yield
    finally:
        await listener.stop()


async def _outcome(service: OAuthService, name: str, since: int, timeout: float) -> dict[str, Any]:
    import asyncio

    from connector.domain.lanes import Millis

    asked = False
    for _ in range(max(1, round(timeout / _POLL_INTERVAL))):
        found = await service.outcome(name, Millis(since))
        if found and "other_account" in found and not asked:
            asked = True
            print(
                f"Access was granted to {found['other_account']}, and {name} belongs to "
                f"{found['pinned']}: confirm this in the browser, or close its page.",
                file=sys.stderr,
            )
        elif found and "other_account" not in found:
            return dict(found)
        await asyncio.sleep(_POLL_INTERVAL)
    return {"error": f"no answer within {timeout:.0f} s; nothing has changed"}
