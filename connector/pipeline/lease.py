"""The leases of this process: renewed well before they end, and not trusted any more as soon as
they might have ended."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection

from connector.domain.errors import Problem, StoreError
from connector.pipeline.holder import holder_name, is_dead
from connector.ports import Clock, Fence, Holder, Store
from connector.runtime import log

TTL = 10.0
_RENEW_EVERY = 3.0
_SAFETY_MARGIN = 2.0
STORE_RESOURCE = "store"
"""On SQLite the lease of everything. Where replicas share a database each Klaviyo account has one
of its own, and this is for what concerns no account."""


class ResourceLease:
    """connector.ports.Lease of one resource.

    `valid` counts from before the renewal was sent, by the monotonic clock and less a margin, so
    that it is False before the store would grant the lease to another process. A lease that was
    acquired is neither valid nor has it a fence before it is activated: first its holder loads what
    other processes have changed.
    """

    def __init__(self, resource: str, clock: Clock) -> None:
        self.resource = resource
        self._clock = clock
        self._fence: Fence | None = None
        self._valid_until = 0.0
        self._active = False

    @property
    def fence(self) -> Fence:
        if self._fence is None or not self._active:
            raise StoreError(Problem.STORE_HELD, f"no lease of {self.resource} was taken")
        return self._fence

    @property
    def acquired(self) -> Fence | None:
        """The fence of a lease that may not be activated yet, or is suspended."""
        return self._fence

    @property
    def usable(self) -> bool:
        """Whether it was acquired and activated, and not suspended since."""
        return self._active

    def valid(self) -> bool:
        return self._active and self._clock.monotonic() < self._valid_until

    def grant(self, fence: Fence, valid_until: float) -> None:
        """It was acquired."""
        self._fence, self._valid_until, self._active = fence, valid_until, False

    def extend(self, valid_until: float) -> None:
        """It was renewed."""
        self._valid_until = valid_until

    def activate(self) -> None:
        """Allow deliveries, for as long as it is renewed."""
        self._active = True

    def suspend(self) -> None:
        """Allow nothing new. It is still renewed, so that what is under way can end."""
        self._active = False

    def drop(self) -> None:
        """It was released or taken."""
        self._fence, self._valid_until, self._active = None, 0.0, False


class ProcessLeases:
    """The leases of this process by resource. `start` renews them in the background: `on_lost` is
    called when another process has taken one, `on_valid` when one is valid again that had not been
    renewed in time. Methods raise StoreError."""

    def __init__(self, store: Store, clock: Clock, holder: str | None = None) -> None:
        self.holder = holder or holder_name()
        self._store = store
        self._clock = clock
        self._leases: dict[str, ResourceLease] = {}
        self._task: asyncio.Task[None] | None = None
        self._acquiring: set[asyncio.Task[Holder | None]] = set()
        self._log = log.get("lease")

    def of(self, resource: str) -> ResourceLease:
        """The lease of a resource, whether this process has it or not: always the same object."""
        if resource not in self._leases:
            self._leases[resource] = ResourceLease(resource, self._clock)
        return self._leases[resource]

    def held(self) -> list[ResourceLease]:
        """Acquired and neither released nor lost."""
        return [lease for lease in self._leases.values() if lease.acquired]

    async def acquire(self, resource: str, *, dead_holder: str | None = None) -> Holder | None:
        """None where it was acquired, else who holds it. `dead_holder` is not waited for. It
        continues where its caller is cancelled, so that `aclose` releases what the store has
        granted."""
        acquiring = asyncio.create_task(self._acquire(resource, dead_holder))
        self._acquiring.add(acquiring)
        acquiring.add_done_callback(self._acquiring.discard)
        return await asyncio.shield(acquiring)

    async def _acquire(self, resource: str, dead_holder: str | None) -> Holder | None:
        began = self._clock.monotonic()
        answer = await self._store.leases.acquire(
            resource,
            self.holder,
            now=self._clock.now(),
            ttl=round(TTL * 1000),
            dead_holder=dead_holder,
        )
        if isinstance(answer, Holder):
            return answer
        self.of(resource).grant(answer, began + TTL - _SAFETY_MARGIN)
        return None

    async def acquire_store(self) -> Holder | None:
        """The lease of the store, for a process that runs no connection. A holder that died on this
        machine is not waited for."""
        other = await self.acquire(STORE_RESOURCE)
        if other and is_dead(other.holder):
            other = await self.acquire(STORE_RESOURCE, dead_holder=other.holder)
        return other

    async def release(self, leases: Collection[ResourceLease]) -> None:
        """Release them at once, so that the next holder need not wait for them to expire."""
        fences = [lease.acquired for lease in leases if lease.acquired]
        for lease in leases:
            lease.drop()
        if fences:
            await self._store.leases.release(fences)
            with contextlib.suppress(StoreError):
                await self._store.hints.send_released()

    async def give_back(self, leases: Collection[ResourceLease]) -> None:
        """`release` before the end of this process. Those that the store does not take expire."""
        try:
            await self.release(leases)
        except StoreError as error:
            self._log.warning("lease_release_failed", detail=error.detail)

    def start(self, on_lost: Callable[[str], None], on_valid: Callable[[str], None]) -> None:
        if self._task:
            self._task.cancel()
        self._task = asyncio.create_task(self._renew_loop(on_lost, on_valid))

    async def aclose(self) -> None:
        """Stop renewing, and release all."""
        if self._task:
            self._task.cancel()
            await asyncio.wait([self._task])
        await asyncio.gather(*self._acquiring, return_exceptions=True)
        await self.give_back(self.held())

    async def _renew_loop(
        self, on_lost: Callable[[str], None], on_valid: Callable[[str], None]
    ) -> None:
        while True:
            await self._clock.sleep(_RENEW_EVERY)
            try:
                await self._renew(on_lost, on_valid)
            except StoreError:
                continue
            except Exception:
                # If the loop ended here, the lanes would never deliver again.
                self._log.exception("lease_renewal_failed")

    async def _renew(self, on_lost: Callable[[str], None], on_valid: Callable[[str], None]) -> None:
        began = self._clock.monotonic()
        held = {lease.acquired: lease for lease in self.held() if lease.acquired}
        if not held:
            return
        ours = await self._store.leases.renew(held, now=self._clock.now(), ttl=round(TTL * 1000))
        for fence, lease in held.items():
            if lease.acquired != fence:
                continue  # released or acquired again meanwhile
            if fence in ours:
                was_valid = lease.valid()
                lease.extend(began + TTL - _SAFETY_MARGIN)
                if lease.valid() and not was_valid:
                    on_valid(lease.resource)
            else:
                lease.drop()
                self._log.error("lease_lost", resource=lease.resource)
                on_lost(lease.resource)


def held_by(holder: str) -> StoreError:
    """The error of a process that needs a lease which another one has."""
    host, _, rest = holder.partition("/")
    who = f"process {rest.partition('/')[0]} on {host}" if rest else holder
    return StoreError(
        Problem.STORE_HELD,
        f"{who} holds this store; this one is not needed beside it, or needs a store of its own",
    )
