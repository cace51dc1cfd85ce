"""Keeps the store's lease: renews it well before it ends, and stops trusting it as soon as it might
have ended."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from pathlib import Path

from connector.domain.errors import Problem, StoreError
from connector.pipeline.store_outage import until_available
from connector.ports import Clock, Fence, Holder, Store
from connector.runtime import log

TTL = 12.0
_RENEW_EVERY = 4.0
_SAFETY_MARGIN = 2.0
STORE_RESOURCE = "store"


def holder_name() -> str:
    """This process, for the person who reads `held by` and for `is_dead`: host, process id, and
    what distinguishes it from any other process with the same id."""
    pid = os.getpid()
    proof = (
        f"{_machine_id()}.{_process_start(pid)}" if _machine_id() and _process_start(pid) else "-"
    )
    return f"{socket.gethostname()}/{pid}/{proof}/{secrets.token_hex(2)}"


def is_dead(holder: str) -> bool:
    """Whether that holder is proved to be a dead process of this machine.

    Proved means: named by the same running kernel, in our own process namespace, and the kernel
    has no process of that id, or one that began at another time. Whatever cannot be proved (another
    host or container, another system than Linux) counts as alive: its lease runs out.
    """
    return _lives(holder) is False


def is_alive(holder: str) -> bool:
    """Whether that holder is proved to be a living process of this machine, whatever its lease
    says."""
    return _lives(holder) is True


def _lives(holder: str) -> bool | None:
    """None where nothing can be proved."""
    parts = holder.rsplit("/", 3)
    if len(parts) != 4 or parts[0] != socket.gethostname() or not parts[1].isdecimal():
        return None
    machine, _, started = parts[2].partition(".")
    if not started or not machine or machine != _machine_id():
        return None
    pid = int(parts[1])
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    now = _process_start(pid)
    return None if now is None else now == started


def _machine_id() -> str:
    """Identifies this boot of this kernel and our namespaces of process ids and time; empty where
    the system does not provide it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        pids = os.readlink("/proc/self/ns/pid")
        times = os.readlink("/proc/self/ns/time") if Path("/proc/self/ns/time").exists() else ""
    except OSError:
        return ""
    return sha256(f"{boot}{pids}{times}".encode()).hexdigest()[:12]


def _process_start(pid: int) -> str | None:
    """When a process started, in ticks since boot; None where the system does not provide it."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The second field is the program's name in brackets, which may hold anything.
    fields = stat.rpartition(")")[2].split()
    return fields[19] if len(fields) > 19 else None


class LeaseRenewer:
    """connector.ports.Lease that renews itself.

    `valid` counts from before the renewal was sent, by the monotonic clock and less a margin, so
    that it is False before the store would grant the lease to another holder. A lease that was
    acquired is neither valid nor has it a fence before `activate`: first its holder loads what
    other processes have changed.
    """

    def __init__(
        self, store: Store, clock: Clock, holder: str, resource: str = STORE_RESOURCE
    ) -> None:
        self._store = store
        self._clock = clock
        self._holder = holder
        self._resource = resource
        self._fence: Fence | None = None
        self._valid_until = 0.0
        self._active = False
        self._task: asyncio.Task[None] | None = None
        self._log = log.get("lease")

    @property
    def fence(self) -> Fence:
        if self._fence is None or not self._active:
            raise StoreError(Problem.STORE_HELD, f"no lease of {self._resource} was taken")
        return self._fence

    def valid(self) -> bool:
        return self._active and self._clock.monotonic() < self._valid_until

    async def acquire(self, timeout: float) -> Fence:
        """Take the lease, waiting up to `timeout` seconds for another holder to release it, and for
        a store that is unavailable. A holder that died on this machine is not waited for.

        Raises StoreError: STORE_HELD names the holder.
        """
        self._active = False
        deadline = self._clock.monotonic() + timeout
        dead_holder: str | None = None
        while True:
            answer = await until_available(
                partial(self._try_acquire, dead_holder),
                self._clock,
                timeout=deadline - self._clock.monotonic(),
            )
            if isinstance(answer, Fence):
                return answer
            if is_dead(answer.holder) and answer.holder != dead_holder:
                dead_holder = answer.holder
                self._log.warning("lease_holder_died", holder=dead_holder)
                continue
            if self._clock.monotonic() >= deadline:
                raise StoreError(
                    Problem.STORE_HELD,
                    f"{answer.holder} holds this store; stop it, or give this one a store of its "
                    "own",
                )
            await self._clock.sleep(1.0)

    async def _try_acquire(self, dead_holder: str | None) -> Fence | Holder:
        began = self._clock.monotonic()
        answer = await self._store.leases.acquire(
            self._resource,
            self._holder,
            now=self._clock.now(),
            ttl=round(TTL * 1000),
            dead_holder=dead_holder,
        )
        if isinstance(answer, Fence):
            self._fence, self._valid_until = answer, began + TTL - _SAFETY_MARGIN
        return answer

    def activate(self) -> None:
        """Allow deliveries, for as long as the lease is renewed."""
        self._active = True

    def start_renewing(self, on_lost: Callable[[], None]) -> None:
        """Renew in the background; `on_lost` is called when another process has taken the lease."""
        if self._task:
            self._task.cancel()
        self._task = asyncio.create_task(self._renew_loop(on_lost))

    async def _renew_loop(self, on_lost: Callable[[], None]) -> None:
        while True:
            await self._clock.sleep(_RENEW_EVERY)
            began = self._clock.monotonic()
            try:
                ours = await self._renew()
            except StoreError:
                continue
            except Exception:
                # If the loop ended here, the lanes would never deliver again.
                self._log.exception("lease_renewal_failed", resource=self._resource)
                continue
            if not ours:
                self._active, self._valid_until = False, 0.0
                self._log.error("lease_lost", resource=self._resource)
                on_lost()
                return
            self._valid_until = began + TTL - _SAFETY_MARGIN

    async def _renew(self) -> bool:
        return self._fence is not None and await self._store.leases.renew(
            self._fence, now=self._clock.now(), ttl=round(TTL * 1000)
        )

    async def release(self) -> None:
        """Release it at once, so that the next holder need not wait for it to expire."""
        if self._task:
            self._task.cancel()
        self._active, self._valid_until = False, 0.0
        if self._fence:
            try:
                await self._store.leases.release(self._fence)
            except StoreError as error:
                self._log.warning("lease_release_failed", detail=error.detail)
