"""The clock, and the queues that lanes claim their entries from. Every call of a queue is one
transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from connector.domain.errors import Problem
from connector.domain.lanes import DeliveryMode, Lane, LaneId, Millis, QuotaUsage
from connector.domain.outcomes import UNKNOWN_JOB, Outcome, Request
from connector.domain.records import Claim


class Clock(Protocol):
    """Time, injected: no other module asks the system what time it is."""

    def now(self) -> Millis:
        """Wall clock, ms since 1970 UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds that never run backwards."""
        ...

    async def sleep(self, seconds: float) -> None: ...

    async def wait(self, event: asyncio.Event, timeout: float | None) -> bool:
        """True when `event` was set within `timeout` seconds (None: without a limit)."""
        ...


@dataclass(frozen=True, slots=True)
class ReadyCounts:
    """What a lane could claim now, by delivery mode, live traffic apart from backfills. Counts stop
    at the requested limit. `next_due` is when the earliest row that is not due yet becomes due."""

    batch: int
    single: int
    next_due: Millis | None
    backfill_batch: int = 0
    backfill_single: int = 0

    def count(self, mode: DeliveryMode, *, backfill: bool) -> int:
        single = mode is DeliveryMode.SINGLE
        if backfill:
            return self.backfill_single if single else self.backfill_batch
        return self.single if single else self.batch

    @property
    def total(self) -> int:
        return self.batch + self.single + self.backfill_batch + self.backfill_single


@dataclass(frozen=True, slots=True)
class Fence:
    """Proof of a lease: a store call that carries a fence of a lost lease changes nothing and
    raises StoreError(STORE_HELD)."""

    resource: str
    holder: str
    token: int


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When outcomes that are not final are tried again, in ms.

    A Retry whose first failure is `horizon` ago or longer becomes a dead letter. An action with an
    unknown outcome is looked up `look_ups` after it was sent; empty: never.
    """

    horizon: int
    look_ups: Sequence[int] = (0,)


class Settled(NamedTuple):
    """`changed` entries were still held by the claim. `next_due`: when the first of those that are
    ready again is due; None without one."""

    changed: int
    next_due: Millis | None = None


class Queue(Protocol):
    """Entries that a lane claims, sends and settles, one holder at a time."""

    async def ready(self, lane: LaneId, *, now: Millis, limit: int) -> ReadyCounts: ...

    async def claim(
        self,
        lane: Lane,
        fence: Fence,
        *,
        now: Millis,
        limit: int,
        mode: DeliveryMode,
        mapping: str,
        usage: Sequence[QuotaUsage] = (),
        backfill: bool | None = None,
        token: int | None = None,
    ) -> Claim | None:
        """Mark up to `limit` ready entries as sent by this holder, live before backfill, oldest
        first, and save the quota usage with it. None when nothing was ready. `backfill`: only
        entries of backfills, or only the others. Raises StoreError(STORE_HELD) without the lease.

        After any other StoreError the entries may be claimed all the same, because the answer to
        the commit was lost. A caller that chose the `token` (of 62 bits) gives them back by it.

        An ambiguous entry keeps the mapping version it was first sent with.
        """
        ...

    async def settle(
        self,
        claim: Claim,
        outcomes: Sequence[Outcome],
        *,
        now: Millis,
        policy: RetryPolicy,
        requests: Sequence[Request] = (),
    ) -> Settled:
        """Write outcomes.

        Only entries that this claim still holds change: a late or second settle changes nothing.
        """
        ...

    async def recover(
        self,
        fence: Fence,
        *,
        now: Millis,
        claim: Claim | None = None,
        lanes: Collection[LaneId] | None = None,
    ) -> int:
        """Make entries claimed by dead holders ready again, as ambiguous; returns how many. Only
        those of `lanes`, where others are another holder's.

        With `claim`, whose transaction had no answer: only what it may have claimed, of its lane
        and by its token. Nothing of that was sent, so the entries are as they were before it.
        """
        ...

    async def retry_now(self, lane: LaneId, *, now: Millis) -> int:
        """Entries that wait for their next attempt because the remote side was away are due at
        once; how many. Others keep their time: those that the remote side limits (429), and those
        whose last request may still be applied and must not be crossed."""
        ...

    async def extend_horizon(self, lane: LaneId, pause: int) -> int:
        """Push the retry horizon of a lane's entries back by `pause` ms: time in a pause does not
        count. Returns how many entries were retrying."""
        ...


@dataclass(frozen=True, slots=True)
class OpenReceipt:
    """An import job that holds writes in flight since its request was sent."""

    id: str
    since: Millis
    people: int

    @property
    def is_unknown(self) -> bool:
        """Whether the job only may exist, see connector.domain.outcomes.Pending."""
        return self.id.startswith(UNKNOWN_JOB)


class Receipts(Protocol):
    """Entries that import jobs hold in flight until the receipt of the job is closed."""

    async def open_receipts(self, lane: LaneId) -> Sequence[OpenReceipt]: ...

    async def close_receipt(
        self,
        lane: LaneId,
        receipt: str,
        *,
        now: Millis,
        failed: Mapping[int, tuple[Problem, str]],
    ) -> int:
        """The job has ended: entries in `failed`, by position, become dead, the others are
        confirmed. Returns how many there were."""
        ...

    async def requeue_receipt(self, lane: LaneId, receipt: str, *, now: Millis) -> int:
        """The result of the job cannot be known: all of its entries are sent again, in smaller
        jobs."""
        ...

    async def open_jobs(self) -> set[str]:
        """Receipts that hold writes in flight, of all lanes and of every queue with receipts."""
        ...
