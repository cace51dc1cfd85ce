"""Releases held actions: after the decision about a cap, or once their person is known."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from connector.domain.actions import Caps
from connector.domain.attention import AttentionItem
from connector.domain.lanes import Lane
from connector.ports import ActionDecisions, Approvals, Clock
from connector.runtime import log

CAP = "cap"


class HeldActionsWorker:
    """connector.ports.workers.Loop of one lane: a pass after each wake-up, which comes when
    something can be released. `on_released` is called when the lane can send more."""

    def __init__(
        self,
        lane: Lane,
        decisions: ActionDecisions,
        approvals: Approvals,
        clock: Clock,
        *,
        caps: Caps,
        on_released: Callable[[], None],
    ) -> None:
        self._lane = lane
        self._decisions = decisions
        self._approvals = approvals
        self._clock = clock
        self._caps = caps
        self._on_released = on_released
        self.wakeup = asyncio.Event()
        self._log = log.get("actions").bind(connection=lane.connection)

    async def idle(self) -> bool:
        """What waits for a person's decision is no work that is due; what can be released is."""
        return self._lane.connection not in await self._decisions.releasable()

    async def attention(self) -> Sequence[AttentionItem]:
        return ()

    async def run_once(self) -> None:
        """Apply decided caps and release what no longer has to be held."""
        if await self.idle():
            return
        now = self._clock.now()
        if await self._decisions.release_identified(self._lane, caps=self._caps, now=now):
            self._on_released()
        for approval in await self._approvals.about(self._lane.connection, CAP):
            if approval.state != "pending":
                count = await self._decisions.resolve_cap(
                    self._lane, approval, caps=self._caps, now=now
                )
                self._log.info("cap_decided", decision=approval.state, actions=count)
                if count:
                    self._on_released()
