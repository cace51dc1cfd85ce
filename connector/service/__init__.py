"""Queries and commands: CLI, API and console call these and hold no logic.

The names are loaded when they are first used: a command that needs only the status document, or
only the settings, does not wait for the pipeline to be imported.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from connector.service.commands import Commands
    from connector.service.runtime import CommandHandler, CommandResult, ConnectionRuntime

_MODULES = {
    "CommandHandler": "runtime",
    "CommandResult": "runtime",
    "Commands": "commands",
    "ConnectionRuntime": "runtime",
}

__all__ = ["CommandHandler", "CommandResult", "Commands", "ConnectionRuntime"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
