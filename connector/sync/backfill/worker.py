"""The worker of a connection's backfills: one run at a time, page by page, behind live traffic.

A page's people and the cursor after it are stored in one transaction, so that a killed run resumes
there and loses no one. A page is stored only while few people wait in the lanes, so the size of
the queues does not depend on the number of people.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from connector.domain.approvals import BACKFILL
from connector.domain.attention import AttentionItem
from connector.domain.errors import Blocked, DeliveryError, Problem, Rejected, RetryLater
from connector.domain.lanes import Lane, LaneId
from connector.ports import (
    AffectedResources,
    Backfill,
    BackfillPage,
    BackfillProgress,
    Backfills,
    BackfillState,
    Clock,
    Lease,
    TargetGroups,
)
from connector.runtime import log
from connector.runtime.failures import FailureStreak
from connector.runtime.metrics import Metrics
from connector.sync.backfill import addresses
from connector.sync.backfill.addresses import FileError
from connector.sync.backfill.dry_run import DryRun
from connector.sync.backfill.history_import import HistoryImport, SlicedSource, no_history
from connector.sync.backfill.sources import (
    EMAIL_FILE,
    KLAVIYO_GROUPS,
    PAGE_SIZE,
    Source,
    SourceFactory,
    only_existing,
)
from connector.sync.flow_guard import FlowGuard, Verdict

MAX_PENDING_READS, MAX_PENDING_WRITES = 2_000, 40_000
"""People of backfills that may wait to be read, and to be written (four import jobs)."""
_POLL_SOON, _POLL_LATER, _POLL_MAX = 0.2, 1.0, 10.0
_RETRY_DELAY = 5.0
_AFFECTED = AffectedResources(fields=True)


@dataclass(frozen=True, slots=True)
class BackfillLanes:
    """The lanes of a backfill's people. `wake` wakes their dispatchers."""

    reads: Lane
    writes: LaneId
    wake: Callable[[], None]


class BackfillWorker:
    """connector.ports.workers.Loop that carries out a connection's runs, one after another.

    `is_blocked`: no one may be read for Klaviyo now, because the connection's account is in
    question.
    """

    def __init__(
        self,
        connection: str,
        lanes: BackfillLanes,
        make_source: SourceFactory,
        *,
        backfills: Backfills,
        progress: BackfillProgress,
        guard: FlowGuard,
        groups: TargetGroups,
        dry_run: DryRun,
        lease: Lease,
        clock: Clock,
        metrics: Metrics,
        is_blocked: Callable[[], bool],
        history_import: HistoryImport | None = None,
    ) -> None:
        self._connection = connection
        self._lanes = lanes
        self._make_source = make_source
        self._backfills = backfills
        self._progress = progress
        self._guard = guard
        self._groups = groups
        self._dry_run = dry_run
        self._lease = lease
        self._clock = clock
        self._metrics = metrics
        self._is_blocked = is_blocked
        self._history_import = history_import
        self.wakeup = asyncio.Event()
        self._source: tuple[int, Source] | None = None
        self._poll_interval = _POLL_LATER
        self._log = log.get("backfill").bind(connection=connection)
        self._failures = FailureStreak(
            self._log, "backfill_source_unavailable", "backfill_source_recovered"
        )

    def wake(self) -> None:
        """Look again: a command or a decision was made."""
        self.wakeup.set()

    async def idle(self) -> bool:
        """Whether no run is running. A run that waits for a person does not count."""
        if self._is_blocked():
            return True
        last = await self.latest_run()
        return last is None or last.state != "running"

    async def attention(self) -> Sequence[AttentionItem]:
        """Nothing: approvals are listed by the store, and failed runs by their state."""
        return ()

    async def latest_run(self) -> Backfill | None:
        """The newest run of the connection, the only one that may be unfinished."""
        found = await self._backfills.find(self._connection, limit=1)
        return found[0] if found else None

    async def end(
        self,
        run: Backfill,
        state: BackfillState,
        problem: Problem | None = None,
        detail: str = "",
        counts: Mapping[str, int] | None = None,
    ) -> None:
        """Change the state of a run to `done`, `stopped` or `failed`."""
        self._source = None
        await self._backfills.set_state(
            run.id, state, now=self._clock.now(), problem=problem, detail=detail, counts=counts
        )
        if state != "stopped" or run.state == "waiting":
            await self._guard.close_request(BACKFILL, f"backfill {run.id}")
        self._log.info("backfill_ended", backfill=run.id, state=state, detail=detail)
        self.wakeup.set()

    async def run_once(self) -> float | None:
        """One step of the current run. Seconds until the next one; None: not before `wake`."""
        if not self._lease.valid() or self._is_blocked():
            return _POLL_LATER
        run = await self.latest_run()
        if run is None or run.state not in ("waiting", "running"):
            self._source = None
            self._metrics.backfill.labels(self._connection).set(1)
            return None
        try:
            delay = await self._step(run)
        except FileError as error:
            await self.end(run, "failed", Problem.BACKFILL_FILE, str(error))
            return 0
        except (Blocked, Rejected) as error:
            text = f"{error.problem} {error.detail}"
            await self.end(run, "failed", Problem.BACKFILL_BLOCKED, text)
            return 0
        except DeliveryError as error:
            self._failures.record(error.detail, problem=error.problem.value, backfill=run.id)
            return max(_RETRY_DELAY, error.after if isinstance(error, RetryLater) else 0.0)
        self._failures.clear()
        return delay

    async def _step(self, run: Backfill) -> float | None:
        if run.state == "waiting":
            return await self._request_approval(run)
        if run.args.get("events"):
            return await self._import_history(run)
        return await (self._dry_run_page(run) if run.args["dry_run"] else self._enqueue_page(run))

    async def _request_approval(self, run: Backfill) -> float | None:
        """Start the run once the flow guard allows it (guarantee 9)."""
        source = await self._source_for(run)
        total = run.total if run.total is not None else await source.total()
        verdict: Verdict
        if run.args["dry_run"]:
            verdict, flows = "allowed", await self._guard.live(_AFFECTED)
        else:
            verdict, flows = await self._guard.evaluate(
                BACKFILL,
                f"backfill {run.id}",
                total,
                _AFFECTED,
                **await self._dry_run_findings(run),
            )
        if verdict == "waiting":
            return None
        if verdict == "rejected":
            await self.end(run, "stopped", Problem.BACKFILL_REJECTED, "rejected by a person")
            return 0
        names = [flows] if isinstance(flows, str) else flows
        notes = [f"live flow: {name}" for name in names] if not run.notes else []
        await self._backfills.start(run.id, now=self._clock.now(), total=total, notes=notes)
        self._lanes.wake()
        self._log.info("backfill_started", backfill=run.id, source=run.source, people=total)
        return 0

    async def _dry_run_findings(self, run: Backfill) -> dict[str, Any]:
        """What the last dry run of the same people found."""
        for other in await self._backfills.find(self._connection):
            same_people = (other.source, other.args["what"]) == (run.source, run.args["what"])
            if same_people and other.args["dry_run"] and other.state == "done":
                return {"new_to_klaviyo": other.counts.get("new_to_klaviyo", 0)}
        return {}

    async def _enqueue_page(self, run: Backfill) -> float:
        """Store one page, unless too many people wait."""
        reads, writes = await self._progress.outstanding(
            self._lanes.reads.id, self._lanes.writes, limit=MAX_PENDING_WRITES + 1
        )
        self._report_progress(run, reads + writes)
        if run.exhausted:
            return await self._finish_when_settled(run, reads + writes)
        if reads > MAX_PENDING_READS - PAGE_SIZE or writes > MAX_PENDING_WRITES:
            return _POLL_SOON
        await self._append(run, await self._next_page(run))
        self._lanes.wake()
        return 0

    async def _finish_when_settled(self, run: Backfill, outstanding: int) -> float:
        """End the run once each of its people has an outcome."""
        if outstanding:
            self._poll_interval = _POLL_LATER
            return _POLL_SOON
        if await self._progress.pending(run.id, self._lanes.reads.id, self._lanes.writes):
            # Live traffic has taken people over.
            self._poll_interval = min(2 * self._poll_interval, _POLL_MAX)
            return self._poll_interval
        counts = await self._progress.outcome_counts(run.id)
        if counts.get("pending"):
            return _POLL_MAX
        await self.end(run, "done", counts=counts)
        return 0

    async def _dry_run_page(self, run: Backfill) -> float:
        self._report_progress(run, 0)
        if run.exhausted:
            await self.end(run, "done")
        else:
            await self._append(run, await self._dry_run(await self._next_page(run)))
        return 0

    async def _import_history(self, run: Backfill) -> float:
        """Import the past events of one slice of people."""
        self._report_progress(run, 0)
        if self._history_import is None:
            # The configuration has changed since the run began.
            detail = no_history(self._connection)
            await self.end(run, "failed", Problem.BACKFILL_BLOCKED, detail)
        elif run.exhausted:
            await self.end(run, "done")
        else:
            page = await self._history_import.import_page(await self._next_page(run), run.args)
            await self._append(run, page)
        return 0

    async def _append(self, run: Backfill, page: BackfillPage) -> None:
        await self._backfills.append_page(run.id, self._lanes.reads, page, now=self._clock.now())

    async def _next_page(self, run: Backfill) -> BackfillPage:
        page = await (await self._source_for(run)).page(run.cursor)
        if run.args["existing_only"] and run.source not in KLAVIYO_GROUPS:
            return await only_existing(page, self._groups)
        return page

    async def _source_for(self, run: Backfill) -> Source:
        """The source of the run, made once. A file must be the one that the run began with."""
        if self._source is None or self._source[0] != run.id:
            if run.source == EMAIL_FILE:
                now = await asyncio.to_thread(addresses.fingerprint, Path(run.args["what"]))
                if now != run.args["fingerprint"]:
                    raise FileError(
                        f"{run.args['what']} has changed since the run began; --restart starts "
                        "again with the new content"
                    )
            source = self._make_source(run.source, run.args)
            self._source = (run.id, SlicedSource(source) if run.args.get("events") else source)
        return self._source[1]

    def _report_progress(self, run: Backfill, outstanding: int) -> None:
        rows = run.counts.get("rows", 0)
        ratio = max(0, rows - outstanding) / run.total if run.total else 0.0
        self._metrics.backfill.labels(self._connection).set(min(1.0, ratio))
