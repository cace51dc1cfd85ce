"""Taking the store over: at the start, and after another process has had it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from connector.domain.attention import AttentionItem
from connector.domain.errors import Problem, StoreError
from connector.pipeline.lane_queues import all_queues
from connector.pipeline.lease import LeaseRenewer
from connector.ports import Clock, Fence, Store
from connector.runtime import log
from connector.runtime.metrics import Metrics

_RETRY_SECONDS = 1.0


class Takeover:
    """connector.ports.workers.Loop that takes the store over again after the lease was lost.

    `refresh` loads what other processes may have changed: states of lanes and quota that was spent.
    Nothing is delivered before it has: no lease is valid until then. `on_retaken` is called after a
    lease that was lost is held again.
    """

    def __init__(
        self,
        store: Store,
        lease: LeaseRenewer,
        clock: Clock,
        metrics: Metrics,
        *,
        refresh: Callable[[], Awaitable[None]],
        on_retaken: Callable[[], Awaitable[None]],
    ) -> None:
        self.wakeup = asyncio.Event()
        self._store = store
        self._lease = lease
        self._clock = clock
        self._metrics = metrics
        self._refresh = refresh
        self._on_retaken = on_retaken
        self._lost = False
        self._log = log.get("takeover")

    async def idle(self) -> bool:
        return True

    async def attention(self) -> Sequence[AttentionItem]:
        return ()

    async def run_once(self) -> None:
        if self._lost:
            self._metrics.lease.labels("store").set(0)
            await self.take(float("inf"))
            await self._on_retaken()

    async def take(self, timeout: float) -> None:
        """Wait for the lease and the store, up to `timeout` seconds, then allow deliveries. Raises
        StoreError: STORE_HELD names the holder."""
        deadline = self._clock.monotonic() + timeout
        logged = False
        while True:
            fence = await self._lease.acquire(deadline - self._clock.monotonic())
            self._lost = False
            self._lease.start_renewing(self._note_loss)
            try:
                await self._recover(fence)
                await self._store.commands.requeue()
                await self._refresh()
            except StoreError as error:
                retried = error.problem in (Problem.STORE_UNAVAILABLE, Problem.STORE_HELD)
                if not retried or self._clock.monotonic() >= deadline:
                    raise
                if not logged:
                    self._log.error(
                        "store_unavailable", problem=error.problem.value, detail=error.detail
                    )
                logged = True
                await self._clock.sleep(_RETRY_SECONDS)
            else:
                break
        self._lease.activate()
        self._metrics.lease.labels("store").set(1)

    async def recover(self) -> None:
        """Release what lanes of this process had claimed and did not settle. Call it while none of
        them runs. Raises StoreError."""
        try:
            await self._recover(self._lease.fence)
        except StoreError as error:
            if error.problem is not Problem.STORE_HELD:
                raise
            # Whoever took the lease recovers.

    async def _recover(self, fence: Fence) -> None:
        now = self._clock.now()
        recovered = sum([await q.recover(fence, now=now) for q in all_queues(self._store)])
        if recovered:
            self._log.warning("claims_recovered", records=recovered)

    def _note_loss(self) -> None:
        self._lost = True
        self.wakeup.set()
