"""`connector explain`, `refresh` and `forget`: one person's timeline, sync and erasure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from connector.cli import session
from connector.cli.format import format_time, print_wide
from connector.domain.wording import counted

_TIMEOUT = 30.0
_UNKNOWN_PERSON = (
    "connection {connection} has no record of this person; check the e-mail address or platform id"
)
_FORGOTTEN = (
    "forgotten on {time}; what {connection} receives about this person is not stored. To allow "
    "them again: connector forget {connection} {person} --lift"
)


def register(app: typer.Typer) -> None:
    app.command()(explain)
    app.command()(refresh)
    app.command()(forget)


def explain(
    context: typer.Context,
    connection: session.ConnectionName,
    person: session.Person,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with the records.")] = False,
) -> None:
    """Show a person's timeline. What was received, what was sent, what Klaviyo answered."""
    config = session.read_any(context.obj)
    session.known_name(config, connection)
    timelines, erased_at = session.run(_timelines(config, connection, person))
    if not timelines:
        text = _UNKNOWN_PERSON if erased_at is None else _FORGOTTEN
        time = format_time(erased_at)
        typer.echo(text.format(connection=connection, time=time, person="PERSON"), err=True)
        raise typer.Exit(1)
    if as_json:
        print(json.dumps(timelines, indent=2))
        return
    _print_timelines(timelines)


def _print_timelines(timelines: list[dict[str, Any]]) -> None:
    from rich.console import Group

    from connector.cli.timeline_view import timeline

    print_wide(lambda _: Group(*map(timeline, timelines)))


async def _timelines(
    config: Any, connection: str, person: str
) -> tuple[list[dict[str, Any]], int | None]:
    """The timelines, and when the person was erased."""
    async with session.open_commands(config) as commands:
        erased_at = await commands.erased_at(connection, person)
        return await commands.explain(connection, person), erased_at


def refresh(
    context: typer.Context,
    connection: session.ConnectionName,
    person: session.Person,
    detach: session.Detach = False,
) -> None:
    """Read and send one person now. Shows the result."""
    config = session.read_any(context.obj)
    session.known_name(config, connection)
    if detach and session.run(session.is_running(config)):
        args = {"connection": connection, "person": person}
        session.follow(context.obj, "refresh", args, detach=True)
    timelines, error = session.run(_refresh(config, connection, person))
    _print_timelines(timelines)
    if error:
        typer.echo(error, err=True)
    raise typer.Exit(1 if error else 0)


async def _refresh(config: Any, connection: str, person: str) -> tuple[list[dict[str, Any]], str]:
    """The timelines, and the error. Done by the running daemon, else by this process."""
    args = {"connection": connection, "person": person}
    async with session.executor(config) as execute:
        done, result = await execute("refresh", args)
        return await _follow(config, args, done, result)


async def _follow(
    config: Any, args: dict[str, str], done: bool, result: Mapping[str, Any]
) -> tuple[list[dict[str, Any]], str]:
    """Wait until each person was read after the command and no change is left to send."""
    import asyncio

    if not done:
        return [], str(result.get("error"))
    async with session.open_commands(config) as commands:
        timelines: list[dict[str, Any]] = []
        for _ in range(round(_TIMEOUT / 0.2)):
            timelines = await commands.explain(args["connection"], args["person"])
            if all(_settled(timeline, int(result["since"])) for timeline in timelines):
                return timelines, ""
            await asyncio.sleep(0.2)
        return timelines, f"still in progress after {_TIMEOUT:.0f} s; look again with explain"


def _settled(timeline: dict[str, Any], since: int) -> bool:
    read, write = timeline["read"], timeline["write"]
    answered = max(read["at"] or 0, read["unknown_since"] or 0)
    is_read = read["state"] == "accepted" and answered >= since
    return is_read and write["state"] not in ("ready", "claimed")


def forget(
    context: typer.Context,
    connection: session.ConnectionName,
    person: session.Person,
    klaviyo: Annotated[bool, typer.Option(help="Also have Klaviyo delete the profile.")] = False,
    lift: Annotated[
        bool, typer.Option(help="Remove the tombstone, so that the person can come back.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    detach: session.Detach = False,
) -> None:
    """Erase a person from the store for good. A tombstone stops re-creation."""
    config = session.read_any(context.obj)
    session.known_name(config, connection)
    args = {"connection": connection, "person": person}
    if lift:
        session.follow(context.obj, "lift", args, detach=detach)
    found, erased_at = session.run(_count_people(config, connection, person))
    if not found and erased_at is None:
        typer.echo(_UNKNOWN_PERSON.format(connection=connection), err=True)
        raise typer.Exit(1)
    if not found:
        typer.echo(f"already forgotten on {format_time(erased_at)}", err=True)
    elif not yes:
        also = " and request deletion at Klaviyo" if klaviyo else ""
        question = f"Erase {counted(found, 'person', 'people')} of {connection} for good{also}?"
        typer.confirm(question, abort=True, err=True)
    if klaviyo:
        session.print_result(session.run(_erase(config, args | {"klaviyo": True})))
    session.follow(context.obj, "forget", args, detach=detach)


async def _count_people(config: Any, connection: str, person: str) -> tuple[int, int | None]:
    """The number of people to erase, and when they were erased before."""
    async with session.open_commands(config) as commands:
        erased_at = await commands.erased_at(connection, person)
        return await commands.count_people(connection, person), erased_at


async def _erase(config: Any, args: dict[str, Any]) -> tuple[bool, Mapping[str, Any]]:
    """Files the deletion at Klaviyo; needs the connection's lanes."""
    async with session.executor(config) as execute:
        return await execute("forget", args)
