"""`connector reconcile`: what Klaviyo holds, compared with what it confirmed."""

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
    connection: str,
    sample: Annotated[
        int | None, typer.Option(min=1, help="So many people and events; else everybody.")
    ] = None,
    fix: Annotated[bool, typer.Option(help="Tell again what differs.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    detach: session.Detach = False,
) -> None:
    """Read Klaviyo back and report drift. Ctrl-C stops following, not the work."""
    if fix and not yes:
        typer.confirm("Tell Klaviyo again what differs there?", abort=True, err=True)
    config = session.read(context.obj)
    args = {"connection": connection, "sample": sample, "fix": fix}
    if detach and session.run(session.is_running(config)):
        session.follow(context.obj, "reconcile", args, detach=True)
    session.print_result(session.run(_execute(config, args)))


async def _execute(config: Config, args: dict[str, Any]) -> tuple[bool, Mapping[str, Any]]:
    async with session.executor(config, timeout=_TIMEOUT) as execute:
        return await execute("reconcile", args)
