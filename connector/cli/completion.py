"""`connector completion`: completion of commands and options in a shell."""

from __future__ import annotations

from typing import Annotated

import typer

VARIABLE = "_CONNECTOR_COMPLETE"
"""Set by the script while the shell asks what could follow."""
_SHELLS = ("bash", "zsh", "fish")


def register(app: typer.Typer) -> None:
    app.command()(completion)


def initialise() -> None:
    """Answer the shell's question instead of running a command."""
    from typer._completion_classes import completion_init

    completion_init()


def completion(
    shell: Annotated[str, typer.Argument(help="bash, zsh or fish.")],
) -> None:
    """Print the completion script of a shell. For bash: eval "$(connector completion bash)"."""
    from typer._completion_shared import get_completion_script

    from connector.cli import session

    if shell not in _SHELLS:
        raise session.unknown("shell", shell, _SHELLS)
    print(get_completion_script(prog_name="connector", complete_var=VARIABLE, shell=shell))
