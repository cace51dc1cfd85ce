"""`connector audiences` and `connector segments`: list the links, run a full sync."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from connector.cli import session
from connector.cli.format import link_lines

if TYPE_CHECKING:
    from connector.config import Config, Connection

Name = Annotated[str, typer.Argument(help="Source or target of the link, by name or id.")]
Kind = Literal["audience", "segment"]
_POLL_INTERVAL, _PRINT_INTERVAL = 0.2, 10.0


def link_commands(kind: Kind, help: str) -> typer.Typer:
    """The commands for links of one kind."""
    app = typer.Typer(no_args_is_help=True, help=help)

    @app.command("list")
    def list_(
        context: typer.Context,
        as_json: session.AsJson = False,
    ) -> None:
        """List the links, their members and last full sync."""
        found = session.run(_find(session.read_any(context.obj), kind))
        if as_json:
            print(json.dumps(found, indent=2))
            return
        for link in found:
            print("\n".join(link_lines(link)))
        if not found:
            print(f"no {kind} is linked ([[connections.{kind}s]] in the configuration)")

    @app.command()
    def sync(context: typer.Context, connection: session.ConnectionName, name: Name) -> None:
        """Scan both sides in full now and send the differences."""
        config = session.read(context.obj)
        entries = _entries(session.connection(config, connection), kind)
        names = [word for entry in entries for word in entry]
        if name not in names and name not in session.run(_target_ids(config, kind)):
            raise session.unknown(kind, name, names)
        found, error = session.run(_sync(config, kind, connection, name))
        for link in found:
            print("\n".join(link_lines(link)))
        if error:
            print(error, file=sys.stderr)
        raise typer.Exit(1 if error else 0)

    return app


audiences = link_commands("audience", "Loyalty audiences that are synced to Klaviyo lists.")
segments = link_commands("segment", "Klaviyo segments that are synced to the platform.")


async def _target_ids(config: Config, kind: Kind) -> list[str]:
    """The ids of targets by which a link may be named too; none without a store."""
    from connector.domain.errors import StoreError

    try:
        return [str(link.get("target_id")) for link in await _find(config, kind)]
    except StoreError:
        return []


def _entries(connection: Connection, kind: Kind) -> list[tuple[str, str]]:
    """(source, target) of each link as configured."""
    if kind == "audience":
        return [(entry.audience, entry.list) for entry in connection.audiences]
    return [(entry.segment, entry.target) for entry in connection.segments]


async def _find(config: Config, kind: Kind) -> list[dict[str, Any]]:
    """The links that have run, then those that are configured and have not."""
    async with session.open_commands(config) as commands:
        found = [link for link in await commands.links() if link["kind"] == kind]
    known = {(link["connection"], link["source"], link["target"]) for link in found}
    for connection in config.connections:
        entries = _entries(connection, kind)
        enabled = connection.enabled and f"{kind}s" in connection.modules
        for source, target in entries:
            if (connection.name, source, target) not in known:
                why = "has not run yet" if enabled else "is disabled"
                link = {"connection": connection.name, "kind": kind, "source": source}
                found.append(link | {"target": target, "detail": why})
    return found


async def _sync(
    config: Config, kind: Kind, connection: str, name: str
) -> tuple[list[dict[str, Any]], str]:
    """The links of that name once both sides are scanned and in sync, and the error."""
    import asyncio

    async with session.executor(config) as execute, session.open_commands(config) as commands:
        started_at = time.time() * 1000
        args = {"connection": connection, "name": name}
        done, result = await execute(f"{kind}s-sync", args)
        if not done:
            return [], str(result["error"])
        printed_at = time.monotonic()
        while True:
            links = [
                link
                for link in await commands.links()
                if (link["connection"], link["kind"]) == (connection, kind)
                and name in (link["source"], link["target"], link["target_id"])
            ]
            error = [link for link in links if link["problem"]]
            synced = all((link["last_full_sync"] or 0) >= started_at for link in links)
            if error or (synced and not any(link["waiting"] for link in links)):
                return links, "; ".join(f"{x['problem']} {x['detail']}" for x in error)
            if time.monotonic() - printed_at >= _PRINT_INTERVAL:
                printed_at = time.monotonic()
                waiting = sum(link["waiting"] for link in links)
                print(f"{name}: scanning, {waiting:,} changes waiting", file=sys.stderr)
            await asyncio.sleep(_POLL_INTERVAL)
