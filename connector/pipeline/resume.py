"""What waited, or was passed over, while a lane sent nothing is made ready when it sends again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from connector.domain.attention import AttentionItem
from connector.domain.lanes import Millis
from connector.ports import Clock, Fence, Lease
from connector.runtime import log

Resume = Callable[[Millis], Awaitable[int]]
"""Makes the entries of one lane ready, at the given time, and wakes the lane; how many."""
_LEASE_RETRY = 1.0


class ResumeWorker:
    """connector.ports.workers.Loop of one connection. It has work once after each start, because
    only then are the lanes of an earlier configuration known to have ended, and once after each
    regained lease: another process may have held records by another configuration."""

    def __init__(
        self, connection: str, resumptions: Sequence[Resume], lease: Lease, clock: Clock
    ) -> None:
        self.wakeup = asyncio.Event()
        self._resumptions = resumptions
        self._lease = lease
        self._clock = clock
        self._done_under: Fence | None = None
        self._log = log.get("lanes").bind(connection=connection)

    async def run_once(self) -> float | None:
        if not self._lease.valid():
            return _LEASE_RETRY
        fence = self._lease.fence
        if fence == self._done_under:
            return None
        resumed = [await resume(self._clock.now()) for resume in self._resumptions]
        self._done_under = fence
        if any(resumed):
            self._log.info("waiting_records_resumed", records=sum(resumed))
        return None

    async def idle(self) -> bool:
        return self._done_under is not None

    async def attention(self) -> Sequence[AttentionItem]:
        return ()
