"""`connector people`: list and refresh people whose profile, read or membership failed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from connector.cli import session
from connector.cli.format import format_time
from connector.runtime.printable import one_line

if TYPE_CHECKING:
    from connector.config import Config
    from connector.service.status import StuckPersonView

app = typer.Typer(no_args_is_help=True, help="People with something that failed or is held.")


@app.command("list")
def list_(
    context: typer.Context,
    cause: Annotated[str | None, typer.Option(help="Only this problem code.")] = None,
    connection: Annotated[str | None, typer.Option(help="Only this connection.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of lines.")] = 50,
    as_json: session.AsJson = False,
) -> None:
    """List the people with the reason. Profiles, then reads and memberships; newest first."""
    config = session.read_any(context.obj)
    if connection is not None:
        session.known_name(config, connection)
    code = session.known_problem(cause).value if cause is not None else None
    found = session.run(_find(config, connection, code, limit + 1))
    more = len(found) > limit
    found = found[:limit]
    if as_json:
        print(json.dumps([person.model_dump(mode="json") for person in found], indent=2))
        return
    if not found:
        print("nothing waits: no profile, read or membership is dead or held")
    for x in found:
        who = " ".join(filter(None, (x.platform_id, x.email))) or "unknown person"
        target = f" in {x.target}" if x.target else ""
        what = f"{x.connection} {x.lane}{target}"
        reason = f"{x.problem:<5} {who}  {x.detail or x.meaning}"
        print(one_line(f"{format_time(x.since)}  {x.state:<5} {what}  {reason}"))
    if more:
        print(f"and others: --limit shows more than {limit}")


async def _find(
    config: Config, connection: str | None, cause: str | None, limit: int
) -> list[StuckPersonView]:
    from connector.service.views import stuck_person_view

    async with session.open_commands(config) as commands:
        found = await commands.stuck_people(connection, cause, limit)
        return [stuck_person_view(person) for person in found]


@app.command()
def refresh(
    context: typer.Context,
    connection: session.ConnectionName,
    cause: Annotated[str, typer.Option(help="Those with this problem code.")],
    detach: session.Detach = False,
) -> None:
    """Read them at the platform and write them again. After what is live.

    Memberships are sent again by the next full sync of their list.
    """
    args = {"connection": connection, "cause": session.known_problem(cause).value}
    session.follow(context.obj, "refresh", args, detach=detach)
