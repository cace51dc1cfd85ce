"""What a person can query. Answered from the store, with or without a running daemon."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from connector.domain.attention import AttentionItem
from connector.domain.errors import Problem
from connector.domain.lanes import ACTIONS, PROFILES, READS, Lane
from connector.pipeline.lease import STORE_RESOURCE, is_dead
from connector.ports import (
    ActionView,
    AuditEntry,
    Backlog,
    Clock,
    DeadLetter,
    DeadLetterDetail,
    Store,
)
from connector.ports.workers import Worker
from connector.service import grants
from connector.service.runtime import ConnectionRuntime
from connector.service.views import lane_view, run_view, timeline_view
from connector.sync.memberships import links

_TIMELINE_LIMIT = 50
_COUNT_LIMIT = 100_000
_NEEDS_DECISION = {Problem.ACTION_UNCERTAIN, Problem.ACTION_PERSON}
"""Why actions wait for a person. Actions held by a cap have an approval instead."""
_IDS_SHOWN = 10
_NO_ALERT = {Problem.PAUSED}
"""Stops that a person made on purpose."""


class Queries:
    """Queries of the store. `runtimes` is empty where no connection runs in this process."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        *,
        runtimes: Mapping[str, ConnectionRuntime] | None = None,
        problems: Callable[[], list[str]] = list,
        workers: Callable[[], Sequence[Worker]] = tuple,
    ) -> None:
        self._store = store
        self._clock = clock
        self._runtimes: Mapping[str, ConnectionRuntime] = runtimes if runtimes is not None else {}
        self._problems = problems
        self._workers = workers

    async def holder(self) -> str | None:
        """Who holds this store's lease now, if anyone."""
        held = await self._store.leases.holder(STORE_RESOURCE)
        if held is None or held.expires_at <= self._clock.now() or is_dead(held.holder):
            return None
        return held.holder

    async def status(self, mappings: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Connections, lanes, backlog, lag, dead letters and quota; ages in seconds.

        With `mappings` (connection → version in use) it also counts the people who were rendered
        with another version: a changed mapping re-sends no one by itself.
        """
        now = self._clock.now()
        connections: dict[str, dict[str, Any]] = {}
        backlogs = await self._store.reports.backlog()
        for backlog in backlogs:
            connection = connections.setdefault(
                backlog.lane.connection, {"lanes": [], "streams": []}
            )
            connection["lanes"].append(lane_view(backlog, now))
            if backlog.lane.lane_kind is ACTIONS:
                connection["actions"] = await self._pace(backlog.lane)
            version = (mappings or {}).get(backlog.lane.connection)
            if version and backlog.lane.lane_kind is PROFILES:
                older = await self._store.profiles.count_outdated(backlog.lane.id, version)
                connection["people_with_another_mapping"] = older
        for name, stream, _, saved_at in await self._store.reports.streams():
            connections.setdefault(name, {"lanes": [], "streams": []})["streams"].append(
                {"stream": stream, "checkpoint_age": (now - saved_at) / 1000}
            )
        for link in await self.links():
            about = connections.setdefault(link["connection"], {"lanes": [], "streams": []})
            about.setdefault(f"{link['kind']}s", []).append(link)
        groups = await self._store.dead_letters.groups()
        return {
            "holder": await self.holder(),
            "connections": connections,
            "dead_letters": [
                {
                    "connection": connection,
                    "state": state.name.lower(),
                    "problem": problem,
                    "meaning": Problem.from_code(problem).meaning if problem else "",
                    "count": count,
                }
                for connection, state, problem, count in groups
            ],
            "quota": await self._quota(now),
            "backfills": [run for run in await self.backfills() if run["ended_at"] is None],
            "approvals": [
                {
                    "id": approval.id,
                    "connection": approval.connection,
                    "what": approval.what,
                    "subject": approval.subject,
                    "detail": approval.detail,
                    "since": approval.requested_at,
                }
                for approval in await self._store.approvals.find()
            ],
            "attention": await self.attention_texts(backlogs),
        }

    async def _pace(self, lane: Lane) -> dict[str, Any]:
        """Waiting actions, and how long they take at the rate of the last minute."""
        pace = await self._store.action_views.throughput(lane.id, now=self._clock.now())
        return {
            "waiting": pace.waiting,
            "per_second": round(pace.per_second, 2),
            "eta_seconds": pace.waiting / pace.per_second if pace.per_second else None,
        }

    async def actions(
        self, connection: str | None, stuck: bool, limit: int
    ) -> Sequence[ActionView]:
        """Adjustments and pushes; uncertain and held ones first."""
        return await self._store.action_views.find(connection=connection, stuck=stuck, limit=limit)

    async def links(self) -> list[dict[str, Any]]:
        """Audiences kept as lists, segments kept as targets, and their counts."""
        return await links.links(
            self._store.member_groups, self._store.target_members, self._clock.now()
        )

    async def dead_letters(
        self, problem: str | None, connection: str | None, limit: int
    ) -> Sequence[DeadLetter]:
        return await self._store.dead_letters.find(
            problem=problem, connection=connection, limit=limit
        )

    async def dead_letter(self, id: int) -> DeadLetterDetail | None:
        return await self._store.dead_letters.show(id)

    async def audit_log(self, connection: str | None, limit: int) -> Sequence[AuditEntry]:
        """Who changed what, the newest first."""
        return await self._store.audit.find(connection=connection, limit=limit)

    async def explain(self, connection: str, who: str) -> list[dict[str, Any]]:
        """People of this connection with this address or platform id: what was received, what it
        became, which request carried it, what the remote API answered."""
        found = await self._store.timelines.find(connection, who)
        return [
            timeline_view(await self._store.timelines.person(id, _TIMELINE_LIMIT)) for id in found
        ]

    async def backfills(self, connection: str | None = None) -> list[dict[str, Any]]:
        """Runs with progress and results, the newest first. Times in ms since 1970."""
        lanes = [lane for lane, _ in await self._store.lanes.all()]
        found = []
        for run in await self._store.backfills.find(connection):
            waiting = (0, 0)
            if run.state == "running":
                mine = [lane for lane in lanes if lane.connection == run.connection]
                [writes] = [lane.id for lane in mine if lane.lane_kind is PROFILES]
                [reads] = [lane.id for lane in mine if lane.lane_kind is READS]
                waiting = await self._store.backfill_progress.outstanding(
                    reads, writes, limit=_COUNT_LIMIT
                )
            found.append(run_view(run, waiting))
        return found

    async def backfill(self, id: int) -> dict[str, Any]:
        """One run. The results of a run that was stopped or failed are counted now."""
        run = await self._store.backfills.get(id)
        if run is None:
            raise KeyError(id)
        if run.state not in ("stopped", "failed") or run.args.get("dry_run"):
            [found] = [x for x in await self.backfills(run.connection) if x["id"] == id]
            return found
        tally = await self._store.backfill_progress.outcome_counts(id)
        return run_view(replace(run, counts={**run.counts, **tally}), (0, 0))

    async def _quota(self, now: int) -> list[dict[str, Any]]:
        spent: dict[tuple[str, str], int] = {}
        for spend in await self._store.facts.usage_since(since_second=now // 1000 - 60):
            key = (spend.account, spend.endpoint)
            spent[key] = spent.get(key, 0) + spend.count
        return [
            {"account": account, "endpoint": endpoint, "last_minute": count}
            for (account, endpoint), count in sorted(spent.items())
        ]

    async def attention_texts(self, backlogs: Sequence[Backlog] | None = None) -> list[str]:
        """One line per item that needs attention; empty when all is well."""
        return [item.text for item in await self.attention(backlogs)]

    async def attention(self, backlogs: Sequence[Backlog] | None = None) -> list[AttentionItem]:
        """The same, each with a key that stays the same while the item is the same."""
        found = [AttentionItem(f"trouble {text.split(':')[0]}", text) for text in self._problems()]
        found += await self._process_attention()
        for b in backlogs if backlogs is not None else await self._store.reports.backlog():
            label = b.lane.title
            if b.state.mode != "running" and b.state.problem not in _NO_ALERT:
                text = f"{b.state.problem} {label}: {b.state.mode}, {b.state.detail}"
                found.append(AttentionItem(f"lane {label}", text))
            if b.dead:
                text = f"{label}: {b.dead} {b.lane.lane_kind.dead_hint}"
                found.append(AttentionItem(f"dead {label}", text))
            if b.held and b.lane.lane_kind is ACTIONS:
                found += await self._held_actions(b.lane.connection)
        for approval in await self._store.approvals.find():
            text = (
                f"{approval.connection}: {approval.what} of {approval.subject} waits for a person "
                f"(connector approvals approve {approval.id})"
            )
            found.append(AttentionItem(f"approval {approval.id}", text))
        found += grants.attention(await self._store.secrets.all(), self._clock.now())
        known = {item.key for item in found}
        found += [n for n in await links.attention(self._store.member_groups) if n.key not in known]
        return found

    async def _held_actions(self, name: str) -> list[AttentionItem]:
        """Adjustments and pushes that only a person can settle, with their ids."""
        found: list[AttentionItem] = []
        stuck: dict[str, list[int]] = {}
        for action in await self._store.action_views.find(connection=name, stuck=True):
            if action.problem in _NEEDS_DECISION and action.settled_at is not None:
                stuck.setdefault(action.problem, []).append(action.id)
        for code, ids in sorted(stuck.items()):
            shown = ", ".join(map(str, sorted(ids)[:_IDS_SHOWN])) + (
                " …" if len(ids) > _IDS_SHOWN else ""
            )
            text = (
                f"{code} {name}: {Problem.from_code(code).meaning}: {shown} "
                "(connector actions list; then applied, again or refuse)"
            )
            found.append(AttentionItem(f"{code} {name}", text))
        return found

    async def _process_attention(self) -> list[AttentionItem]:
        """What only the process that runs the lanes can know."""
        found: list[AttentionItem] = []
        for runtime in self._runtimes.values():
            found += await runtime.attention()
        for worker in self._workers():
            found += await worker.attention()
        return found
