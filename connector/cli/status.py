"""`connector status` and `connector top`."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from connector.cli import session, terminal
from connector.cli.format import format_age, lane_label, link_lines
from connector.runtime.printable import one_line

if TYPE_CHECKING:
    from rich.console import RenderableType

    from connector.config import Config, Server
    from connector.service import Commands

_HEALTH_TIMEOUT = 2.0


def register(app: typer.Typer) -> None:
    app.command()(status)
    app.command()(top)


def status(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show lanes, backlog, dead letters and quota."""
    found = session.run(_status(session.read(context.obj)))
    if as_json:
        print(json.dumps(found, indent=2))
        return
    terminal.console().print(table(found))


async def _status(config: Any) -> dict[str, Any]:
    async with session.open_commands(config) as commands:
        return await _load_status(commands, config)


async def _load_status(commands: Commands, config: Config) -> dict[str, Any]:
    """The status from the store, plus what /healthz of the running daemon reports."""
    found = await commands.status(_versions(config))
    if found["holder"] and config.server.port:
        known = found["attention"]
        known += [line for line in await _health_lines(config.server) if line not in known]
    return found


def _versions(config: Config) -> dict[str, str]:
    """Connection → version of its mapping file now."""
    from connector.domain.errors import ConfigError
    from connector.mapping import load

    found: dict[str, str] = {}
    for connection in config.connections:
        with contextlib.suppress(ConfigError):
            found[connection.name] = load(connection.mapping).mapping.version
    return found


async def _health_lines(server: Server) -> list[str]:
    """The lines of /healthz, such as low disk space; empty without a response."""
    try:
        status, text = await asyncio.wait_for(session.fetch(server, "/healthz"), _HEALTH_TIMEOUT)
    except Exception:
        # Another program may listen there; the status from the store is printed anyway.
        return []
    return text.splitlines() if status == 500 and not text.lstrip().startswith("<") else []


def top(context: typer.Context) -> None:
    """Show the status live, until Ctrl-C."""
    with contextlib.suppress(KeyboardInterrupt):
        session.run(_top(session.read(context.obj)))


async def _top(config: Any) -> None:
    from rich.live import Live

    async with session.open_commands(config) as commands:
        console = terminal.console()
        shown = table(await _load_status(commands, config))
        with Live(shown, console=console, screen=True) as live:
            while True:
                await asyncio.sleep(1.0)
                live.update(table(await _load_status(commands, config)))


def table(found: dict[str, Any]) -> RenderableType:
    """The status as text and tables."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from connector.klaviyo.limits import endpoint_label

    lanes = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("connection", "lane", "state", "ready", "in flight", "held", "dead", "oldest"):
        lanes.add_column(heading, justify="left" if heading in _LEFT_ALIGNED else "right")
    for name, connection in found["connections"].items():
        for lane in connection["lanes"]:
            style = {"running": "green", "paused": "yellow"}.get(lane["state"], "red")
            problem = f" {lane['problem']}" if lane["problem"] else ""
            lanes.add_row(
                name,
                lane_label(lane),
                Text(lane["state"] + problem, style=style),
                *(f"{lane[key]:,}" for key in ("ready", "in_flight", "held", "dead")),
                format_age(lane["oldest_seconds"]),
            )
    holder = found["holder"]
    parts: list[RenderableType] = [
        Text(f"running as {holder}" if holder else "not running: start it with `connector run`"),
        Text(),
        lanes,
    ]
    for name, connection in found["connections"].items():
        if outdated := connection.get("people_with_another_mapping"):
            parts.append(
                Text(f"{name}: {outdated:,} people were rendered with another mapping version")
            )
        if (actions := connection.get("actions")) and actions["waiting"]:
            rate = f"{actions['waiting']:,} actions waiting, {actions['per_second']}/s"
            parts.append(Text(f"{name}: {rate}, done in {format_age(actions['eta_seconds'])}"))
    links = [x for c in found["connections"].values() for k in _LINK_KINDS for x in c.get(k, ())]
    if links:
        parts.append(Text("\naudiences and segments", style="bold"))
        parts += [Text(f"  {one_line(line)}") for link in links for line in link_lines(link)]
    for run in found["backfills"]:
        of = "" if run["total"] is None else f" of {run['total']:,}"
        parts.append(
            Text(f"{run['connection']}: backfill {run['id']} {run['state']}, {run['done']:,}{of}")
        )
    if found["dead_letters"]:
        parts.append(Text("\ndead letters and held records", style="bold"))
        parts += [
            Text(f"  {x['count']:>8,}  {x['state']:<5} {x['problem']:<5} {x['meaning']}")
            for x in found["dead_letters"]
        ]
    if found["quota"]:
        parts.append(Text("\nrequests in the last minute", style="bold"))
        parts += [
            Text(
                f"  {x['last_minute']:>8,}  {endpoint_label(x['endpoint'])}  "
                f"(account {x['account']})"
            )
            for x in found["quota"]
        ]
    if found["attention"]:
        parts.append(Text("\nneeds you", style="bold red"))
        parts += [Text(f"  {one_line(line)}") for line in found["attention"]]
    return Group(*parts)


_LEFT_ALIGNED = {"connection", "lane", "state"}
_LINK_KINDS = ("audiences", "segments")
