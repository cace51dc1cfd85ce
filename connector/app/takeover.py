"""Which leases this process takes, keeps and hands over, and what it loads before it delivers.

On SQLite one lease covers the store. Where replicas share a database each Klaviyo account has a
lease, and the replica that rendezvous hashing prefers for it takes it; any other does so when that
one has not within a moment. Leases alone decide: the preference only spreads the accounts.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence, Set
from contextlib import ExitStack
from functools import partial
from hashlib import blake2b

from connector.app.connections import Connections
from connector.domain.attention import AttentionItem
from connector.domain.errors import Problem, StoreError
from connector.domain.lanes import LaneId, Millis
from connector.pipeline.holder import is_dead
from connector.pipeline.lane_queues import all_queues
from connector.pipeline.lease import TTL, ProcessLeases, ResourceLease, held_by
from connector.ports import Clock, Holder, Store
from connector.runtime import log
from connector.runtime.metrics import Metrics

_PASS_SECONDS = 1.0
_GRACE = 2.0
"""Seconds for which a free lease is left to the replica that is preferred for it."""
_ALIVE_MS = round(1000 * (TTL + 2))
"""A replica that has reported within this time may be preferred."""
_TAKEN_AT_ONCE = 4
"""Leases whose claims and states are loaded at the same time, besides slow ones."""
_HANDED_OVER = 4
"""Accounts that are handed over in `_PASS_SECONDS`: a hint of others, or of this process itself,
begins a pass early."""
_QUIET_TIMEOUT = 5.0
_KEEP_RETAKEN = 60.0
"""Seconds for which a lease is kept that was handed over in vain."""


class Takeover:
    """connector.ports.workers.Loop that takes what this process can work on.

    A lease is valid only once what the previous holder had claimed is released, and lane states and
    spent quota are loaded; a store that fails meanwhile is tried again. `on_taken` is called with
    the resource after that.
    """

    def __init__(
        self,
        store: Store,
        leases: ProcessLeases,
        connections: Connections,
        clock: Clock,
        metrics: Metrics,
        *,
        shared: bool,
        on_taken: Callable[[str], Awaitable[None]],
    ) -> None:
        self.wakeup = asyncio.Event()
        self._store = store
        self._leases = leases
        self._connections = connections
        self._clock = clock
        self._metrics = metrics
        self._shared = shared
        self._on_taken = on_taken
        self._free_since: dict[str, float] = {}
        self._kept_until: dict[str, float] = {}
        self._left_until: dict[str, float] = {}
        """A lease that was left is not taken again before then: its release wakes every replica,
        this one too."""
        self._handed_over: set[str] = set()
        self._next_hand_over = 0.0
        self._log = log.get("takeover")

    async def idle(self) -> bool:
        return not self._missing()

    async def attention(self) -> Sequence[AttentionItem]:
        return ()

    # ── at the start ─────────────────────────────────────────────────────────────────────────────

    async def take_all(self, timeout: float) -> None:
        """Take every lease, waiting up to `timeout` seconds for other processes and for a store
        that is unavailable. Raises StoreError: STORE_HELD names the holder."""
        self._leases.start(self._note_loss, self._connections.wake)
        deadline, logged = self._clock.monotonic() + timeout, ""
        while True:
            try:
                held = await self._take_free(hurry=True)
                missing = self._missing()
                if not missing:
                    return
                resource = missing[0]
                error = held_by(held[resource].holder if resource in held else "no process")
                event = "lease_awaited"
            except StoreError as failed:
                if failed.problem not in (Problem.STORE_UNAVAILABLE, Problem.STORE_HELD):
                    raise
                error, event = failed, "store_unavailable"
            if event != logged:
                # Who starts a second process by mistake sees at once why nothing happens.
                self._log.error(event, problem=error.problem.value, detail=error.detail)
                logged = event
            if self._clock.monotonic() >= deadline:
                raise error
            await self._clock.sleep(_PASS_SECONDS)

    async def take_free(self) -> None:
        """Take what no other replica holds, and begin to renew. Raises StoreError."""
        self._leases.start(self._note_loss, self._connections.wake)
        await self._take_free()

    # ── one pass ─────────────────────────────────────────────────────────────────────────────────

    async def run_once(self) -> float:
        await self._release_unused()
        if self._shared or self._missing():
            await self._take_free()
        return _PASS_SECONDS

    async def _release_unused(self) -> None:
        """A connection was removed, or its account is known now and has another lease."""
        wanted = self._connections.resources()
        unused = [lease for lease in self._leases.held() if lease.resource not in wanted]
        if unused:
            for lease in unused:
                self._metrics.forget_lease(lease.resource)
            await self._leases.release(unused)

    def _missing(self) -> list[str]:
        """Resources whose lease this process could use and has not, or has not activated."""
        wanted = sorted(self._connections.resources())
        return [r for r in wanted if not self._leases.of(r).usable]

    async def _take_free(self, *, hurry: bool = False) -> Mapping[str, Holder]:
        """Take what no one else holds. Without `hurry` the preferred replica goes first, and gets
        what this one should not keep. Returns who holds which resource."""
        at_once = asyncio.Semaphore(_TAKEN_AT_ONCE)
        taking: dict[str, asyncio.Task[None]] = {}
        failures: dict[str, BaseException] = {}
        try:
            held, preferred = await self._look(hurry)
            while True:
                # What failed is repeated for as long as another one is under way.
                repeat = any(resource not in failures for resource in taking)
                for resource in self._missing():
                    if resource not in taking and (repeat or resource not in failures):
                        take = partial(self._take, resource, held, preferred)
                        taking[resource] = asyncio.create_task(_in_turn(at_once, take))
                if taking:
                    # One that is slow keeps no other, also none that becomes free meanwhile.
                    await asyncio.wait(taking.values(), timeout=_PASS_SECONDS)
                for resource, task in list(taking.items()):
                    if task.done():
                        del taking[resource]
                        failures.pop(resource, None)
                        if failed := task.exception():
                            failures[resource] = failed
                if not taking:
                    break
                # To fail would cut off those that are being taken, and what they start.
                with contextlib.suppress(StoreError):
                    held, preferred = await self._look(hurry)
        finally:
            for task in taking.values():
                task.cancel()
            await asyncio.gather(*taking.values(), return_exceptions=True)
        for failed in failures.values():
            raise failed
        if preferred:
            await self._hand_over(preferred)
        return held

    async def _look(self, hurry: bool) -> tuple[Mapping[str, Holder], Mapping[str, str]]:
        """Who holds which resource, and who should. Raises StoreError."""
        held = await self._store.leases.holders(now=self._clock.now())
        return held, await self._preferred(held) if self._shared and not hurry else {}

    async def _take(
        self, resource: str, held: Mapping[str, Holder], preferred: Mapping[str, str]
    ) -> None:
        """Take one lease if it is free for this replica. Raises StoreError."""
        lease, holder = self._leases.of(resource), held.get(resource)
        if lease.acquired is None:
            if not (self._may_take(resource, holder, preferred) and self._is_left(resource, held)):
                return
            dead = holder.holder if holder and is_dead(holder.holder) else None
            if await self._leases.acquire(resource, dead_holder=dead):
                return
            if dead and holder and holder.expires_at:
                self._log.warning("lease_holder_died", holder=dead)
        if not await self._is_still_left(resource):
            self._left_until[resource] = self._clock.monotonic() + _PASS_SECONDS
            await self._leases.release([lease])
            return
        try:
            await self._complete(lease)
        except StoreError as error:
            if error.problem is not Problem.STORE_HELD:
                raise
            # It has expired meanwhile. Renewal says whether it is still ours.

    def _may_take(self, resource: str, holder: Holder | None, preferred: Mapping[str, str]) -> bool:
        if self._clock.monotonic() < self._left_until.get(resource, 0.0):
            return False
        if holder and _is_live(holder):
            self._free_since.pop(resource, None)
            return holder.holder == self._leases.holder
        now = self._clock.monotonic()
        since = self._free_since.setdefault(resource, now)
        return preferred.get(resource, self._leases.holder) == self._leases.holder or (
            now - since >= _GRACE
        )

    def _is_left(self, resource: str, held: Mapping[str, Holder]) -> bool:
        """Whether no other replica still works for a connection of this account under the lease
        that the connection had before its account was known."""
        before = (held.get(name) for name in self._connections.resources_before(resource))
        return not any(h and _is_live(h) and h.holder != self._leases.holder for h in before)

    async def _is_still_left(self, resource: str) -> bool:
        """Whether that holds now that the lease is acquired, and the account is not another one: of
        two replicas one may have learnt it and the other not yet. Raises StoreError."""
        if await self._connections.is_outdated(resource):
            return False
        return self._is_left(resource, await self._store.leases.holders(now=self._clock.now()))

    async def _complete(self, lease: ResourceLease) -> None:
        """Load what other processes may have changed, then allow deliveries. Raises StoreError; the
        next pass then tries again."""
        resource, fence = lease.resource, lease.acquired
        if fence is None:
            return
        now, lanes = self._clock.now(), self._connections.lanes_of(resource)
        recovered = 0
        if lanes is None or lanes:
            for queue in all_queues(self._store):
                recovered += await queue.recover(fence, now=now, lanes=lanes)
        if recovered:
            self._log.warning("claims_recovered", resource=resource, records=recovered)
        await self._store.commands.requeue(scope=self._connections.command_scope([resource]))
        await self._connections.refresh(resource)
        if lease.acquired != fence:
            return  # it was lost meanwhile
        lease.activate()
        self._free_since.pop(resource, None)
        if resource in self._handed_over:
            self._handed_over.discard(resource)
            self._kept_until[resource] = self._clock.monotonic() + _KEEP_RETAKEN
        self._show([resource])
        if self._shared:
            self._log.info("lease_taken", resource=resource)
        self._connections.wake(resource)
        await self._on_taken(resource)

    # ── other replicas ───────────────────────────────────────────────────────────────────────────

    async def _preferred(self, held: Mapping[str, Holder]) -> dict[str, str]:
        """Resource → the live replica that should have it."""
        since = Millis(self._clock.now() - _ALIVE_MS)
        gone = {h.holder for h in held.values() if h.expired and h.expires_at > 0}
        offers = {
            state.holder: state.offers
            for state in await self._store.process_reports.since(since)
            if state.holder not in gone and not is_dead(state.holder)
        }
        offers[self._leases.holder] = frozenset(self._connections.resources())
        return {
            resource: preferred_holder(
                resource, (holder for holder, offered in offers.items() if resource in offered)
            )
            for resource in offers[self._leases.holder]
        }

    async def _hand_over(self, preferred: Mapping[str, str]) -> None:
        """Release a few leases that another replica should have, once nothing is under way."""
        now = self._clock.monotonic()
        if now < self._next_hand_over:
            return
        given = [
            lease
            for lease in self._leases.held()
            if lease.valid()
            and preferred.get(lease.resource, self._leases.holder) != self._leases.holder
            and self._kept_until.get(lease.resource, now) <= now
        ][:_HANDED_OVER]
        if not given:
            return
        self._next_hand_over = now + _PASS_SECONDS
        for lease in given:
            lease.suspend()
        quiet = await asyncio.gather(
            *(self._connections.until_quiet(lease.resource, _QUIET_TIMEOUT) for lease in given)
        )
        ready = [lease for lease, is_quiet in zip(given, quiet, strict=True) if is_quiet]
        for lease in given:
            if lease not in ready and lease.acquired:
                # A request may still be under way: another process must not begin with the same.
                lease.activate()
                self._kept_until[lease.resource] = now + _KEEP_RETAKEN
                self._connections.wake(lease.resource)
        await self._leases.release(ready)
        names = [lease.resource for lease in ready]
        self._handed_over.update(names)
        self._show(names)
        if names:
            self._log.info("leases_handed_over", resources=names)

    # ── loss ─────────────────────────────────────────────────────────────────────────────────────

    async def recover(self, stopped: Mapping[str, Set[LaneId]]) -> None:
        """Release what these lanes, which do not run, had claimed and did not settle: by the
        resource whose lease they run under. Without a lease, whoever takes it does so. Raises
        StoreError."""
        for resource, lanes in stopped.items():
            # Also of a lease that is not active: it may be handed over in vain, or the lanes have
            # replaced those for which it is being completed.
            fence = self._leases.of(resource).acquired
            if not (fence and lanes):
                continue
            try:
                for queue in all_queues(self._store):
                    await queue.recover(fence, now=self._clock.now(), lanes=lanes)
            except StoreError as error:
                if error.problem is not Problem.STORE_HELD:
                    raise
                # Renewal says whether it is still ours. To complete it as one that was acquired
                # would release what lanes that run are sending.
                detail = f"the lease of {resource} was not renewed in time"
                raise StoreError(Problem.STORE_UNAVAILABLE, detail) from error

    def _note_loss(self, resource: str) -> None:
        self._show([resource])
        self.wakeup.set()

    def _show(self, resources: Collection[str]) -> None:
        for resource in resources:
            self._metrics.set_lease(resource, held=self._leases.of(resource).usable)


def _is_live(holder: Holder) -> bool:
    return not holder.expired and not is_dead(holder.holder)


async def _in_turn(at_once: asyncio.Semaphore, take: Callable[[], Awaitable[None]]) -> None:
    """One that is slow gives its turn to another."""
    await at_once.acquire()
    given = ExitStack()
    given.callback(at_once.release)
    timer = asyncio.get_running_loop().call_later(_PASS_SECONDS, given.close)
    try:
        await take()
    finally:
        timer.cancel()
        given.close()


def preferred_holder(resource: str, holders: Iterable[str]) -> str:
    """The one with the highest weight (rendezvous hashing): one more or one less moves only the
    resources that it gets or had."""
    return max(holders, key=lambda h: blake2b(f"{h}\0{resource}".encode(), digest_size=8).digest())
