"""Failures in a row of one loop, so that a long outage is two log lines and not thousands."""

from __future__ import annotations

from typing import Any

from structlog.typing import FilteringBoundLogger


class FailureStreak:
    """Logs the first failure in a row as an error, and the recovery after it.

    `failed` and `recovered` are the log events; `count` is the number of failures in a row and
    `last` the text of the newest one ("" after a recovery).
    """

    def __init__(self, logger: FilteringBoundLogger, failed: str, recovered: str) -> None:
        self._log = logger
        self._failed = failed
        self._recovered = recovered
        self.count = 0
        self.last = ""
        self._problem: str | None = None

    def record(self, error: str, **fields: Any) -> None:
        """A failure. `fields` go to the log with it."""
        self.count += 1
        self.last = error
        self._problem = fields.get("problem")
        if self.count == 1:
            self._log.error(self._failed, error=error, **fields)

    def clear(self) -> None:
        """A success."""
        if self.count:
            cause = {"problem": self._problem} if self._problem else {}
            self._log.info(self._recovered, failures=self.count, **cause)
        self.count, self.last = 0, ""
