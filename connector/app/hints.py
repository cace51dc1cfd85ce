"""Hints to other replicas: something was stored for a connection whose lease one of them holds, or
leases were released that one of them can take.

They save them the time until they look by themselves (connector.app.daemon).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from connector.domain.attention import AttentionItem
from connector.ports import Clock, Hints

_PAUSE = 0.01
"""Seconds in which further hints are gathered: a notification costs every commit of the database a
lock."""


class HintSender:
    """connector.ports.workers.Loop that sends what `note` was called with."""

    def __init__(self, hints: Hints, clock: Clock) -> None:
        self.wakeup = asyncio.Event()
        self._hints = hints
        self._clock = clock
        self._names: set[str] = set()

    def note(self, connection: str) -> None:
        """Another process should look at this connection's lanes."""
        self._names.add(connection)
        self.wakeup.set()

    async def run_once(self) -> None:
        if self._names:
            await self._clock.sleep(_PAUSE)
            names, self._names = self._names, set()
            await self._hints.send(names)

    async def idle(self) -> bool:
        return True

    async def attention(self) -> Sequence[AttentionItem]:
        return ()


class HintReceiver:
    """connector.ports.workers.Loop that calls `on_hint` with the connection of every hint, and
    `on_released` after leases were released. One that cannot listen is no problem for a person:
    replicas look by themselves."""

    def __init__(
        self, hints: Hints, on_hint: Callable[[str], None], on_released: Callable[[], None]
    ) -> None:
        self.wakeup = asyncio.Event()
        self._hints = hints
        self._on_hint = on_hint
        self._on_released = on_released

    async def run_once(self) -> None:
        await self._hints.receive(self._on_hint, self._on_released)

    async def idle(self) -> bool:
        return True

    async def attention(self) -> Sequence[AttentionItem]:
        return ()
