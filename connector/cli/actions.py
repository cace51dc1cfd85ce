"""`connector actions`: what was asked of a platform, and what a person says became of it."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from connector.cli import session

if TYPE_CHECKING:
    from connector.config import Config
    from connector.ports import Deed

app = typer.Typer(no_args_is_help=True, help="Adjustments and pushes that flows asked for.")

Number = Annotated[int, typer.Argument(help="The action's number.")]


@app.command("list")
def list_(
    context: typer.Context,
    connection: Annotated[str | None, typer.Option(help="Of this connection only.")] = None,
    stuck: Annotated[bool, typer.Option(help="Only uncertain and held ones.")] = False,
    limit: Annotated[int, typer.Option(help="How many at most.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for scripts.")] = False,
) -> None:
    """Uncertain and held ones first, then the newest. Shows whom they are for."""
    found = session.run(_find(session.read(context.obj), connection, stuck, limit))
    if as_json:
        print(json.dumps([asdict(deed) for deed in found], indent=2))
        return
    for deed in found:
        _tell(deed)


async def _find(config: Config, connection: str | None, stuck: bool, limit: int) -> list[Deed]:
    async with session.operator(config) as who:
        return list(await who.deeds(connection, stuck, limit))


def _tell(deed: Deed) -> None:
    what = f"{deed.name} {deed.amount:+d}" if deed.amount else deed.name
    when = _time(deed.received_at)
    state = "looked up" if deed.state == "uncertain" and not deed.settled_at else deed.state
    print(f"{deed.id:>6}  {when}  {state:<10} {deed.connection}  {what}  {deed.who}  {deed.reason}")
    if deed.problem:
        print(f"        {deed.problem} {deed.detail}")
    if deed.state == "uncertain" and deed.sent_at:
        twice = "twice, last" if deed.resent else "once,"
        print(f"        sent {twice} {_time(deed.sent_at)}, reference {deed.ours}")
    if deed.evidence:
        said: dict[str, Any] = json.loads(deed.evidence)
        print(f"        a late answer came {_time(said['at'])}: {said['answer']}")
    if deed.decided_by:
        print(f"        decided by {deed.decided_by}")


def _time(millis: int) -> str:
    return datetime.fromtimestamp(millis / 1000, UTC).isoformat(timespec="seconds")[:19] + "Z"


@app.command()
def applied(context: typer.Context, id: Number) -> None:
    """An uncertain one: you looked at the platform, and it is there."""
    session.follow(context.obj, "applied", {"id": id, "by": session.who()})


@app.command()
def again(context: typer.Context, id: Number) -> None:
    """Send it: it is not at the platform, or the cap shall not hold it."""
    session.follow(context.obj, "again", {"id": id, "by": session.who()})


@app.command()
def refuse(context: typer.Context, id: Number) -> None:
    """It shall not be sent (again)."""
    session.follow(context.obj, "refuse", {"id": id, "by": session.who()})
