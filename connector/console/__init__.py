"""The console: pages for people, made of connector.service. They work without script; a small
script of ours keeps an open page up to date."""

from connector.console.app import Console
from connector.console.session import ConsoleServices

__all__ = ["Console", "ConsoleServices"]
