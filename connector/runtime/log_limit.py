"""Log lines that callers can cause, at a bounded rate."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from structlog.typing import FilteringBoundLogger

from connector.ports import Clock

_KEYS = 1_000


class LogLimit:
    """Warnings of one logger: per key `burst` lines at once, then one every `seconds`.

    A line that follows suppressed ones has their number in the field `suppressed`. At most 1,000
    keys are remembered.
    """

    def __init__(
        self, logger: FilteringBoundLogger, clock: Clock, *, burst: int = 10, seconds: float = 10.0
    ) -> None:
        self._log = logger
        self._clock = clock
        self._burst = burst
        self._seconds = seconds
        self._spent: dict[Hashable, tuple[float, float, int]] = {}
        """Key → (lines not yet recovered, when that was, suppressed since the last line)."""

    def warning(self, key: Hashable, event: str, **fields: Any) -> None:
        now = self._clock.monotonic()
        spent, at, suppressed = self._spent.get(key, (0.0, now, 0))
        spent = max(0.0, spent - (now - at) / self._seconds)
        if spent > self._burst - 1:
            self._spent[key] = (spent, now, suppressed + 1)
            return
        if key not in self._spent and len(self._spent) >= _KEYS:
            self._spent.pop(next(iter(self._spent)))
        self._spent[key] = (spent + 1, now, 0)
        if suppressed:
            fields["suppressed"] = suppressed
        self._log.warning(event, **fields)
