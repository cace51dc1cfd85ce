"""Import jobs at Klaviyo, followed until they end (guarantee 1).

A finished job settles its people one by one. Where a request was lost, a job may exist whose id is
unknown: its people stay in flight until Klaviyo runs no job that is not accounted for. Each lost
request waits by itself, and its people are sent again in smaller jobs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from connector.domain.attention import AttentionItem
from connector.domain.errors import DeliveryError, Problem
from connector.domain.lanes import Lane
from connector.domain.wording import counted
from connector.ports import Clock, Jobs, Lease, OpenReceipt, Receipts
from connector.runtime import log
from connector.runtime.failures import FailureStreak
from connector.runtime.metrics import Metrics

MIN_POLL_SECONDS = 1.0
MAX_POLL_SECONDS = 5.0
_LOST_REQUEST_GRACE_MS = 60_000
"""A lost request may still reach Klaviyo this long after it was sent, in ms."""
_STUCK_AFTER_MS = 3_600_000
"""Klaviyo's jobs normally end within the hour, in ms."""


class ImportJobTracker:
    """Follows one lane's jobs. `on_settled` is called when people are no longer in flight."""

    def __init__(
        self,
        lane: Lane,
        receipts: Receipts,
        jobs: Jobs,
        lease: Lease,
        clock: Clock,
        metrics: Metrics,
        *,
        on_settled: Callable[[], None],
    ) -> None:
        self._lane = lane
        self._receipts = receipts
        self._jobs = jobs
        self._lease = lease
        self._clock = clock
        self._metrics = metrics
        self._on_settled = on_settled
        self.wakeup = asyncio.Event()
        self._queued = True
        self._poll_interval = MIN_POLL_SECONDS
        self._reported_stuck: set[str] = set()
        self._stuck = ""
        self._log = log.get("import_jobs").bind(connection=lane.connection)
        self._failures = FailureStreak(
            self._log, "import_jobs_unavailable", "import_jobs_recovered"
        )

    def wake(self) -> None:
        """Poll soon: a job was created."""
        self._queued = True
        self.wakeup.set()

    async def idle(self) -> bool:
        """Whether no job holds anyone in flight."""
        return not await self._receipts.open_receipts(self._lane.id)

    async def attention(self) -> Sequence[AttentionItem]:
        """A job that has not ended for an hour."""
        if not self._stuck:
            return []
        key = f"job {self._lane.connection} {self._lane.kind}"
        return [AttentionItem(key, self._stuck, Problem.JOB_STUCK)]

    async def run_once(self) -> float | None:
        """Polls 1 s after a job was created, then every 1, 2, 4 and 5 s until all are settled."""
        if self._queued:
            self._queued, self._poll_interval = False, MIN_POLL_SECONDS
            await self._clock.sleep(MIN_POLL_SECONDS)
        wait = self._poll_interval
        self._poll_interval = min(2 * wait, MAX_POLL_SECONDS)
        try:
            open_receipts = await self.poll()
        except DeliveryError as error:
            self._failures.record(error.detail, problem=error.problem.value)
            return MAX_POLL_SECONDS
        self._failures.clear()
        return wait if open_receipts else None

    async def poll(self) -> int:
        """Settle the jobs that have ended; returns the number of receipts that stay open. Raises
        DeliveryError and StoreError."""
        if not self._lease.valid():
            return 1
        receipts = await self._receipts.open_receipts(self._lane.id)
        if not receipts:
            self._stuck = ""
            return 0
        running = await self._jobs.open()
        unaccounted = running - await self._receipts.open_jobs()
        open_receipts = 0
        for receipt in receipts:
            open_receipts += not await self._settle(receipt, running, unaccounted)
        self._check_stuck([r for r in receipts if r.id in running])
        return open_receipts

    async def _settle(self, receipt: OpenReceipt, running: set[str], unaccounted: set[str]) -> bool:
        """Whether the receipt is closed now."""
        now = self._clock.now()
        if receipt.is_unknown:
            # An unaccounted job may belong to another program, so it counts for an hour only.
            age = now - receipt.since
            if age < _LOST_REQUEST_GRACE_MS or (unaccounted and age < _STUCK_AFTER_MS):
                return False
            await self._requeue(receipt, Problem.JOB_LOST)
            return True
        if receipt.id in running:
            return False
        result = await self._jobs.result(receipt.id)
        if result is None:
            return False
        if result.outcome != "complete" or result.unmatched:
            cancelled = result.outcome == "cancelled"
            await self._requeue(receipt, Problem.JOB_CANCELLED if cancelled else Problem.JOB_LOST)
            return True
        closed = await self._receipts.close_receipt(
            self._lane.id, receipt.id, now=now, failed=result.failed
        )
        self._metrics.record_job_closed(
            self._lane, closed - len(result.failed), len(result.failed), now
        )
        self._on_settled()
        return True

    async def _requeue(self, receipt: OpenReceipt, problem: Problem) -> None:
        self._log.warning(
            "import_job_requeued",
            problem=problem.value,
            meaning=problem.meaning,
            people=receipt.people,
        )
        await self._receipts.requeue_receipt(self._lane.id, receipt.id, now=self._clock.now())
        self._on_settled()

    def _check_stuck(self, running: Sequence[OpenReceipt]) -> None:
        """Log each stuck job once."""
        now = self._clock.now()
        self._stuck = ""
        for receipt in running:
            if now - receipt.since < _STUCK_AFTER_MS:
                continue
            hours = (now - receipt.since) / 3_600_000
            self._stuck = (
                f"{self._lane.connection}: Klaviyo's import job {receipt.id} of "
                f"{counted(receipt.people, 'person', 'people')} has not ended for {hours:.1f} h; "
                "further changes of these people wait for it"
            )
            if receipt.id not in self._reported_stuck:
                self._reported_stuck.add(receipt.id)
                self._log.error(
                    "import_job_stuck",
                    problem=Problem.JOB_STUCK.value,
                    job=receipt.id,
                    people=receipt.people,
                )


class UntrackedJobs:
    """connector.ports.workers.Loop that follows the jobs of lanes that do not run: their module was
    switched off, their last list was unlinked, or their connection was disabled or removed. What
    these jobs hold in flight would hold up the same people's writes on lanes that do run.

    `lanes` are those to look at, asked for in each pass; `tracker_of` makes the tracker of one.
    """

    def __init__(
        self,
        connection: str,
        lanes: Callable[[], Sequence[Lane]],
        tracker_of: Callable[[Lane], ImportJobTracker],
    ) -> None:
        self.wakeup = asyncio.Event()
        self._lanes = lanes
        self._tracker_of = tracker_of
        self._trackers: dict[Lane, ImportJobTracker] = {}
        self._failures = FailureStreak(
            log.get("import_jobs").bind(connection=connection),
            "import_jobs_unavailable",
            "import_jobs_recovered",
        )

    def wake(self) -> None:
        self.wakeup.set()

    async def idle(self) -> bool:
        return all([await tracker.idle() for tracker in self._current()])

    async def attention(self) -> Sequence[AttentionItem]:
        return [item for tracker in self._current() for item in await tracker.attention()]

    async def run_once(self) -> float | None:
        """Every 5 s until all are settled."""
        try:
            open_receipts = sum([await tracker.poll() for tracker in self._current()])
        except DeliveryError as error:
            self._failures.record(error.detail, problem=error.problem.value)
            return MAX_POLL_SECONDS
        self._failures.clear()
        return MAX_POLL_SECONDS if open_receipts else None

    def _current(self) -> list[ImportJobTracker]:
        lanes = self._lanes()
        self._trackers = {
            lane: self._trackers.get(lane) or self._tracker_of(lane) for lane in lanes
        }
        return list(self._trackers.values())
