"""Keeping a lease: renewed well before it ends, and doubted as soon as it might have ended."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections.abc import Callable

from connector import log
from connector.errors import Problem, StoreError
from connector.ports import Clock, Fence, Holder, Store

TTL = 12.0
_RENEW_EVERY = 4.0
_SAFETY = 2.0
STORE = "store"


def holder_name() -> str:
    """Who we are, for the person who reads `held by`."""
    return f"{socket.gethostname()}/{os.getpid()}/{secrets.token_hex(2)}"


class LeaseKeeper:
    """connector.ports.Lease that renews itself.

    `valid` goes by the monotonic clock from before the renewal was sent, less a margin, so that
    it says no before the store would say yes to another.
    """

    def __init__(self, store: Store, clock: Clock, holder: str, resource: str = STORE) -> None:
        self._store = store
        self._clock = clock
        self._holder = holder
        self._resource = resource
        self._fence: Fence | None = None
        self._good_until = 0.0
        self._task: asyncio.Task[None] | None = None
        self._log = log.get("lease")

    @property
    def fence(self) -> Fence:
        if self._fence is None:
            raise StoreError(Problem.STORE_HELD, f"no lease of {self._resource} was taken")
        return self._fence

    def valid(self) -> bool:
        return self._fence is not None and self._clock.monotonic() < self._good_until

    async def acquire(self, patience: float) -> None:
        """Take the lease, waiting up to `patience` seconds for another holder to go.

        Raises StoreError(STORE_HELD) naming the holder.
        """
        deadline = self._clock.monotonic() + patience
        while True:
            began = self._clock.monotonic()
            answer = await self._try()
            if isinstance(answer, Fence):
                self._take(answer, began)
                return
            if self._clock.monotonic() >= deadline:
                raise StoreError(
                    Problem.STORE_HELD,
                    f"{answer.holder} holds this store; stop it, or give this one a store of its "
                    "own",
                )
            await self._clock.sleep(1.0)

    async def _try(self) -> Fence | Holder:
        return await self._store.leases.acquire(
            self._resource, self._holder, now=self._clock.now(), ttl=round(TTL * 1000)
        )

    def _take(self, fence: Fence, began: float) -> None:
        self._fence = fence
        self._good_until = began + TTL - _SAFETY

    def keep(self, lost: Callable[[], None]) -> None:
        """Renew in the background; `lost` is called when another has it."""
        self._task = asyncio.create_task(self._keep(lost))

    async def _keep(self, lost: Callable[[], None]) -> None:
        while True:
            await self._clock.sleep(_RENEW_EVERY)
            began = self._clock.monotonic()
            try:
                ours = await self._store.leases.renew(
                    self.fence, now=self._clock.now(), ttl=round(TTL * 1000)
                )
            except StoreError:
                continue
            if not ours:
                self._good_until = 0.0
                self._log.error("the lease was taken by another", resource=self._resource)
                lost()
                return
            self._good_until = began + TTL - _SAFETY

    async def release(self) -> None:
        """Give it back at once, so that the next one need not wait for it to end."""
        if self._task:
            self._task.cancel()
        self._good_until = 0.0
        if self._fence:
            try:
                await self._store.leases.release(self._fence)
            except StoreError as error:
                self._log.warning("the lease could not be given back", detail=error.detail)
