"""`connector dead-letters`: list, show, retry and discard dead and held records."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from connector.cli import session
from connector.cli.format import format_time
from connector.domain.lanes import MAX_ID
from connector.domain.wording import counted
from connector.runtime.printable import one_line

if TYPE_CHECKING:
    from connector.ports import DeadLetter, DeadLetterDetail
    from connector.service.status import DeadLetters

app = typer.Typer(no_args_is_help=True, help="Records that failed for good or are held.")


@app.command("list")
def list_(
    context: typer.Context,
    cause: Annotated[str | None, typer.Option(help="Only this problem code.")] = None,
    connection: Annotated[str | None, typer.Option(help="Only this connection.")] = None,
    limit: Annotated[int, typer.Option(help="Maximum number of records.")] = 50,
    as_json: session.AsJson = False,
) -> None:
    """List causes with counts, then records, newest first."""
    config = session.read_any(context.obj)
    if connection is not None:
        session.known_name(config, connection)
    if cause is not None:
        session.known_problem(cause)
    groups, found = session.run(_find(config, cause, connection, limit + 1))
    more = len(found) > limit
    found = found[:limit]
    if as_json:
        print(json.dumps([_plain(dead_letter) for dead_letter in found], indent=2))
        return
    if not groups and not found:
        print("nothing waits: no record is dead or held")
    for x in groups:
        lane = f"{x.connection} {x.lane}"
        print(f"{x.count:>8,}  {lane}  {x.state:<5} {x.problem:<5} {x.meaning}")
    for record in found:
        when, where = format_time(record.received_at), record.connection
        line = (
            f"{record.id:>8}  {when}  {where}  {record.problem:<5} {record.name}  {record.detail}"
        )
        print(one_line(line))
    if more:
        print(f"and older ones: --limit shows more than {limit}")
    if any(x.kind != "event" for x in groups):
        print("`connector people list` shows whose profiles, reads and memberships these are")


async def _find(
    config: Any, cause: str | None, connection: str | None, limit: int
) -> tuple[list[DeadLetters], list[DeadLetter]]:
    from connector.service.dead_letters import filter_of

    async with session.open_commands(config) as commands:
        status = await commands.status()
        groups = [
            x
            for x in status.dead_letters
            if cause in (None, x.problem) and connection in (None, x.connection)
        ]
        which = filter_of({"cause": cause, "connection": connection})
        return groups, list(await commands.dead_letters(which, limit))


def _plain(dead_letter: DeadLetter) -> dict[str, Any]:
    return dataclasses.asdict(dead_letter) | {"state": dead_letter.state.name.lower()}


@app.command()
def show(
    context: typer.Context,
    id: Annotated[int, typer.Argument(min=1, max=MAX_ID, help="Number of the record in the list.")],
) -> None:
    """Show one record. What was received, the problem, the request and the response."""
    found = session.run(_show(session.read_any(context.obj), id))
    if found is None:
        typer.echo(f"no dead or held record has the number {id}", err=True)
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
    ids: Annotated[
        list[int] | None, typer.Argument(min=1, max=MAX_ID, help="Numbers of the records.")
    ] = None,
    cause: Annotated[str | None, typer.Option(help="All records with this problem code.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All records.")] = False,
    detach: session.Detach = False,
) -> None:
    """Retry records. They keep their unique ids, so none is recorded twice; records without an
    address stay held."""
    if cause is not None:
        session.known_problem(cause)
    if not (ids or cause or every):
        raise typer.BadParameter("give the numbers of records, --cause CODE or --all")
    args = {"ids": ids or [], "cause": cause, "all": every}
    session.follow(context.obj, "retry", args, detach=detach)


@app.command()
def discard(
    context: typer.Context,
    ids: Annotated[list[int], typer.Argument(min=1, max=MAX_ID, help="Numbers of the records.")],
    reason: Annotated[str, typer.Option(help="Why; kept with the record.")] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    detach: session.Detach = False,
) -> None:
    """Discard records for good."""
    if not yes:
        typer.confirm(f"Discard {counted(len(ids), 'record')} for good?", abort=True, err=True)
    session.follow(context.obj, "discard", {"ids": ids, "reason": reason}, detach=detach)
