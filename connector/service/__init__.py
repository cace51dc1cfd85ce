"""Queries and commands: CLI, API and console call these and hold no logic."""

from connector.service.commands import Commands
from connector.service.runtime import CommandHandler, CommandResult, ConnectionRuntime

__all__ = ["CommandHandler", "CommandResult", "Commands", "ConnectionRuntime"]
