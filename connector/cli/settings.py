"""Settings that are made at run time: modules, `config set`, `unset`, `export`, and the audit
log."""

from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from connector.cli import session
from connector.cli.format import format_time

if TYPE_CHECKING:
    from connector.config import Config
    from connector.ports import AuditEntry

Key = Annotated[
    str, typer.Argument(help='The key, such as modules or mapping.profile.fields."x".enabled.')
]


def register(app: typer.Typer, configuration: typer.Typer) -> None:
    app.command()(modules)
    app.command()(audit)
    configuration.command("add")(add)
    configuration.command("set")(set_)
    configuration.command()(unset)
    configuration.command()(export)


def modules(
    context: typer.Context,
    connection: session.ConnectionName,
    state: Annotated[Literal["on", "off"], typer.Argument(help="on or off.")],
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="module", help="Any of events, profiles, audiences, segments, actions."
        ),
    ],
) -> None:
    """Switch modules on or off. No restart is needed."""
    config = session.read(context.obj)
    session.connection(config, connection)
    args = {"connection": connection, "names": list(names), "on": state == "on"}
    done, result = session.run(session.run_command(config, "modules", args, create=True))
    if not done:
        session.print_result((done, result))
    print(f"{connection}: {result['modules']}")
    if result["waiting"]:
        print(f"waiting until they are on again: {result['waiting']:,}", file=sys.stderr)
    raise typer.Exit(0)


def add(
    context: typer.Context,
    connection: Annotated[str, typer.Argument(help="The new connection's name.")],
    source: Annotated[str, typer.Argument(help="The loyalty platform.")],
    values: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...",
            help='Settings, values as TOML, such as settings.guid="…" enabled=false.',
        ),
    ] = None,
) -> None:
    """Make a connection at run time. With enabled=false it may be completed later by `config set`,
    which reads a secret from stdin."""
    from connector.service.setting_secrets import seal_secrets

    config = session.read_files(context.obj)
    changes = {}
    for text in values or ():
        key, separator, value = text.partition("=")
        if not separator:
            raise typer.BadParameter(f"{text}: found no =, allowed KEY=VALUE")
        changes[key] = _toml_value(value)
    sealed = seal_secrets(config, connection, changes, source)
    args = {"connection": connection, "source": source, "set": sealed}
    _print_changed(session.run(session.run_command(config, "add-connection", args, create=True)))


def set_(
    context: typer.Context,
    connection: session.ConnectionName,
    key: Key,
    value: Annotated[
        str,
        typer.Argument(help='The value as TOML, such as "shadow"; - reads it from stdin.'),
    ],
) -> None:
    """Set a key of a connection at run time. A key that a file sets has to be changed there."""
    config = session.read_files(context.obj)
    text = sys.stdin.read().rstrip("\n") if value == "-" else value
    from connector.service.setting_secrets import seal_secrets

    changes = seal_secrets(config, connection, {key: _toml_value(text)})
    args = {"connection": connection, "set": changes}
    _print_changed(session.run(session.run_command(config, "settings", args, create=True)))


def unset(context: typer.Context, connection: session.ConnectionName, key: Key) -> None:
    """Remove a setting that was made at run time."""
    config = session.read_files(context.obj)
    args = {"connection": connection, "unset": [key]}
    _print_changed(session.run(session.run_command(config, "settings", args)))


def export(
    context: typer.Context,
    folder: Annotated[
        Path | None,
        typer.Argument(help="A new folder for the files. Default: print connector.toml."),
    ] = None,
) -> None:
    """Write the configuration in effect as files for another folder. Settings made at run time are
    included; secrets become references to variables."""
    from connector.config.export import export as exported
    from connector.tools.exports import write

    config = session.read(context.obj)
    if folder is None:
        sys.stdout.write(exported(config).text)
        if any(connection.mapping_changes for connection in config.connections):
            note = "Mapping entries switched at run time are not included: name a folder."
            print(note, file=sys.stderr)
        return
    for line in write(config, folder):
        print(line)


def audit(
    context: typer.Context,
    connection: Annotated[str, typer.Option(help="Only this connection.")] = "",
    limit: Annotated[int, typer.Option(help="How many entries.")] = 50,
    as_json: session.AsJson = False,
) -> None:
    """Show who changed what, or tried to, the newest first."""
    config = session.read_any(context.obj)
    if connection:
        session.known_name(config, connection)
    found = session.run(_entries(config, connection or None, limit))
    if as_json:
        rows = [{key: getattr(e, key) for key in e.__dataclass_fields__} for e in found]
        print(json.dumps(rows, indent=2))
        return
    if not found:
        print("no change yet")
    for entry in found:
        print(_line(entry))


async def _entries(config: Config, connection: str | None, limit: int) -> list[AuditEntry]:
    async with session.open_commands(config) as commands:
        return list(await commands.audit_log(connection, limit))


def _line(entry: AuditEntry) -> str:
    change = ""
    if entry.before is not None or entry.after is not None:
        change = f": {json.dumps(entry.before)} -> {json.dumps(entry.after)}"
    failed = f"failed: {entry.error}" if entry.error else ""
    words = [
        format_time(entry.at),
        entry.by or "-",
        entry.what,
        entry.connection,
        entry.subject + change,
        failed,
    ]
    return "  ".join(word for word in words if word)


def _toml_value(text: str) -> Any:
    """The value of a TOML text; what is none is a text by itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, KeyError):
        return text


def _print_changed(answer: tuple[bool, Any]) -> None:
    done, result = answer
    if done:
        changed = ", ".join(result["changed"]) or "nothing, it was so already"
        print(f"{result['connection']}: changed {changed}")
        raise typer.Exit(0)
    session.print_result((done, result))
