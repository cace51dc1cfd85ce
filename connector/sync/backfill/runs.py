"""The loop of a connection's backfills: one run at a time, page by page, after all live traffic.

A page's people and the cursor behind it are stored in one transaction, so a kill resumes there and
nobody is lost. Pages are fed only while few people wait, so queues and memory stay the same size
for ten million people as for ten thousand.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from connector.domain.attention import AttentionItem
from connector.domain.errors import (
    Blocked,
    DeliveryError,
    Problem,
    Rejected,
    RetryLater,
)
from connector.domain.lanes import Lane, LaneId, Millis
from connector.ports import (
    AffectedResources,
    Backfill,
    BackfillPage,
    Backfills,
    BackfillState,
    Clock,
    Lease,
    TargetGroups,
)
from connector.runtime import log
from connector.runtime.metrics import Metrics
from connector.sync.backfill import addresses
from connector.sync.backfill.addresses import FileError
from connector.sync.backfill.dry_run import DryRun
from connector.sync.backfill.history_import import HistoryImport, SlicedSource
from connector.sync.backfill.sources import (
    EMAIL_FILE,
    KLAVIYO_GROUPS,
    KNOWN_PEOPLE,
    PAGE_SIZE,
    PLATFORM_LISTING,
    Source,
    SourceFactory,
    only_existing,
)
from connector.sync.flow_guard import FlowGuard, Verdict

MAX_PENDING_READS, MAX_PENDING_WRITES = 2_000, 40_000
"""People of backfills that may wait: to be read, and to be told (four import jobs)."""
_POLL_SOON, _POLL_LATER, _POLL_MAX = 0.2, 1.0, 10.0
_RETRY_DELAY = 5.0
_APPROVAL_KIND = "backfill"


@dataclass(frozen=True, slots=True)
class BackfillLanes:
    """The lanes that a backfill's people take; `wake` tells the first that there is work."""

    reads: Lane
    writes: LaneId
    wake: Callable[[], None]


class BackfillWorker:
    """Carries out a connection's backfills, one after the other."""

    def __init__(
        self,
        connection: str,
        lanes: BackfillLanes,
        make_source: SourceFactory,
        *,
        backfills: Backfills,
        guard: FlowGuard,
        groups: TargetGroups,
        dry_run: DryRun,
        lease: Lease,
        clock: Clock,
        metrics: Metrics,
        lists_people: bool,
        history_import: HistoryImport | None = None,
        first_live: Callable[[], Awaitable[Millis | None]],
    ) -> None:
        self._connection = connection
        self._lanes = lanes
        self._make_source = make_source
        self._backfills = backfills
        self._guard = guard
        self._groups = groups
        self._dry_run = dry_run
        self._lease = lease
        self._clock = clock
        self._metrics = metrics
        self._lists_people = lists_people
        self._history_import = history_import
        self._first_live = first_live
        self.wakeup = asyncio.Event()
        self._source: tuple[int, Source] | None = None
        self._poll_interval = _POLL_LATER
        self._log = log.get("backfill").bind(connection=connection)

    # ── orders ───────────────────────────────────────────────────────────────────────────────────

    async def start(self, args: Mapping[str, Any]) -> tuple[bool, Mapping[str, Any]]:
        """Begin a run, or go on with the one that this order began before. `source` and `what`
        say whose people, without a source: all whom the platform lists, else all who were ever
        seen; `dry_run`, `existing_only`, `force` and `restart` as the command has them. With
        `events` it is their past that is told, from `since` (ms) on. The answer names the run's
        number."""
        parsed = await self._parse_request(args)
        if isinstance(parsed, str):
            return False, {"error": parsed}
        source, run_args = parsed
        last = await self._latest_run()
        is_same = last is not None and (last.source, _comparable_args(last.args)) == (
            source,
            _comparable_args(run_args),
        )
        if last and last.state in ("waiting", "running"):
            if not is_same:
                text = f"backfill {last.id} ({last.source}) is not finished"
                return False, {"error": f"{text}: connector backfill {self._connection} --stop"}
            if not args.get("restart"):
                return True, {"backfill": last.id, "resumed": True}
            await self._end(last, "stopped", detail="begun anew")
        elif last and is_same and last.state != "done" and not args.get("restart"):
            if last.args.get("fingerprint") != run_args.get("fingerprint"):
                changed = f"{run_args['what']} has changed since backfill {last.id} began"
                return False, {"error": f"{changed}; --restart begins anew with what it holds now"}
            await self._backfills.set_state(last.id, "waiting", now=self._clock.now())
            self.wakeup.set()
            return True, {"backfill": last.id, "resumed": True}
        made = await self._backfills.begin(
            self._connection, source, run_args, now=self._clock.now()
        )
        self.wakeup.set()
        return True, {"backfill": made.id, "resumed": False}

    async def stop(self, args: Mapping[str, Any]) -> tuple[bool, Mapping[str, Any]]:
        """No more of its people are read; those who have been are still told."""
        last = await self._latest_run()
        if last is None or last.state not in ("waiting", "running"):
            return False, {"error": f"no backfill of {self._connection} is running"}
        await self._end(last, "stopped", detail="stopped by a person")
        return True, {"stopped": last.id}

    async def _parse_request(self, args: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | str:
        """(source, args of the run), or what is wrong with the order."""
        default_source = PLATFORM_LISTING if self._lists_people else KNOWN_PEOPLE
        source, what = str(args.get("source") or default_source), args.get("what")
        flags = {flag: bool(args.get(flag)) for flag in ("dry_run", "existing_only", "force")}
        made: dict[str, Any] = {"what": what, **flags}
        if args.get("events"):
            if self._history_import is None:
                return f"the platform of {self._connection} tells nothing of the past"
            made |= {"events": True, "since": args.get("since"), "until": await self._history_end()}
        if source == EMAIL_FILE:
            try:
                path = Path(str(what))
                await asyncio.to_thread(addresses.detect_layout, path)
                made["fingerprint"] = await asyncio.to_thread(addresses.fingerprint, path)
            except FileError as error:
                return f"{Problem.BACKFILL_FILE} {error}"
        elif source in KLAVIYO_GROUPS:
            kind = KLAVIYO_GROUPS[source]
            found = await self._groups.find(kind, str(what))
            if len(found) != 1:
                many = f"{len(found)} {kind}s bear this name: give the id, one of {sorted(found)}"
                return many if found else f"Klaviyo has no {kind} of the name or id {what!r}"
            made["group"] = next(iter(found))
        return source, made

    async def _history_end(self) -> Millis:
        """What happened later is told live. Found once: retention forgets the first event."""
        for run in await self._backfills.find(self._connection, limit=1_000):
            if run.args.get("until"):
                return Millis(run.args["until"])
        return await self._first_live() or self._clock.now()

    async def _latest_run(self) -> Backfill | None:
        found = await self._backfills.find(self._connection, limit=1)
        return found[0] if found else None

    # ── the loop ─────────────────────────────────────────────────────────────────────────────────

    def wake(self) -> None:
        """Something was ordered or decided."""
        self.wakeup.set()

    async def idle(self) -> bool:
        """Nothing is to be fed; what waits for a person's yes may wait."""
        last = await self._latest_run()
        return last is None or last.state != "running"

    async def attention(self) -> Sequence[AttentionItem]:
        """Nothing: what a backfill waits for is an approval."""
        return ()

    async def run_once(self) -> float | None:
        """One step. Seconds until the next; None: when something is ordered."""
        if not self._lease.valid():
            return _POLL_LATER
        run = await self._latest_run()
        if run is None or run.state not in ("waiting", "running"):
            self._source = None
            self._metrics.backfill.labels(self._connection).set(1)
            return None
        try:
            if run.state == "waiting":
                return await self._request_approval(run)
            if run.args.get("events"):
                return await self._import_history(run)
            return await (
                self._dry_run_page(run) if run.args["dry_run"] else self._enqueue_page(run)
            )
        except FileError as error:
            await self._end(run, "failed", Problem.BACKFILL_FILE, str(error))
        except (Blocked, Rejected) as error:
            text = f"{error.problem} {error.detail}"
            await self._end(run, "failed", Problem.BACKFILL_BLOCKED, text)
        except DeliveryError as error:
            self._log.warning("the source does not answer", problem=error.problem.value)
            return max(_RETRY_DELAY, error.after if isinstance(error, RetryLater) else 0.0)
        return 0

    async def _request_approval(self, run: Backfill) -> float | None:
        """Nothing begins unseen: promise 9."""
        source = await self._source_for(run)
        total = run.total if run.total is not None else await source.total()
        verdict: Verdict
        if run.args["dry_run"]:
            verdict, flows = "allowed", await self._guard.live(_AFFECTED)
        else:
            known = await self._dry_run_findings(run)
            subject = f"backfill {run.id}"
            verdict, flows = await self._guard.evaluate(
                _APPROVAL_KIND, subject, total, _AFFECTED, **known
            )
        if verdict == "waiting":
            return None
        if verdict == "rejected":
            await self._end(run, "stopped", Problem.BACKFILL_REJECTED, "a person said no")
            return 0
        named = [flows] if isinstance(flows, str) else flows
        notes = [f"live flow: {flow}" for flow in named] if not run.notes else []
        await self._backfills.start(run.id, now=self._clock.now(), total=total, notes=notes)
        self._lanes.wake()
        self._log.info("backfill runs", backfill=run.id, source=run.source, people=total)
        return 0

    async def _dry_run_findings(self, run: Backfill) -> dict[str, Any]:
        """What the last dry run of the same people has found."""
        for other in await self._backfills.find(self._connection):
            matches = (other.source, other.args["what"]) == (run.source, run.args["what"])
            if matches and other.args["dry_run"] and other.state == "done":
                return {"new_to_klaviyo": other.counts.get("new_to_klaviyo", 0)}
        return {}

    async def _enqueue_page(self, run: Backfill) -> float:
        """One page, if there is room for it."""
        reads, writes = await self._pending_counts()
        self._report_progress(run, reads + writes)
        if run.exhausted:
            return await self._finish_when_settled(run, reads + writes)
        if reads > MAX_PENDING_READS - PAGE_SIZE or writes > MAX_PENDING_WRITES:
            return _POLL_SOON
        page = await self._next_page(run)
        await self._backfills.append_page(run.id, self._lanes.reads, page, now=self._clock.now())
        self._lanes.wake()
        return 0

    async def _finish_when_settled(self, run: Backfill, outstanding: int) -> float:
        """Done when each of its people has come to an end."""
        if outstanding:
            self._poll_interval = _POLL_LATER
            return _POLL_SOON
        tally = await self._backfills.outcome_counts(run.id)
        if tally.get("pending"):
            # Live traffic has taken some over; to look at everybody is dear, so ever more seldom.
            self._poll_interval = min(2 * self._poll_interval, _POLL_MAX)
            return self._poll_interval
        await self._end(run, "done", counts=tally)
        return 0

    async def _dry_run_page(self, run: Backfill) -> float:
        self._report_progress(run, 0)
        if run.exhausted:
            await self._end(run, "done")
            return 0
        page = await self._dry_run(await self._next_page(run))
        await self._backfills.append_page(run.id, self._lanes.reads, page, now=self._clock.now())
        return 0

    async def _import_history(self, run: Backfill) -> float:
        """The past of a few people."""
        assert self._history_import is not None
        self._report_progress(run, 0)
        if run.exhausted:
            await self._end(run, "done")
            return 0
        page = await self._history_import.import_page(await self._next_page(run), run.args)
        await self._backfills.append_page(run.id, self._lanes.reads, page, now=self._clock.now())
        return 0

    async def _next_page(self, run: Backfill) -> BackfillPage:
        page = await (await self._source_for(run)).page(run.cursor)
        if run.args["existing_only"] and run.source not in KLAVIYO_GROUPS:
            return await only_existing(page, self._groups)
        return page

    async def _source_for(self, run: Backfill) -> Source:
        """Made once a run; a file must still be the one that the run began with."""
        if self._source is None or self._source[0] != run.id:
            if run.source == EMAIL_FILE:
                now = await asyncio.to_thread(addresses.fingerprint, Path(run.args["what"]))
                if now != run.args["fingerprint"]:
                    raise FileError(f"{run.args['what']} has changed since it began: --restart")
            source = self._make_source(run.source, run.args)
            self._source = (run.id, SlicedSource(source) if run.args.get("events") else source)
        return self._source[1]

    async def _pending_counts(self) -> tuple[int, int]:
        reads, writes = self._lanes.reads.id, self._lanes.writes
        return await self._backfills.outstanding(reads, writes, limit=MAX_PENDING_WRITES + 1)

    def _report_progress(self, run: Backfill, outstanding: int) -> None:
        rows = run.counts.get("rows", 0)
        ratio = max(0, rows - outstanding) / run.total if run.total else 0.0
        self._metrics.backfill.labels(self._connection).set(min(1.0, ratio))

    async def _end(
        self,
        run: Backfill,
        state: BackfillState,
        problem: Problem | None = None,
        detail: str = "",
        counts: Mapping[str, int] | None = None,
    ) -> None:
        self._source = None
        await self._backfills.set_state(
            run.id, state, now=self._clock.now(), problem=problem, detail=detail, counts=counts
        )
        if state != "stopped" or run.state == "waiting":
            await self._guard.close_request(_APPROVAL_KIND, f"backfill {run.id}")
        self._log.info(f"backfill {state}", backfill=run.id, detail=detail)
        self.wakeup.set()


_AFFECTED = AffectedResources(fields=True)


def _comparable_args(args: Mapping[str, Any]) -> dict[str, Any]:
    """What makes two orders the same: not what the source looked like then."""
    keys = ("what", "dry_run", "existing_only", "force", "events", "since")
    return {key: args.get(key) for key in keys}
