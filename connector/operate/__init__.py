"""What a person can ask or order. CLI, API and console all call this and hold no logic."""

from connector.operate.line import KLAVIYO, Handler, Line
from connector.operate.operator import Operator

__all__ = ["KLAVIYO", "Handler", "Line", "Operator"]
