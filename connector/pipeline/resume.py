"""What waited, or was passed over, while a lane sent nothing is made ready when it sends again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from connector.domain.attention import AttentionItem
from connector.domain.lanes import Millis
from connector.ports import Clock
from connector.runtime import log

Resume = Callable[[Millis], Awaitable[int]]
"""Makes the entries of one lane ready, at the given time, and wakes the lane; how many."""


class ResumeWorker:
    """connector.ports.workers.Loop of one connection. It has work once after each start, because
    only then are the lanes of an earlier configuration known to have ended."""

    def __init__(self, connection: str, resumptions: Sequence[Resume], clock: Clock) -> None:
        self.wakeup = asyncio.Event()
        self._resumptions = resumptions
        self._clock = clock
        self._done = False
        self._log = log.get("lanes").bind(connection=connection)

    async def run_once(self) -> float | None:
        if self._done:
            return None
        resumed = [await resume(self._clock.now()) for resume in self._resumptions]
        self._done = True
        if any(resumed):
            self._log.info("waiting_records_resumed", records=sum(resumed))
        return None

    async def idle(self) -> bool:
        return self._done

    async def attention(self) -> Sequence[AttentionItem]:
        return ()
