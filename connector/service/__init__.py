"""Queries and commands: CLI, API and console call these and hold no logic."""

from connector.service.commands import Commands
from connector.service.runtime import (
    KLAVIYO,
    CommandHandler,
    CommandResult,
    ConnectionRuntime,
)

__all__ = ["KLAVIYO", "CommandHandler", "CommandResult", "Commands", "ConnectionRuntime"]
