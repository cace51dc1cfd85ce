"""The status for many readers: open pages, scripts, the demo's screen."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from connector.ports import Clock
from connector.service.status import Status

LIFE: Final = 1.0
"""Seconds for which a status is given out. Changes are announced no sooner
(connector.runtime.changes), so that a page that follows an announcement shows the change."""


class LatestStatus:
    """Builds a status once for all who ask within a second, however many they are, and one at a
    time."""

    def __init__(self, build: Callable[[], Awaitable[Status]], clock: Clock) -> None:
        self._build = build
        self._clock = clock
        self._building = asyncio.Lock()
        self._status: Status | None = None
        self._began = self._expired = float("-inf")

    def expire(self) -> None:
        """A person changed something: whoever asks from now on sees it."""
        self._expired = self._clock.monotonic()

    async def get(self) -> Status:
        """One that was begun at most a second before this call. Raises StoreError."""
        oldest = max(self._clock.monotonic() - LIFE, self._expired)
        async with self._building:
            if self._status is None or self._began <= oldest:
                began = self._clock.monotonic()
                self._status = await self._build()
                self._began = began
            return self._status
