"""What becomes of held actions: an answered cap releases or refuses them, and a person who is seen
at last lets his own go."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from connector.domain.attention import AttentionItem
from connector.domain.lanes import Lane
from connector.ports import ActionQueue, Approvals, Clock
from connector.runtime import log

CAP = "cap"
_INTERVAL = 60.0


class HeldActionsWorker:
    """One lane's. `released` is called when something may be sent."""

    def __init__(
        self,
        lane: Lane,
        queue: ActionQueue,
        approvals: Approvals,
        clock: Clock,
        *,
        on_released: Callable[[], None],
    ) -> None:
        self._lane = lane
        self._queue = queue
        self._approvals = approvals
        self._clock = clock
        self._on_released = on_released
        self.wakeup = asyncio.Event()
        self._log = log.get("actions").bind(connection=lane.connection)

    async def idle(self) -> bool:
        """Held actions are no work that is due."""
        return True

    async def attention(self) -> Sequence[AttentionItem]:
        return ()

    async def run_once(self) -> float:
        """At once, when an approval is decided, and every minute."""
        now = self._clock.now()
        changed = await self._queue.release_identified(self._lane.id, now=now)
        for approval in await self._approvals.find(pending=False):
            is_ours = approval.connection == self._lane.connection and approval.what == CAP
            if is_ours and approval.state != "pending":
                count = await self._queue.resolve_cap(self._lane, approval, now=now)
                self._log.info("a cap was answered", answer=approval.state, actions=count)
                changed += count
        if changed:
            self._on_released()
        return _INTERVAL
