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
    """Builds a status once for all who ask within a second, however many they are."""

    def __init__(self, build: Callable[[], Awaitable[Status]], clock: Clock) -> None:
        self._build = build
        self._clock = clock
        self._current: asyncio.Task[Status] | None = None
        self._began = 0.0

    def expire(self) -> None:
        """A person changed something: whoever asks from now on sees it."""
        self._current = None

    async def get(self) -> Status:
        """Raises StoreError; the next call then builds again."""
        task, now = self._current, self._clock.monotonic()
        if task is None or now - self._began >= LIFE or _failed(task):
            task, self._began = asyncio.ensure_future(self._build()), now
            task.add_done_callback(_failed)
            self._current = task
        # One of several readers may be cancelled.
        return await asyncio.shield(task)


def _failed(task: asyncio.Task[Status]) -> bool:
    return task.done() and (task.cancelled() or task.exception() is not None)
