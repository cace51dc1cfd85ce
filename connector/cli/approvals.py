"""`connector approvals`: list what waits for approval, approve or reject it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from connector.cli import session
from connector.cli.format import format_time
from connector.domain.lanes import MAX_ID
from connector.runtime.printable import one_line

if TYPE_CHECKING:
    from connector.config import Config

Number = Annotated[
    int, typer.Argument(min=1, max=MAX_ID, help="The number of the approval in the list.")
]

app = typer.Typer(no_args_is_help=True, help="Changes that wait for a person's approval.")


@app.command("list")
def list_(
    context: typer.Context,
    as_json: session.AsJson = False,
) -> None:
    """List what waits for approval. Oldest first, with what it would change.

    An approval is valid for exactly what is listed: account, target, flows and number of people.
    """
    found = session.run(_find(session.read_any(context.obj)))
    if as_json:
        print(json.dumps(found, indent=2))
        return
    if not found:
        print("nothing waits for approval")
    for x in found:
        when = format_time(x["since"])
        print(one_line(f"{x['id']:>6}  {when}  {x['connection']}  {x['what']} of {x['subject']}"))
        for key, value in x["detail"].items():
            print(one_line(f"        {key.replace('_', ' ')}: {_format(value)}"))


def _format(value: Any) -> str:
    return ", ".join(str(x) for x in value) if isinstance(value, list) else str(value)


async def _find(config: Config) -> list[dict[str, Any]]:
    async with session.open_commands(config) as commands:
        return [x.model_dump() for x in (await commands.status()).approvals]


@app.command()
def approve(context: typer.Context, id: Number, detach: session.Detach = False) -> None:
    """Approve: the change is carried out."""
    args = {"id": id, "by": session.current_user()}
    session.follow(context.obj, "approve", args, detach=detach)


@app.command()
def reject(context: typer.Context, id: Number, detach: session.Detach = False) -> None:
    """Reject: the change is not carried out. Nothing is lost."""
    args = {"id": id, "by": session.current_user()}
    session.follow(context.obj, "reject", args, detach=detach)
