"""The system clock: the only place that reads the time of the machine."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime

from connector.domain.lanes import Millis


class SystemClock:
    """Wall and monotonic time of this machine."""

    def now(self) -> Millis:
        return Millis(time.time_ns() // 1_000_000)

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def wait(self, event: asyncio.Event, timeout: float | None) -> bool:
        try:
            await asyncio.wait_for(event.wait(), timeout)
        except TimeoutError:
            return False
        return True


def iso(millis: int) -> str:
    """`2026-11-20T09:30:00+00:00`. Whole seconds, the precision of Klaviyo's event time."""
    return datetime.fromtimestamp(millis // 1000, UTC).isoformat()


def to_millis(when: datetime) -> Millis:
    """Milliseconds since 1970. A time without a zone is in UTC."""
    aware = when if when.tzinfo else when.replace(tzinfo=UTC)
    return Millis(round(aware.timestamp() * 1000))
