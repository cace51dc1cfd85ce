"""What is queued at the far end, followed to its true end (promise 1): a job's receipt settles its
people one by one. Where a job may exist that nobody told us of, its people stay in flight until
the far end has no job left that is not accounted for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from connector.domain.attention import AttentionItem
from connector.domain.errors import DeliveryError, Problem, StoreError
from connector.domain.lanes import Lane
from connector.ports import Clock, Jobs, Lease, OpenReceipt, ReceiptQueue
from connector.runtime import log
from connector.runtime.metrics import Metrics

MIN_POLL_SECONDS = 1.0
MAX_POLL_SECONDS = 5.0
_LOST_REQUEST_GRACE_MS = 60_000
"""ms: a request that we lost sight of may reach the far end for so long."""
_STUCK_AFTER_MS = 3_600_000


class ImportJobTracker:
    """Follows one lane's jobs. `settled` is called when people of it are free again."""

    def __init__(
        self,
        lane: Lane,
        queue: ReceiptQueue,
        jobs: Jobs,
        lease: Lease,
        clock: Clock,
        metrics: Metrics,
        *,
        on_settled: Callable[[], None],
    ) -> None:
        self._lane = lane
        self._queue = queue
        self._jobs = jobs
        self._lease = lease
        self._clock = clock
        self._metrics = metrics
        self._on_settled = on_settled
        self.wakeup = asyncio.Event()
        self._queued = True
        self._pace = MIN_POLL_SECONDS
        self._logged: set[str] = set()
        self._last_error = ""
        self.stuck: str | None = None
        """What a person must look at, if anything."""
        self._log = log.get("receipts").bind(connection=lane.connection)

    def wake(self) -> None:
        """Something was queued."""
        self._queued = True
        self.wakeup.set()

    async def idle(self) -> bool:
        """Whether no job holds anybody."""
        return not await self._queue.receipts(self._lane.id)

    async def attention(self) -> Sequence[AttentionItem]:
        """A job that stands still."""
        if not self.stuck:
            return []
        return [AttentionItem(f"job {self._lane.connection} {self._lane.kind}", self.stuck)]

    async def run_once(self) -> float | None:
        """Polls soon after something was queued, then less and less often until all is settled."""
        if self._queued:
            self._queued, self._pace = False, MIN_POLL_SECONDS
            await self._clock.sleep(MIN_POLL_SECONDS)
        wait, self._pace = self._pace, min(2 * self._pace, MAX_POLL_SECONDS)
        try:
            open_receipts = await self.poll()
        except (DeliveryError, StoreError) as error:
            self._log_transition(error.problem.value)
            return MAX_POLL_SECONDS
        self._log_transition("")
        return wait if open_receipts else None

    def _log_transition(self, error: str) -> None:
        """One line when the jobs cannot be followed, and one when they can again."""
        if error and not self._last_error:
            self._log.error("jobs cannot be followed", problem=error)
        elif self._last_error and not error:
            self._log.info("jobs are followed again")
        self._last_error = error

    async def poll(self) -> int:
        """Settle what has ended; returns how many receipts stay open."""
        if not self._lease.valid():
            return 1
        receipts = await self._queue.receipts(self._lane.id)
        if not receipts:
            self.stuck = None
            return 0
        running = await self._jobs.open()
        unaccounted = running - await self._queue.open_jobs()
        left = 0
        for receipt in receipts:
            done = await self._settle(receipt, running, unaccounted)
            left += not done
        self._check_stuck([r for r in receipts if r.id in running])
        return left

    async def _settle(self, receipt: OpenReceipt, running: set[str], unaccounted: set[str]) -> bool:
        now = self._clock.now()
        if not receipt.id:
            # Other programs have jobs too: one that is ours ends within the hour.
            age = now - receipt.since
            if age < _LOST_REQUEST_GRACE_MS or (unaccounted and age < _STUCK_AFTER_MS):
                return False
            await self._requeue(receipt, Problem.JOB_LOST)
            return True
        if receipt.id in running:
            return False
        ended = await self._jobs.result(receipt.id)
        if ended is None:
            return False
        if ended.outcome != "complete" or ended.unmatched:
            cancelled = ended.outcome == "cancelled"
            await self._requeue(receipt, Problem.JOB_CANCELLED if cancelled else Problem.JOB_LOST)
            return True
        closed = await self._queue.close_receipt(
            self._lane.id, receipt.id, now=now, failed=ended.failed
        )
        self._metrics.record_job_closed(
            self._lane, closed - len(ended.failed), len(ended.failed), now
        )
        self._on_settled()
        return True

    async def _requeue(self, receipt: OpenReceipt, problem: Problem) -> None:
        self._log.warning(
            "a job's people are told again",
            problem=problem.value,
            meaning=problem.meaning,
            people=receipt.people,
        )
        await self._queue.requeue_receipt(self._lane.id, receipt.id, now=self._clock.now())
        self._on_settled()

    def _check_stuck(self, running: Sequence[OpenReceipt]) -> None:
        """One line when a job stands still, not one for every look."""
        now = self._clock.now()
        old = [r for r in running if now - r.since >= _STUCK_AFTER_MS]
        self.stuck = None
        for receipt in old:
            hours = (now - receipt.since) / 3_600_000
            self.stuck = (
                f"{Problem.JOB_STUCK} {self._lane.connection}: Klaviyo's import job {receipt.id} "
                f"of {receipt.people} people has not ended for {hours:.1f} h"
            )
            if receipt.id not in self._logged:
                self._logged.add(receipt.id)
                self._log.error(
                    "an import job stands still",
                    problem=Problem.JOB_STUCK.value,
                    job=receipt.id,
                    people=receipt.people,
                )
