"""`connector actions`: list actions, and decide about ambiguous and held ones."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from connector.cli import session
from connector.cli.format import format_time
from connector.domain.lanes import MAX_ID
from connector.runtime.printable import one_line

if TYPE_CHECKING:
    from connector.config import Config
    from connector.ports import ActionView

app = typer.Typer(no_args_is_help=True, help="Points adjustments and pushes requested by flows.")

Number = Annotated[int, typer.Argument(min=1, max=MAX_ID, help="The action's number in the list.")]


@app.command("list")
def list_(
    context: typer.Context,
    connection: Annotated[str | None, typer.Option(help="Only this connection.")] = None,
    stuck: Annotated[bool, typer.Option(help="Only uncertain and held actions.")] = False,
    limit: Annotated[int, typer.Option(help="Maximum number of lines.")] = 50,
    as_json: session.AsJson = False,
) -> None:
    """List actions. Uncertain and held ones first, then the newest; with their person."""
    config = session.read_any(context.obj)
    if connection is not None:
        session.known_name(config, connection)
    found = session.run(_find(config, connection, stuck, limit))
    if as_json:
        print(json.dumps([asdict(action) for action in found], indent=2))
        return
    if not found:
        print("nothing waits: no action is uncertain or held" if stuck else "no action yet")
    for action in found:
        _print_action(action)


async def _find(
    config: Config, connection: str | None, stuck: bool, limit: int
) -> list[ActionView]:
    async with session.open_commands(config) as commands:
        return list(await commands.actions(connection, stuck, limit))


def _print_action(action: ActionView) -> None:
    what = f"{action.name} {action.amount:+d}" if action.amount else action.name
    when = format_time(action.received_at)
    state = "looked up" if action.state == "uncertain" and not action.settled_at else action.state
    line = (
        f"{action.id:>6}  {when}  {state:<10} {action.connection}  {what}  "
        f"{action.person}  {action.reason}"
    )
    print(one_line(line))
    if action.problem:
        print(one_line(f"        {action.problem} {action.detail}"))
    if action.state == "uncertain" and action.sent_at:
        twice = "twice, last" if action.resent else "once,"
        print(f"        sent {twice} {format_time(action.sent_at)}, reference {action.ref}")
    if action.evidence:
        late_answer: dict[str, Any] = json.loads(action.evidence)
        answered_at = format_time(late_answer["at"])
        print(one_line(f"        late response at {answered_at}: {late_answer['answer']}"))
    if action.decided_by:
        print(f"        decided by {action.decided_by}")


@app.command()
def applied(context: typer.Context, id: Number) -> None:
    """Mark an uncertain action as applied. Check at the platform first."""
    session.follow(context.obj, "applied", {"id": id, "by": session.current_user()})


@app.command()
def again(context: typer.Context, id: Number) -> None:
    """Send an action again. It was not applied, or it is released from a cap."""
    session.follow(context.obj, "again", {"id": id, "by": session.current_user()})


@app.command()
def refuse(context: typer.Context, id: Number) -> None:
    """Refuse an action: it is not sent (again)."""
    session.follow(context.obj, "refuse", {"id": id, "by": session.current_user()})
