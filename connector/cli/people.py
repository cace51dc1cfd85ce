"""`connector explain`, `refresh` and `forget`: one person, from what came in to what Klaviyo
answered, and to nothing left."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from connector.cli import session

_PATIENCE = 30.0


def register(app: typer.Typer) -> None:
    app.command()(explain)
    app.command()(refresh)
    app.command()(forget)


def explain(
    context: typer.Context,
    connection: str,
    person: Annotated[str, typer.Argument(help="Address, or the platform's id.")],
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, with the records.")] = False,
) -> None:
    """One person's timeline: received, told, answered."""
    stories = session.run(_stories(session.read(context.obj), connection, person))
    if not stories:
        typer.echo(f"{connection} has never seen this person", err=True)
        raise typer.Exit(1)
    if as_json:
        print(json.dumps(stories, indent=2))
        return
    for story in stories:
        _tell(story)


async def _stories(config: Any, connection: str, person: str) -> list[dict[str, Any]]:
    async with session.operator(config) as who:
        return await who.explain(connection, person)


def _tell(story: dict[str, Any]) -> None:
    print(f"{story['email'] or 'no address'}  (platform id {story['platform_id'] or 'unknown'})")
    for moment in story["timeline"]:
        request = moment["request"]
        answer = ""
        if request:
            answer = f"  {request['endpoint']} → {request['status'] or 'no answer'}"
        problem = f"  {moment['problem']} {moment['detail']}" if moment["problem"] else ""
        print(
            f"  {_time(moment['at'])}  {moment['what']:<6} {moment['name']:<28} "
            f"{moment['state']}{answer}{problem}"
        )
    if story["read"]["unknown_since"]:
        print(f"  unknown to the platform since {_time(story['read']['unknown_since'])}")
    if story["fields"]:
        print(f"  as read {_time(story['read']['at'])}, writes {story['write']['state']}:")
        for name, field in sorted(story["fields"].items()):
            mark = "confirmed" if field["confirmed"] else "not confirmed"
            shown = "unset" if field["value"] is None else json.dumps(field["value"])
            print(f"    {name:<44} {shown:<28} {mark}")


def _time(millis: int | None) -> str:
    if millis is None:
        return "never"
    return datetime.fromtimestamp(millis / 1000, UTC).isoformat(timespec="milliseconds")[:23] + "Z"


def refresh(
    context: typer.Context,
    connection: str,
    person: Annotated[str, typer.Argument(help="Address, or the platform's id.")],
    detach: session.Detach = False,
) -> None:
    """Read, tell and show one person now."""
    config = session.read(context.obj)
    if detach and session.run(session.is_held(config)):
        args = {"connection": connection, "person": person}
        session.follow(context.obj, "refresh", args, detach=True)
    stories, wrong = session.run(_refresh(config, connection, person))
    for story in stories:
        _tell(story)
    if wrong:
        typer.echo(wrong, err=True)
    raise typer.Exit(1 if wrong else 0)


async def _refresh(config: Any, connection: str, person: str) -> tuple[list[dict[str, Any]], str]:
    """The person's stories, and what is wrong, if anything. By the running daemon, else by the
    lanes of this process, for as long as it takes."""
    args = {"connection": connection, "person": person}
    async with session.at_work(config) as carry_out:
        done, result = await carry_out("refresh", args)
        return await _follow(config, args, done, result)


async def _follow(
    config: Any, args: dict[str, str], done: bool, result: Mapping[str, Any]
) -> tuple[list[dict[str, Any]], str]:
    """Until everybody has been read since the order and nothing is left to tell."""
    if not done:
        return [], str(result.get("error"))
    async with session.operator(config) as who:
        stories: list[dict[str, Any]] = []
        for _ in range(round(_PATIENCE / 0.2)):
            stories = await who.explain(args["connection"], args["person"])
            if all(_settled(story, int(result["since"])) for story in stories):
                return stories, ""
            await asyncio.sleep(0.2)
        return stories, f"not settled within {_PATIENCE:.0f} s"


def _settled(story: dict[str, Any], since: int) -> bool:
    read, write = story["read"], story["write"]
    answered = max(read["at"] or 0, read["unknown_since"] or 0)
    been_read = read["state"] == "accepted" and answered >= since
    return been_read and write["state"] not in ("ready", "claimed")


def forget(
    context: typer.Context,
    connection: str,
    person: Annotated[str, typer.Argument(help="Address, or the platform's id.")],
    klaviyo: Annotated[bool, typer.Option(help="Have Klaviyo delete the profile too.")] = False,
    lift: Annotated[bool, typer.Option(help="Let one who was forgotten come back.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    detach: session.Detach = False,
) -> None:
    """Erase a person from the store, for good."""
    config = session.read(context.obj)
    args = {"connection": connection, "person": person}
    if lift:
        session.follow(context.obj, "lift", args, detach=detach)
    found = session.run(_whom(config, connection, person))
    if not found:
        typer.echo(f"{connection} has never seen this person", err=True)
        raise typer.Exit(1)
    if not yes:
        also = " and have Klaviyo delete them" if klaviyo else ""
        question = f"Erase {found} person(s) of {connection} for good{also}?"
        typer.confirm(question, abort=True, err=True)
    if klaviyo:
        session.say(session.run(_erase(config, args | {"klaviyo": True})))
    session.follow(context.obj, "forget", args, detach=detach)


async def _whom(config: Any, connection: str, person: str) -> int:
    async with session.operator(config) as who:
        return await who.whom(connection, person)


async def _erase(config: Any, args: dict[str, Any]) -> tuple[bool, Mapping[str, Any]]:
    """Klaviyo is asked by whoever runs the connection."""
    async with session.at_work(config) as carry_out:
        return await carry_out("forget", args)
