"""The system clock: the only place that reads the time of the machine."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime

from connector.domain.lanes import Millis
from connector.ports import Clock

_MONOTONIC = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Linux has a clock that counts while the machine sleeps: a lease ends then as well."""


class SystemClock:
    """Wall and monotonic time of this machine."""

    def now(self) -> Millis:
        return Millis(time.time_ns() // 1_000_000)

    def monotonic(self) -> float:
        return time.clock_gettime(_MONOTONIC)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def wait(self, event: asyncio.Event, timeout: float | None) -> bool:
        # Many workers wait most of the time: asyncio.wait_for would make a task of each wait.
        try:
            async with asyncio.timeout(timeout):
                await event.wait()
        except TimeoutError:
            return False
        return True


class SharedClock:
    """connector.ports.Clock whose wall time is that of a database which replicas share, once it was
    set: their own clocks need not agree, and may be set while they run."""

    def __init__(self, inner: Clock) -> None:
        self._inner = inner
        self._base: tuple[Millis, float] | None = None

    def set(self, now: Millis, *, asked_at: float) -> None:
        """The database answered `now` to a question of the monotonic time `asked_at`."""
        middle = (asked_at + self._inner.monotonic()) / 2
        self._base = (now, middle)

    def now(self) -> Millis:
        if self._base is None:
            return self._inner.now()
        then, at = self._base
        return Millis(then + round((self._inner.monotonic() - at) * 1000))

    def monotonic(self) -> float:
        return self._inner.monotonic()

    async def sleep(self, seconds: float) -> None:
        await self._inner.sleep(seconds)

    async def wait(self, event: asyncio.Event, timeout: float | None) -> bool:
        return await self._inner.wait(event, timeout)


def iso(millis: int) -> str:
    """`2026-11-20T09:30:00+00:00`. Whole seconds, the precision of Klaviyo's event time."""
    return datetime.fromtimestamp(millis // 1000, UTC).isoformat()


def to_millis(when: datetime) -> Millis:
    """Milliseconds since 1970. A time without a zone is in UTC."""
    aware = when if when.tzinfo else when.replace(tzinfo=UTC)
    return Millis(round(aware.timestamp() * 1000))
