"""Commands for setting up: init, check, preview, mappings, new, config."""

from __future__ import annotations

import json
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from connector.cli import session
from connector.cli.format import format_time, print_wide
from connector.domain.wording import counted

if TYPE_CHECKING:
    from rich.console import RenderableType

    from connector.domain.attention import Check
    from connector.service.mapping_preview import PersonPreview

mappings = typer.Typer(no_args_is_help=True, help="Mapping files.")
configuration = typer.Typer(no_args_is_help=True, help="The configuration in effect.")
new = typer.Typer(no_args_is_help=True, help="Start a package of your own.")
_MARK = {"ok": "ok     ", "warning": "warning", "fault": "FAULT  "}


def register(app: typer.Typer) -> None:
    app.command()(init)
    app.command()(check)
    app.command()(preview)


def init(
    source: Annotated[str, typer.Option(help="The loyalty platform.")] = "jericommerce",
    name: Annotated[str, typer.Option(help="The connection's name.")] = "acme",
    no_connection: Annotated[
        bool, typer.Option("--no-connection", help="Connections are added in the console.")
    ] = False,
) -> None:
    """Write a new configuration into this folder. Overwrites nothing."""
    from connector.tools.templates import write, write_empty

    def token() -> str:
        return secrets.token_urlsafe(24)

    found = write_empty(Path.cwd(), token=token) if no_connection else None
    for line in found or write(Path.cwd(), source, name, token=token):
        print(line)


def check(
    context: typer.Context,
    offline: Annotated[
        bool, typer.Option(help="Send no request to Klaviyo or a platform.")
    ] = False,
    wait: Annotated[str, typer.Option(help="Retry for this long, such as 60s.")] = "0s",
) -> None:
    """Check configuration, mappings, store and credentials. Prints one line each, with what to do
    about a fault; exit code 1 if there is a fault. Changes nothing."""
    from connector.runtime import log
    from connector.tools.checks import check as run_checks

    retry_for = session.seconds(wait)
    config = session.read(context.obj)
    log.configure(level="critical")
    raise typer.Exit(_print(session.run(run_checks(config, offline=offline, retry_for=retry_for))))


def _print(checks: list[Check]) -> int:
    print_wide(lambda _: _table(checks))
    return 1 if any(line.level == "fault" for line in checks) else 0


def _table(checks: list[Check]) -> RenderableType:
    """What does not fit into the terminal continues below its own column."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(no_wrap=True, width=7)
    table.add_column(overflow="fold")
    for line, following in zip(checks, [*checks[1:], None], strict=True):
        code = f" {line.problem}" if line.problem else ""
        detail = f": {line.detail}" if line.detail else ""
        table.add_row(_MARK[line.level], Text(f"{line.name}{code}{detail}"))
        repeats = following is not None and following.problem is line.problem
        if line.problem and line.level != "ok" and not repeats:
            table.add_row("", Text(f"→ {line.problem.remedy}"))
    return table


def preview(
    context: typer.Context,
    connection: session.ConnectionName,
    record: Annotated[
        Path,
        typer.Option(
            help="JSON: {name, record}, {headers, body} or {customer}.", exists=True, dir_okay=False
        ),
    ],
) -> None:
    """Print the exact requests that a record would cause. Sends nothing."""
    from connector.tools.previews import preview as requests_of

    config = session.read(context.obj)
    print(json.dumps(requests_of(config, session.connection(config, connection), record), indent=2))


@mappings.command("check")
def mappings_check(context: typer.Context) -> None:
    """Check every mapping file in use. Prints faults, failed examples and warnings; exit code 1 if
    there is a fault."""
    from connector.domain.errors import ConfigError
    from connector.tools.checks import mapping_checks, mapping_files

    try:
        connections = session.read(context.obj).connections
        found = [
            line for c in connections for line in mapping_checks(c.mapping, c.source, c.settings)
        ]
    except ConfigError as error:
        # A mapping needs no credentials: check the files beside a configuration that is not valid.
        folder = (context.obj or Path("connector.toml")).absolute().parent / "mappings"
        files = mapping_files(folder)
        if not files:
            raise
        found = [line for path, source in files for line in mapping_checks(path, source)]
        print(
            f"the configuration has {counted(len(error.faults), 'fault')} (`connector check` lists "
            f"them); this checks every file in {folder} with default settings",
            file=sys.stderr,
        )
    raise typer.Exit(_print(list(dict.fromkeys(found))))


@mappings.command("preview")
def mappings_preview(
    context: typer.Context,
    connection: session.ConnectionName,
    person: Annotated[str, typer.Option(help="E-mail address or platform id.")],
    file: Annotated[
        Path | None,
        typer.Option("--mapping", help="The mapping file. Default: that of the connection."),
    ] = None,
) -> None:
    """Show a person before and after a change of the mapping. Renders what was last read of them.
    Sends nothing and needs no credentials."""
    from connector.mapping import load
    from connector.service.mapping_preview import preview_person

    config = session.read_any(context.obj)
    session.known_name(config, connection)
    if file is None:
        file = session.connection(config, connection).mapping
    mapping = load(file).mapping

    async def find() -> list[PersonPreview]:
        async with session.open_store(config) as store:
            return await preview_person(store, connection, person, mapping)

    found = session.run(find())
    if not found:
        typer.echo(f"connection {connection} has no record of this person", err=True)
        raise typer.Exit(1)
    for each in found:
        name = each.email or "no address"
        if each.read_at is None:
            print(f"{name}: not read yet; connector refresh {connection} PERSON reads them")
            continue
        print(f"{name}, as read {format_time(each.read_at)}, mapping {mapping.version}")
        for line in each.lines():
            print(f"  {line}")
        for problem in each.left_out:
            print(f"  left out: {problem}")


@new.command("platform")
def new_platform(
    name: Annotated[str, typer.Argument(help="The value of `source`, such as acme_club.")],
    folder: Annotated[
        Path | None, typer.Option("--dir", help="Target folder. Default: named like the package.")
    ] = None,
) -> None:
    """Write a package for a new platform. It has an adapter, a mapping with examples, a sandbox
    double and the contract test of all platforms. Overwrites nothing."""
    from connector.tools.templates.platforms import write

    for line in write(folder or Path(f"{name.replace('_', '-')}-connector"), name):
        print(line)


@configuration.command("show")
def show(context: typer.Context) -> None:
    """Print the configuration in effect. As TOML, with secrets masked."""
    from connector.config import show as render

    sys.stdout.write(render(session.read(context.obj)))
