"""What becomes of held actions: an answered cap releases or refuses them, and a person who is seen
at last lets his own go."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from connector.domain.errors import StoreError
from connector.domain.lanes import (
    Lane,
)
from connector.ports import ActionQueue, Approval, Approvals, Clock
from connector.runtime import log

CAP = "cap"
_EVERY = 60.0


class Clerk:
    """One lane's. `released` is called when something may be sent."""

    def __init__(
        self,
        lane: Lane,
        queue: ActionQueue,
        approvals: Approvals,
        clock: Clock,
        *,
        released: Callable[[], None],
    ) -> None:
        self._lane = lane
        self._queue = queue
        self._approvals = approvals
        self._clock = clock
        self._released = released
        self._bell = asyncio.Event()
        self._log = log.get("actions").bind(connection=lane.connection)

    def decided(self, answer: Approval) -> None:
        """A person has answered a question of this connection."""
        if answer.what == CAP:
            self._bell.set()

    async def run(self) -> None:
        """For ever: at once, when a question is answered, and every minute."""
        while True:
            self._bell.clear()
            try:
                await self.look()
            except StoreError as error:
                self._log.warning("held actions: the store does not answer", detail=error.detail)
            await self._clock.wait(self._bell, _EVERY)

    async def look(self) -> None:
        now = self._clock.now()
        changed = await self._queue.resume_found(self._lane.id, now=now)
        for asked in await self._approvals.find(pending=False):
            mine = asked.connection == self._lane.connection and asked.what == CAP
            if mine and asked.state != "pending":
                count = await self._queue.answer_cap(self._lane, asked, now=now)
                self._log.info("a cap was answered", answer=asked.state, actions=count)
                changed += count
        if changed:
            self._released()
