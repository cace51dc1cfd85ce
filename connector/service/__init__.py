"""What a person can ask or order. CLI, API and console all call this and hold no logic."""

from connector.service.commands import Commands
from connector.service.runtime import KLAVIYO, CommandHandler, ConnectionRuntime

__all__ = ["KLAVIYO", "CommandHandler", "Commands", "ConnectionRuntime"]
