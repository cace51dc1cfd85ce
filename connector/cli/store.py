"""`connector store`: schema upgrade, integrity check, backup and restore."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from connector.cli import session
from connector.domain.wording import counted

if TYPE_CHECKING:
    from connector.config import Config
    from connector.domain.lanes import Millis

app = typer.Typer(no_args_is_help=True, help="Schema upgrade, integrity check, backup, restore.")


@app.command()
def upgrade(context: typer.Context) -> None:
    """Migrate the store to this version. An SQLite file is copied first."""
    from connector.store import schema

    url = session.read(context.obj).store.url
    copy = schema.prepare(url, "auto")
    revision = schema.with_connection(url, schema.revision_of)
    newer = "" if revision == schema.HEAD else f", newer than {schema.HEAD} of this version"
    kept = f"; the old file is kept as {copy}" if copy else ""
    print(f"the store is at revision {revision}{newer}{kept}")


@app.command()
def check(context: typer.Context) -> None:
    """Check for damage and for the schema's version. Exit code 1 on any fault."""
    from connector.domain.errors import Problem
    from connector.store.admin import integrity

    faults = integrity.check(session.read(context.obj).store.url)
    for fault in faults:
        print(fault)
    if any(fault.startswith(Problem.STORE_DAMAGED) for fault in faults):
        print("stop the daemon and put a backup in its place: `connector store restore BACKUP`;")
        print("without a backup save what you can: `sqlite3 FILE .recover` (docs/problems/S50.md)")
    if not faults:
        print("the store is ok")
    raise typer.Exit(1 if faults else 0)


@app.command()
def backup(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="The file to write; must not exist.")],
) -> None:
    """Copy an SQLite store while it is in use. Overwrites nothing."""
    from connector.store.admin import integrity

    size = integrity.backup(session.read(context.obj).store.url, file)
    print(f"{file}: {size:,} bytes, integrity checked")


@app.command()
def restore(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="A file of `connector store backup`.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
) -> None:
    """Put a backup in the place of an SQLite store. The daemon must be stopped. The former files
    are kept."""
    from connector.runtime.clock import SystemClock
    from connector.store.admin.restore import restore as restore_store

    config, now = session.read(context.obj), SystemClock().now()
    if not yes:
        typer.confirm(f"Replace the store by {file}?", abort=True, err=True)
    restored = restore_store(config.store.url, file, now=now)
    print(f"{file}: restored, {restored.size:,} bytes, integrity checked")
    if restored.kept:
        print(f"the former store is kept as {restored.kept}")
    if restored.actions:
        waiting = counted(restored.actions, "waiting action is", "waiting actions are")
        print(f"{waiting} looked up before being sent")
    print("people who were forgotten since the backup are back: forget them again")
    if restored.damaged:
        session.run(_record_damage(config, now))


async def _record_damage(config: Config, now: Millis) -> None:
    """So that the next daemon sends its end: the one that met it could not record what it sent."""
    from connector.service.notify import record_damage

    async with session.open_store(config) as store:
        await record_damage(store.notifications, config.notify, now=now)
