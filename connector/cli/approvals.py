"""`connector approvals`: what waits for a person's yes, and the answer."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from connector.cli import session
from connector.cli.format import format_time

if TYPE_CHECKING:
    from connector.config import Config

app = typer.Typer(no_args_is_help=True, help="Questions that wait for a person.")


@app.command("list")
def list_(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for scripts.")] = False,
) -> None:
    """What waits, oldest first: what it is about and what would happen."""
    found = session.run(_find(session.read(context.obj)))
    if as_json:
        print(json.dumps(found, indent=2))
        return
    for x in found:
        when = format_time(x["since"])
        print(f"{x['id']:>6}  {when}  {x['connection']}  {x['what']} of {x['subject']}")
        for key, value in x["detail"].items():
            print(f"        {key.replace('_', ' ')}: {_format(value)}")


def _format(value: Any) -> str:
    return ", ".join(str(x) for x in value) if isinstance(value, list) else str(value)


async def _find(config: Config) -> list[dict[str, Any]]:
    async with session.open_commands(config) as commands:
        found: list[dict[str, Any]] = (await commands.status())["approvals"]
        return found


@app.command()
def approve(context: typer.Context, id: int, detach: session.Detach = False) -> None:
    """Let it happen."""
    args = {"id": id, "by": session.current_user()}
    session.follow(context.obj, "approve", args, detach=detach)


@app.command()
def reject(context: typer.Context, id: int, detach: session.Detach = False) -> None:
    """It does not happen, and nothing is lost."""
    args = {"id": id, "by": session.current_user()}
    session.follow(context.obj, "reject", args, detach=detach)
