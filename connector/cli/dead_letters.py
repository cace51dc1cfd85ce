"""`connector dead-letters`: what died or is held, and what to do with it."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from connector.cli import session
from connector.cli.format import format_time

if TYPE_CHECKING:
    from connector.ports import DeadLetter, DeadLetterDetail

app = typer.Typer(no_args_is_help=True, help="Records that died or wait for somebody.")


@app.command("list")
def list_(
    context: typer.Context,
    cause: Annotated[str | None, typer.Option(help="Only this problem code.")] = None,
    connection: Annotated[str | None, typer.Option(help="Only this connection.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for scripts.")] = False,
) -> None:
    """By cause, then one by one, newest first."""
    groups, found = session.run(_find(session.read(context.obj), cause, connection, limit))
    if as_json:
        print(json.dumps([_plain(dead_letter) for dead_letter in found], indent=2))
        return
    for name, state, problem, meaning, count in groups:
        print(f"{count:>8,}  {name}  {state:<5} {problem:<5} {meaning}")
    for x in found:
        when = format_time(x.received_at)
        print(f"{x.id:>8}  {when}  {x.connection}  {x.problem:<5} {x.name}  {x.detail}")


async def _find(
    config: Any, cause: str | None, connection: str | None, limit: int
) -> tuple[list[tuple[str, str, str, str, int]], list[DeadLetter]]:
    async with session.open_commands(config) as commands:
        status = await commands.status()
        groups = [
            (x["connection"], x["state"], x["problem"], x["meaning"], x["count"])
            for x in status["dead_letters"]
        ]
        return groups, list(await commands.dead_letters(cause, connection, limit))


def _plain(dead_letter: DeadLetter) -> dict[str, Any]:
    return dataclasses.asdict(dead_letter) | {"state": dead_letter.state.name.lower()}


@app.command()
def show(context: typer.Context, id: int) -> None:
    """One record whole. What was received, what went wrong, what Klaviyo answered."""
    found = session.run(_show(session.read(context.obj), id))
    if found is None:
        typer.echo(f"no record {id}", err=True)
        raise typer.Exit(1)
    request = dataclasses.asdict(found.request) if found.request else None
    record = json.loads(found.entry.data)
    print(json.dumps(_plain(found.dead_letter) | {"record": record, "request": request}, indent=2))


async def _show(config: Any, id: int) -> DeadLetterDetail | None:
    async with session.open_commands(config) as commands:
        return await commands.dead_letter(id)


@app.command()
def retry(
    context: typer.Context,
    ids: Annotated[list[int] | None, typer.Argument(help="Records by their number.")] = None,
    cause: Annotated[str | None, typer.Option(help="All of one problem code.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
    detach: session.Detach = False,
) -> None:
    """Put records back in line. Their unique ids stay the same, so none can double; what has no
    address goes on waiting for one."""
    if not (ids or cause or every):
        raise typer.BadParameter("name records, a --cause, or --all")
    args = {"ids": ids or [], "cause": cause, "all": every}
    session.follow(context.obj, "retry", args, detach=detach)


@app.command()
def discard(
    context: typer.Context,
    ids: Annotated[list[int], typer.Argument(help="Records by their number.")],
    reason: Annotated[str, typer.Option(help="Why, for whoever looks later.")] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    detach: session.Detach = False,
) -> None:
    """Give records up for good."""
    if not yes:
        typer.confirm(f"Discard {len(ids)} record(s) for good?", abort=True, err=True)
    session.follow(context.obj, "discard", {"ids": ids, "reason": reason}, detach=detach)
