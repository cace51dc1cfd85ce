"""`connector store`: the store's schema and health."""

from __future__ import annotations

import typer

from connector.cli import session

app = typer.Typer(no_args_is_help=True, help="The store's schema and health.")


@app.command()
def upgrade(context: typer.Context) -> None:
    """Bring the store up to this version. An SQLite file is copied beside itself first."""
    from connector.store import schema

    copy = schema.prepare(session.read(context.obj).store.url, "auto")
    print(f"at revision {schema.head()}" + (f"; the old file is kept as {copy}" if copy else ""))


@app.command()
def check(context: typer.Context) -> None:
    """Look for damage and for a schema of another version. Exit 1 where anything is wrong."""
    from connector.store import schema

    faults = schema.check(session.read(context.obj).store.url)
    for fault in faults:
        print(fault)
    if not faults:
        print("the store is well")
    raise typer.Exit(1 if faults else 0)
