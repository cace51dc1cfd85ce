"""`connector notify`: notifications about problems that need a person."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from connector.cli import session

if TYPE_CHECKING:
    from connector.config import Config
    from connector.service.notify import Target

app = typer.Typer(no_args_is_help=True, help="Notifications about problems that need a person.")


@app.callback()
def options() -> None:
    """Keeps this a group although it has one command."""


@app.command()
def test(context: typer.Context) -> None:
    """Send a test notification to each [[notify]]. Exit code 1 if one fails."""
    results = session.run(_test(session.read(context.obj)))
    if not results:
        typer.echo("no [[notify]] in the configuration has a url: nothing to test", err=True)
        raise typer.Exit(1)
    for target, status, fault in results:
        print(f"{target}: {'FAILED' if fault else 'ok'}, {fault or f'HTTP {status}'}")
    raise typer.Exit(1 if any(fault for _, _, fault in results) else 0)


async def _test(config: Config) -> list[tuple[Target, int, str]]:
    from connector.app.notifications import notification_poster
    from connector.runtime.clock import SystemClock
    from connector.service import notify

    clock = SystemClock()
    return await notify.test(
        notify.targets(config.notify),
        notification_poster(config, clock),
        source=config.server.public_url,
        now=clock.now(),
    )
