"""The command line: parse arguments, call the service, print, set the exit code. No logic.

Heavy modules are imported inside the commands that need them, so that `--help` is fast. Results go
to stdout; logs and progress go to stderr. Exit codes: 0 done, 1 failed, 2 wrong usage or
configuration.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from connector import __version__
from connector.cli import (
    actions,
    approvals,
    backfill,
    completion,
    connect,
    daemon,
    dead_letters,
    groups,
    notify,
    people,
    problem,
    reconcile,
    settings,
    setup,
    status,
    store,
    stuck_people,
    support,
    terminal,
    webhook_builder,
)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Durable connections between loyalty platforms and Klaviyo.",
)


def _version(requested: bool) -> None:
    if requested:
        typer.echo(f"connector {__version__}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option(help="Configuration file. Default: CONNECTOR_CONFIG, else ./connector.toml."),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    context.obj = config


for module in (
    *(connect, daemon, status, problem, people),
    *(reconcile, setup, support, webhook_builder, completion),
):
    module.register(app)
app.add_typer(backfill.app, name="backfill")
settings.register(app, setup.configuration)
app.add_typer(dead_letters.app, name="dead-letters")
app.add_typer(stuck_people.app, name="people")
app.add_typer(approvals.app, name="approvals")
app.add_typer(actions.app, name="actions")
app.add_typer(groups.audiences, name="audiences")
app.add_typer(groups.segments, name="segments")
app.add_typer(store.app, name="store")
app.add_typer(notify.app, name="notify")
app.add_typer(setup.mappings, name="mappings")
app.add_typer(setup.new, name="new")
app.add_typer(setup.configuration, name="config")


def _config_first(words: list[str]) -> list[str]:
    """The words with `--config PATH` before the command, where it may be written after it too."""
    own = words.index("--") if "--" in words else len(words)
    for at, word in enumerate(words[:own]):
        if word.startswith("--config="):
            return [word, *words[:at], *words[at + 1 :]]
        if word == "--config" and at + 1 < own:
            return [*words[at : at + 2], *words[:at], *words[at + 2 :]]
    return words


def main() -> None:
    """Entry point. Known errors become a message and an exit code, never a traceback."""
    from connector.domain.errors import ConfigError, ConnectorError, Problem

    # Looking for them reads the metadata of every installed package, a tenth of a short command.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    if completion.VARIABLE in os.environ:
        completion.initialise()
    with terminal.protected_streams():
        try:
            app(_config_first(sys.argv[1:]))
        except ConfigError as error:
            for fault in error.faults:
                print(fault, file=sys.stderr)
            sys.exit(2)
        except ConnectorError as error:
            print(f"{error.problem} {error.detail}", file=sys.stderr)
            if "`" not in error.detail:  # a detail that names a command is more specific
                print(f"what to do: {error.problem.remedy}", file=sys.stderr)
            # As with a faulty configuration, a restart does not help.
            sys.exit(2 if error.problem is Problem.STORE_SCHEMA else 1)
