"""The real clock: the only place that asks the system for the time."""

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
    """`2026-11-20T09:30:00+00:00`: whole seconds, as Klaviyo keeps an event's time."""
    return datetime.fromtimestamp(millis // 1000, UTC).isoformat()


def to_millis(when: datetime) -> Millis:
    """ms since 1970; a moment without a zone is taken as UTC."""
    aware = when if when.tzinfo else when.replace(tzinfo=UTC)
    return Millis(round(aware.timestamp() * 1000))
