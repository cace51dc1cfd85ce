"""A clock that a test moves."""

from __future__ import annotations

import asyncio
import heapq
import itertools

from connector.domain.lanes import Millis

START = 1_790_000_000_000


class FakeClock:
    """connector.ports.Clock that `advance` moves, waking sleepers whose time has come."""

    def __init__(self, now: int = START) -> None:
        self._now = float(now)
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    def now(self) -> Millis:
        return Millis(round(self._now))

    def monotonic(self) -> float:
        return self._now / 1000

    def move(self, seconds: float) -> None:
        """Move time without running other tasks."""
        self._now += seconds * 1000

    async def advance(self, seconds: float) -> None:
        """Move time step by step, waking sleepers in order and running their tasks."""
        target = self._now + seconds * 1000
        await run_pending()
        while self._sleepers and self._sleepers[0][0] <= target:
            at, _, sleeper = heapq.heappop(self._sleepers)
            self._now = max(self._now, at)
            if not sleeper.done():
                sleeper.set_result(None)
            await run_pending()
        self._now = target
        await run_pending()

    async def sleep(self, seconds: float) -> None:
        sleeper = asyncio.get_running_loop().create_future()
        heapq.heappush(
            self._sleepers, (self._now + max(0.0, seconds) * 1000, next(self._order), sleeper)
        )
        await sleeper

    async def wait(self, event: asyncio.Event, timeout: float | None) -> bool:
        if event.is_set():
            return True
        waiting = asyncio.ensure_future(event.wait())
        if timeout is None:
            return await waiting
        sleeping = asyncio.ensure_future(self.sleep(timeout))
        try:
            await asyncio.wait({waiting, sleeping}, return_when=asyncio.FIRST_COMPLETED)
            return event.is_set()
        finally:
            waiting.cancel()
            sleeping.cancel()


_MOST_TURNS, _IDLE_TURNS = 500, 3


async def run_pending() -> None:
    """Run every task that is ready, and what these make ready."""
    # asyncio does not say whether a task is ready. Another caller of this function always is.
    ready = asyncio.get_running_loop()._ready  # type: ignore[attr-defined]
    idle = 0
    for _ in range(_MOST_TURNS):
        await asyncio.sleep(0)
        idle = 0 if ready else idle + 1
        if idle == _IDLE_TURNS:
            return
