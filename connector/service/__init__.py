"""What a person can ask or order. CLI, API and console all call this and hold no logic."""

from connector.service.commands import Operator
from connector.service.connection import KLAVIYO, Handler, Line

__all__ = ["KLAVIYO", "Handler", "Line", "Operator"]
