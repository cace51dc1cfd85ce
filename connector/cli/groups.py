"""`connector audiences` and `connector segments`: what is kept as what, and a full sync now."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from connector.cli import session
from connector.cli.format import link_lines

if TYPE_CHECKING:
    from connector.config import Config

Kind = Literal["audience", "segment"]
_POLL_INTERVAL, _PRINT_INTERVAL = 0.2, 10.0


def link_commands(kind: Kind, help: str) -> typer.Typer:
    """The commands of one direction."""
    app = typer.Typer(no_args_is_help=True, help=help)

    @app.command("list")
    def list_(
        context: typer.Context,
        as_json: Annotated[bool, typer.Option("--json", help="As JSON, for scripts.")] = False,
    ) -> None:
        """Every link, its numbers and its last full sync."""
        found = session.run(_find(session.read(context.obj), kind))
        if as_json:
            print(json.dumps(found, indent=2))
            return
        for link in found:
            print("\n".join(link_lines(link)))

    @app.command()
    def sync(context: typer.Context, connection: str, name: str) -> None:
        """Read both sides in full now and tell what differs."""
        config = session.read(context.obj)
        found, error = session.run(_sync(config, kind, connection, name))
        for link in found:
            print("\n".join(link_lines(link)))
        if error:
            print(error, file=sys.stderr)
        raise typer.Exit(1 if error else 0)

    return app


audiences = link_commands("audience", "Audiences kept as Klaviyo lists.")
segments = link_commands("segment", "Klaviyo segments kept as the platform's tags.")


async def _find(config: Config, kind: Kind) -> list[dict[str, Any]]:
    """What has run, and what is configured and has not."""
    async with session.open_commands(config) as commands:
        found = [link for link in await commands.links() if link["kind"] == kind]
    known = {(link["connection"], link["source"], link["target"]) for link in found}
    for connection in config.connections:
        entries = (
            [(entry.audience, entry.list) for entry in connection.audiences]
            if kind == "audience"
            else [(entry.segment, entry.target) for entry in connection.segments]
        )
        on = connection.enabled and f"{kind}s" in connection.modules
        for source, target in entries:
            if (connection.name, source, target) not in known:
                why = "has not run yet" if on else "is switched off"
                link = {"connection": connection.name, "kind": kind, "source": source}
                found.append(link | {"target": target, "detail": why})
    return found


async def _sync(
    config: Config, kind: Kind, connection: str, name: str
) -> tuple[list[dict[str, Any]], str]:
    """The links of that name once they were read and told, and what went wrong."""
    async with session.executor(config) as execute, session.open_commands(config) as commands:
        began = time.time() * 1000
        args = {"connection": connection, "name": name}
        done, result = await execute(f"{kind}s-sync", args)
        if not done:
            return [], str(result["error"])
        printed_at = time.monotonic()
        while True:
            mine = [
                link
                for link in await commands.links()
                if (link["connection"], link["kind"]) == (connection, kind)
                and name in (link["source"], link["target"], link["target_id"])
            ]
            error = [link for link in mine if link["problem"]]
            synced = all((link["last_full_sync"] or 0) >= began for link in mine)
            if error or (synced and not any(link["waiting"] for link in mine)):
                return mine, "; ".join(f"{x['problem']} {x['detail']}" for x in error)
            if time.monotonic() - printed_at >= _PRINT_INTERVAL:
                printed_at = time.monotonic()
                waiting = sum(link["waiting"] for link in mine)
                print(f"{name}: reading, {waiting:,} wait to be told", file=sys.stderr)
            await asyncio.sleep(_POLL_INTERVAL)
