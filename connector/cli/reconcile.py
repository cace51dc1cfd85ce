"""`connector reconcile`: compare what Klaviyo has with what was confirmed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from connector.cli import session

if TYPE_CHECKING:
    from connector.config import Config

_TIMEOUT = 86_400.0


def register(app: typer.Typer) -> None:
    app.command()(reconcile)


def reconcile(
    context: typer.Context,
    connection: session.ConnectionName,
    sample: Annotated[
        int | None, typer.Option(min=1, help="Compare this many people and events. Default: all.")
    ] = None,
    fix: Annotated[bool, typer.Option(help="Send again what differs.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    detach: session.Detach = False,
) -> None:
    """Read back from Klaviyo and report drift. Ctrl-C stops following, not the work."""
    if fix and not yes:
        typer.confirm("Overwrite at Klaviyo what differs there?", abort=True, err=True)
    config = session.read(context.obj)
    session.connection(config, connection)
    args = {"connection": connection, "sample": sample, "fix": fix}
    if detach and session.run(session.is_running(config)):
        session.follow(context.obj, "reconcile", args, detach=True)
    session.print_result(session.run(_execute(config, args)))


async def _execute(config: Config, args: dict[str, Any]) -> tuple[bool, Mapping[str, Any]]:
    async with session.executor(config, timeout=_TIMEOUT) as execute:
        return await execute("reconcile", args)
