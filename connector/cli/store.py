"""`connector store`: the store's schema, health and backup."""

from __future__ import annotations

from pathlib import Path

import typer

from connector.cli import session

app = typer.Typer(no_args_is_help=True, help="The store's schema, health and backup.")


@app.command()
def upgrade(context: typer.Context) -> None:
    """Bring the store up to this version. An SQLite file is copied beside itself first."""
    from connector.store import schema

    copy = schema.prepare(session.read(context.obj).store.url, "auto")
    print(f"at revision {schema.head()}" + (f"; the old file is kept as {copy}" if copy else ""))


@app.command()
def check(context: typer.Context) -> None:
    """Look for damage and for a schema of another version. Exit 1 where anything is wrong."""
    from connector.domain.errors import Problem
    from connector.store.admin import integrity

    faults = integrity.check(session.read(context.obj).store.url)
    for fault in faults:
        print(fault)
    if any(fault.startswith(Problem.STORE_DAMAGED) for fault in faults):
        print("stop the daemon, keep the file, and restore a backup; without one, rescue what can")
        print("be with `sqlite3 FILE .recover` (docs/problems/S50.md)")
    if not faults:
        print("the store is well")
    raise typer.Exit(1 if faults else 0)


@app.command()
def backup(context: typer.Context, file: Path) -> None:
    """One consistent copy of an SQLite store, while it is in use. Overwrites nothing."""
    from connector.store.admin import integrity

    size = integrity.backup(session.read(context.obj).store.url, file)
    print(f"{file}: {size:,} bytes, checked")
