"""The command line reference, generated from the commands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from textwrap import fill

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption
from typer.main import get_command

_HEAD = """\
# Command line

Generated from the commands in `connector/cli`. The option `--help` of each command prints its part.

- Every command works with or without a running daemon. A change is stored as a command, which the
  daemon executes within 1 s while the command line waits for the result; `--detach` returns at
  once, and Ctrl-C stops waiting, not the work. Without a daemon, the command line takes the lease
  of the store and does the work itself.
- Results are printed to stdout. Logs and progress are printed to stderr.
- Commands that delete or overwrite data ask for confirmation, unless `--yes` is given.
- `--config PATH` may stand before or after the command: `connector --config PATH status`.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | failed; the message on stderr starts with a [problem code](problems/README.md) if it has one |
| 2 | wrong usage, or an invalid configuration: one line per fault on stderr |
"""
_TYPES = {"str": "TEXT", "int": "NUMBER", "float": "NUMBER", "Path": "PATH"}


def reference(app: typer.Typer) -> str:
    """Markdown: a table of all commands, then a section per command with its parameters.

    Raises TypeError for an app without commands.
    """
    root = get_command(app)
    if not isinstance(root, TyperGroup):
        raise TypeError("the app has no commands")
    commands = list(_commands(root, "connector"))
    index = [f"| [`{name}`](#{name.replace(' ', '-')}) | {_summary(c)} |" for name, c in commands]
    return "\n".join(
        [
            _HEAD,
            *_table(("option", "default", "meaning"), _options(root)),
            "",
            *_table(("command", "what it does"), index),
            "",
            *(_section(name, command) for name, command in commands),
        ]
    )


def _commands(command: object, name: str) -> Iterator[tuple[str, TyperCommand]]:
    """(name, command) of every command that is not a group."""
    if isinstance(command, TyperGroup):
        for word, inner in command.commands.items():
            yield from _commands(inner, f"{name} {word}")
    elif isinstance(command, TyperCommand):
        yield name, command


def _summary(command: TyperCommand) -> str:
    return _text(command.help or "").partition(". ")[0].removesuffix(".")


def _section(name: str, command: TyperCommand) -> str:
    arguments = [p for p in command.params if isinstance(p, TyperArgument)]
    words = [name, *(_argument(argument) for argument in arguments)]
    lines = [f"## {name}", "", f"`{' '.join(words)}`", "", fill(_text(command.help or ""), 100)]
    if arguments:
        rows = [f"| `{_argument(a)}` | {_text(a.help or '')} |" for a in arguments]
        lines += ["", *_table(("argument", "meaning"), rows)]
    if options := _options(command):
        lines += ["", *_table(("option", "default", "meaning"), options)]
    return "\n".join([*lines, ""])


def _argument(argument: TyperArgument) -> str:
    name = (argument.name or "").upper() + ("…" if argument.nargs != 1 else "")
    return name if argument.required else f"[{name}]"


def _options(command: TyperCommand | TyperGroup) -> list[str]:
    rows = []
    for option in command.params:
        if isinstance(option, TyperOption):
            value = "" if option.is_flag else f" {_TYPES[option.bare_type()]}"
            default = "" if option.is_flag or option.default in (None, "") else str(option.default)
            rows.append(f"| `{option.opts[0]}{value}` | {default} | {_text(option.help or '')} |")
    return rows


def _table(headings: Sequence[str], rows: Sequence[str]) -> list[str]:
    return [f"| {' | '.join(headings)} |", "|---" * len(headings) + "|", *rows]


def _text(help: str) -> str:
    """A help text on one line, safe inside a table."""
    return " ".join(help.split()).replace("|", "\\|")
