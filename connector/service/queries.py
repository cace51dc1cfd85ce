"""What a person can query. Answered from the store, with or without a running daemon."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

from connector import __version__
from connector.domain.attention import AttentionItem
from connector.domain.errors import Problem
from connector.domain.lanes import ACTIONS, PROFILES, READS, Millis
from connector.pipeline.holder import is_alive, is_dead
from connector.pipeline.lease import STORE_RESOURCE
from connector.ports import (
    ActionPosition,
    ActionView,
    Approval,
    AuditEntry,
    Backfill,
    Backlog,
    Clock,
    DeadLetter,
    DeadLetterDetail,
    DeadLetterFilter,
    Store,
    StoredSetting,
    StuckPerson,
    StuckPosition,
)
from connector.service import attention, grants
from connector.service.mapping_trials import MappingTrials
from connector.service.overview import Facts, build
from connector.service.process import (
    ALIVE_MS,
    Process,
    ProcessReport,
    aged,
    has_ended,
    read_report,
)
from connector.service.replicas import merge
from connector.service.runtime import ConnectionRuntime, PersonNow
from connector.service.settings import HIDDEN
from connector.service.status import BackfillStatus, Status
from connector.service.views import run_view, timeline_view
from connector.sync.memberships import links

_TIMELINE_LIMIT = 50
_COUNT_LIMIT = 100_000
_NEEDS_DECISION = {Problem.ACTION_UNCERTAIN, Problem.ACTION_PERSON}
"""Why actions wait for a person. Actions held by a cap have an approval instead."""
_IDS_SHOWN = 10
_SILENT_AFTER_MS = 60_000
_LOCKED_AFTER_MS = 12_000
"""More than twice the time between two reports."""
"""A process reports every 5 s."""


def _first(holders: Mapping[str, str]) -> str | None:
    return holders.get(STORE_RESOURCE) or next(iter(holders.values()), None)


class _Known(NamedTuple):
    """`report`: of the processes that run as one, or of the one that ran last. `holders`: who holds
    which lease now. `at`: when the newest report was made. `killed`: none runs, and the last one
    has not announced its end."""

    report: ProcessReport
    holders: dict[str, str]
    at: Millis | None = None
    killed: bool = False


class Queries:
    """Queries of the store. `process` is None where no connection runs in this process."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        *,
        process: Process | None = None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._process = process
        self._runtimes: Mapping[str, ConnectionRuntime] = process.runtimes if process else {}
        self.mapping_trials = MappingTrials(store.dead_letters, clock, self._runtimes)

    async def holder(self) -> str | None:
        """Who works on this store now, if anyone: of several replicas the one that does what
        concerns no single account."""
        return _first(await self.holders())

    async def holders(self) -> dict[str, str]:
        """Who holds which lease now: of the store, and where replicas share it of each account."""
        held = await self._store.leases.holders(now=self._clock.now())
        return {
            resource: held[resource].holder
            for resource in sorted(held)
            if not held[resource].expired and not is_dead(held[resource].holder)
        }

    async def connection_names(self) -> Sequence[str]:
        """Connections that run, or have run on this store."""
        report = (await self._known()).report
        lanes = [lane.connection for lane, _ in await self._store.lanes.all()]
        return sorted({*report.connections, *lanes})

    async def status(self, mappings: Mapping[str, str] | None = None) -> Status:
        """Everything at one look.

        With `mappings` (connection → version in use) it also counts the people who were rendered
        with another version: a changed mapping re-sends no one by itself.
        """
        known = await self._known()
        report, holders = known.report, known.holders
        backlogs = await self._store.reports.backlog()
        # A process that cannot write loses its lease and lives on.
        if not holders and (silent := await self._silent_holder()):
            holders = {STORE_RESOURCE: silent}
        holder = _first(holders)
        alive = holder is not None or self._process is not None
        items = await self._all_attention(backlogs, report if alive else None)
        now = self._clock.now()
        if holder and known.at is not None and self._process is None:
            items += await self._silence(holder, now - known.at)
        shown = attention.by_cause(items)
        facts = Facts(
            now=now,
            version=__version__,
            holders=holders,
            report=report,
            seen_at=known.at,
            killed=known.killed,
            items=items,
            attention=[i for i in shown if i.needs_person(now, report.patience)],
            degraded=[i for i in shown if not i.needs_person(now, report.patience)],
            backlogs=backlogs,
            links=await self.links(),
            backfills=[BackfillStatus.model_validate(run) for run in await self.backfills()],
        )
        return await build(self._store, facts, mappings or {})

    async def _silent_holder(self) -> str | None:
        """The process whose lease has ended and who nevertheless lives, if no other took over."""
        held = (await self._store.leases.holders(now=self._clock.now())).get(STORE_RESOURCE)
        kept = held is not None and held.expires_at > 0  # 0: it was released
        return held.holder if held and kept and is_alive(held.holder) else None

    async def _silence(self, holder: str, millis: int) -> list[AttentionItem]:
        """Why the process that runs has reported nothing for so long."""
        by = await self._store.maintenance.locked_by() if millis > _LOCKED_AFTER_MS else None
        if by:
            return [attention.locked(holder, millis, by)]
        return [attention.silent(holder, millis)] if millis > _SILENT_AFTER_MS else []

    async def _known(self) -> _Known:
        now, holders = await self._now(), await self.holders()
        states = await self._store.process_reports.since(Millis(now - ALIVE_MS))
        if not states and (latest := await self._store.process_reports.latest()):
            states = [latest]
        reports = {s.holder: read_report(s.document, age=(now - s.saved_at) / 1000) for s in states}
        if self._process is not None:
            own = {self._process.holder: await self._process.report()}
            others = {s.holder: reports[s.holder] for s in states if not has_ended(s, now)}
            return _Known(merge({**own, **others, **own}, holders), holders, self._clock.now())
        if not states:
            return _Known(ProcessReport(version="", public_url=""), holders)
        running = {s.holder: reports[s.holder] for s in states if not has_ended(s, now)}
        report = merge(running or dict([next(iter(reports.items()))]), holders)
        return _Known(report, holders, states[0].saved_at, killed=bool(states[0].offers))

    async def _now(self) -> Millis:
        """By the clock that the processes' reports are dated with."""
        return await self._store.leases.database_time() or self._clock.now()

    async def actions(
        self,
        connection: str | None,
        stuck: bool,
        limit: int,
        *,
        after: ActionPosition | None = None,
        state: Literal["uncertain", "held"] | None = None,
    ) -> Sequence[ActionView]:
        """Adjustments and pushes; uncertain and held ones first. See ActionViews.find. `state`:
        only those of them that are in it."""
        find = self._store.action_views.find
        if state is None:
            return await find(connection=connection, stuck=stuck, after=after, limit=limit)
        found: list[ActionView] = []
        while page := await find(connection=connection, stuck=True, after=after, limit=limit):
            found += [action for action in page if action.state == state]
            if len(found) >= limit:
                break
            after = ActionPosition(page[-1].id, stuck=True)
        return found[:limit]

    async def links(self) -> list[dict[str, Any]]:
        """Audiences kept as lists, segments kept as targets, and their counts."""
        return await links.links(
            self._store.member_groups, self._store.target_members, self._clock.now()
        )

    async def dead_letters(
        self, which: DeadLetterFilter, limit: int, *, before: int | None = None
    ) -> Sequence[DeadLetter]:
        """The newest first; with `before` those with a smaller id."""
        return await self._store.dead_letters.find(which, before=before, limit=limit)

    async def count_dead_letters(self, which: DeadLetterFilter) -> int:
        return await self._store.dead_letters.count(which)

    async def dead_letter(self, id: int) -> DeadLetterDetail | None:
        return await self._store.dead_letters.show(id)

    async def audit_log(
        self, connection: str | None, limit: int, *, before: int | None = None
    ) -> Sequence[AuditEntry]:
        """Who changed what, the newest first; with `before` those with a smaller id."""
        return await self._store.audit.find(connection=connection, before=before, limit=limit)

    async def settings(self, connection: str) -> list[StoredSetting]:
        """What was set at run time, without secrets."""
        return [
            replace(found, sealed=None, value=HIDDEN) if found.sealed is not None else found
            for found in await self._store.settings.all()
            if found.connection == connection
        ]

    async def explain(self, connection: str, who: str) -> list[dict[str, Any]]:
        """People of this connection with this address or platform id: what was received, what it
        became, which request carried it, what the remote API answered."""
        found = await self._store.timelines.find(connection, who)
        return [await self.timeline(id) for id in found]

    async def approvals(self) -> Sequence[Approval]:
        """Those that are not answered yet, oldest first."""
        return await self._store.approvals.find()

    async def find_people(self, who: str, connection: str | None = None) -> list[tuple[str, int]]:
        """(connection, number) of everyone with this address or platform id, on one connection or
        on all."""
        names = {lane.connection for lane, _ in await self._store.lanes.all()}
        found: list[tuple[str, int]] = []
        for name in sorted(names if connection is None else names & {connection}):
            found += [(name, id) for id in await self._store.timelines.find(name, who)]
        return found

    async def stuck_people(
        self,
        connection: str | None,
        cause: str | None,
        limit: int,
        *,
        after: StuckPosition | None = None,
    ) -> Sequence[StuckPerson]:
        """People whose profile, read or membership is held or died. See StuckPeople.find."""
        return await self._store.stuck_people.find(
            connection=connection, cause=cause, after=after, limit=limit
        )

    async def timeline(self, id: int) -> dict[str, Any]:
        """One person with what happened to them. Raises KeyError for one who is not stored."""
        return timeline_view(await self._store.timelines.person(id, _TIMELINE_LIMIT))

    async def person_now(self, connection: str, id: int) -> PersonNow | None:
        """One person as both remote APIs show them now; None where the connection does not run in
        this process. Raises KeyError for a person who is not stored."""
        runtime = self._runtimes.get(connection)
        if runtime is None or runtime.person_now is None or not runtime.enabled:
            return None
        return await runtime.person_now(id)

    async def erased_at(self, connection: str, who: str) -> int | None:
        """When the person was erased, in ms since 1970; None without a tombstone."""
        return await self._store.erasure.erased_at(connection, who)

    async def backfills(
        self, connection: str | None = None, *, before: int | None = None, limit: int = 20
    ) -> list[dict[str, Any]]:
        """Runs with progress and results, the newest first; with `before` those with a smaller id.
        Times in ms since 1970."""
        return await self._run_views(
            await self._store.backfills.find(connection, before=before, limit=limit)
        )

    async def _run_views(self, runs: Sequence[Backfill]) -> list[dict[str, Any]]:
        lanes = [lane for lane, _ in await self._store.lanes.all()]
        now, alive = self._clock.now(), await self.holder() is not None
        found = []
        for run in runs:
            waiting = (0, 0)
            if run.state == "running":
                mine = [lane for lane in lanes if lane.connection == run.connection]
                [writes] = [lane.id for lane in mine if lane.lane_kind is PROFILES]
                [reads] = [lane.id for lane in mine if lane.lane_kind is READS]
                waiting = await self._store.backfill_progress.outstanding(
                    reads, writes, limit=_COUNT_LIMIT
                )
            found.append(run_view(run, waiting, now=now, alive=alive))
        return found

    async def backfill(self, id: int) -> dict[str, Any]:
        """One run. The results of a run that was stopped or failed are counted now. Raises
        KeyError."""
        run = await self._store.backfills.get(id)
        if run is None:
            raise KeyError(id)
        if run.state not in ("stopped", "failed") or run.args.get("dry_run"):
            [found] = await self._run_views([run])
            return found
        tally = await self._store.backfill_progress.outcome_counts(id)
        return run_view(
            replace(run, counts={**run.counts, **tally}),
            (0, 0),
            now=self._clock.now(),
            alive=False,
        )

    async def attention_lines(self) -> list[str]:
        """One line per item that needs a person now; empty when all is well."""
        return [item.line for item in await self.attention()]

    async def attention(self, patience: float | None = None) -> list[AttentionItem]:
        """What needs a person now. A remote side that is away does so once that has lasted for
        `patience` seconds; by default those of the configuration."""
        known = await self._known()
        report, holders = known.report, known.holders
        alive = bool(holders) or self._process is not None
        items = await self._all_attention(
            await self._store.reports.backlog(), report if alive else None
        )
        limit, now = report.patience if patience is None else patience, self._clock.now()
        return [x for x in attention.by_cause(items) if x.needs_person(now, limit)]

    async def _all_attention(
        self, backlogs: Sequence[Backlog], report: ProcessReport | None
    ) -> list[AttentionItem]:
        """What needs a person, or will if it lasts. Each has a key that stays the same while the
        problem is the same. `report`: of the process that runs."""
        found = list(report.attention) if report else []
        stuck = await self._store.dead_letters.groups() if any(b.dead for b in backlogs) else []
        found += attention.of_lanes(backlogs, stuck)
        for b in backlogs:
            if b.held and b.lane.lane_kind is ACTIONS:
                found += await self._held_actions(b.lane.connection)
        found += [attention.of_approval(x) for x in await self._store.approvals.find()]
        found += grants.attention(await self._store.secrets.all(), self._clock.now())
        known = {item.key for item in found}
        found += [item for item in await self._group_attention() if item.key not in known]
        return aged(found, report.since if report else {})

    async def _group_attention(self) -> Sequence[AttentionItem]:
        return await links.attention(self._store.member_groups)

    async def _held_actions(self, name: str) -> list[AttentionItem]:
        """Adjustments and pushes that only a person can settle, with their ids."""
        found: list[AttentionItem] = []
        stuck: dict[str, list[int]] = {}
        for action in await self._store.action_views.find(connection=name, stuck=True):
            if action.problem in _NEEDS_DECISION and action.settled_at is not None:
                stuck.setdefault(action.problem, []).append(action.id)
        for code, ids in sorted(stuck.items()):
            problem = Problem.from_code(code)
            shown = ", ".join(map(str, sorted(ids)[:_IDS_SHOWN]))
            more = f" and {len(ids) - _IDS_SHOWN:,} more" if len(ids) > _IDS_SHOWN else ""
            which = "action" if len(ids) == 1 else "actions"
            text = f"{name}: {which} {shown}{more}: {problem.meaning}"
            found.append(AttentionItem(f"{code} {name}", text, problem))
        return found
