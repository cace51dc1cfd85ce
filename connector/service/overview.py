"""Builds the status: the store's rows, and what the process reports about itself."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from connector.domain.attention import AttentionItem
from connector.domain.errors import THROTTLED, Problem
from connector.domain.hosts import is_loopback
from connector.domain.lanes import (
    ACTIONS,
    EVENTS,
    KLAVIYO,
    PROFILES,
    READS,
    LaneId,
    LaneKind,
    Millis,
    MinuteCount,
)
from connector.domain.records import State
from connector.domain.remedies import at_command_line, in_console
from connector.domain.wording import counted, format_age
from connector.pipeline.lease import STORE_RESOURCE
from connector.ports import Backlog, Store, StuckGroup
from connector.service import status as views
from connector.service.process import (
    ConnectionReport,
    LaneReport,
    ProcessReport,
    QuotaUse,
)

_MINUTES = 120
"""How far back the throughput of a status goes."""
_NO_LANE = LaneReport(per_second=0.0)


@dataclass(frozen=True, slots=True)
class Facts:
    """What a status is made of. `report` is that of the process that runs, or of the last one,
    saved at `seen_at`; `killed`: that process ended without a stop. `holders` are by the resource
    of their lease. `items` are of single lanes and other things, `attention` and `degraded` are of
    causes, ready to be shown."""

    now: Millis
    version: str
    holders: Mapping[str, str]
    report: ProcessReport
    seen_at: Millis | None
    killed: bool
    items: Sequence[AttentionItem]
    attention: Sequence[AttentionItem]
    degraded: Sequence[AttentionItem]
    backlogs: Sequence[Backlog]
    links: Sequence[Mapping[str, Any]]
    backfills: Sequence[views.BackfillStatus]

    @property
    def running(self) -> bool:
        return bool(self.holders)

    @property
    def holder(self) -> str | None:
        """The process that does what concerns no single account, else any."""
        return self.holders.get(STORE_RESOURCE) or next(iter(self.holders.values()), None)


async def build(store: Store, facts: Facts, mappings: Mapping[str, str]) -> views.Status:
    """`mappings`: connection → version of its mapping now, to count who was rendered with another
    one."""
    report = facts.report
    groups = await store.dead_letters.groups()
    names = dict.fromkeys([*report.connections, *(b.lane.connection for b in facts.backlogs)])
    streams = await store.reports.streams()
    uncertain = await store.action_views.uncertain()
    minutes = _by_lane(
        await store.facts.throughput(since_minute=_first_minute(facts.now)), facts.now
    )
    connections = {
        name: await _Connection(store, facts, name, mappings.get(name)).view(
            [
                views.StreamStatus(stream=s, checkpoint_age=_age(at, facts.now) or 0.0)
                for n, s, _, at in streams
                if n == name
            ],
            uncertain.get(name, 0),
            _skipped_people(groups, name),
            minutes,
        )
        for name in names
    }
    host = urlsplit(report.public_url).hostname or ""
    return views.Status(
        version=report.version or facts.version,
        at=facts.now,
        verdict=verdict(facts),
        running=facts.running,
        stopped_since=None if facts.running else facts.seen_at,
        holder=facts.holder,
        replicas=[views.Replica(account=a, holder=h) for a, h in sorted(facts.holders.items())],
        public_url=report.public_url,
        reachable=bool(host) and not is_loopback(host),
        attention=[attention_view(item, connections) for item in facts.attention],
        degraded=[attention_view(item, connections) for item in facts.degraded],
        connections=connections,
        dead_letters=[_dead_letters(x) for x in groups if x.lane.lane_kind is not ACTIONS],
        approvals=[
            views.ApprovalStatus(
                id=approval.id,
                connection=approval.connection,
                what=approval.what,
                subject=approval.subject,
                detail=dict(approval.detail),
                since=approval.requested_at,
            )
            for approval in await store.approvals.find()
        ],
        backfills=[run for run in facts.backfills if run.ended_at is None],
    )


def attention_view(item: AttentionItem, connections: Collection[str]) -> views.Attention:
    name = re.split("[: ]", item.text, maxsplit=1)[0]
    connection = name if name in connections else ""
    code = item.problem.value if item.problem else ""
    return views.Attention(
        key=item.key,
        text=item.text,
        code=code or None,
        remedy=at_command_line(item.advice, connection),
        in_console=in_console(item.advice, connection, code),
        connection=connection,
        since=item.since,
        retry_in=item.retry_in,
    )


def verdict(facts: Facts) -> views.Verdict:
    """One line that says whether a person is needed, and what waits."""
    waiting = sum(b.ready + b.claimed for b in facts.backlogs)
    waits = f"{counted(waiting, 'record')} {'waits' if waiting == 1 else 'wait'}"
    if not facts.running:
        if facts.seen_at is None:
            since = "Not started yet"
        else:
            how = "Killed, crashed or cut off" if facts.killed else "Stopped"
            since = f"{how} {format_age((facts.now - facts.seen_at) / 1000)} ago"
        return views.Verdict(
            level="stopped", text=f"{since}, {waits if waiting else 'nothing waits'}"
        )
    if facts.attention:
        count = len(facts.attention)
        text = f"{counted(count, 'thing')} {'needs' if count == 1 else 'need'} you"
        return views.Verdict(level="attention", text=f"{text}, {waits}" if waiting else text)
    if facts.degraded:
        retries = [i.retry_in for i in facts.degraded if i.retry_in is not None]
        soon = min(retries, default=None)
        if soon is None:
            retry = ", retrying"
        else:
            retry = f", retrying in {format_age(soon)}" if soon >= 1.0 else ", retrying now"
        away = sorted({_who(item, facts.report) for item in facts.degraded})
        verb = "is" if len(away) == 1 else "are"
        text = f"{' and '.join(away)} {verb} {_how(facts.degraded)}, {waits}{retry}"
        return views.Verdict(level="degraded", text=text)
    paused = [b.lane.connection for b in facts.backlogs if b.state.problem is Problem.PAUSED]
    starting = [name for name, c in facts.report.connections.items() if c.starting]
    well = f"Starting: {', '.join(starting)}" if starting else "All well"
    names = dict.fromkeys(paused)
    are_paused = f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} paused"
    elsewhere = sum(b.ready + b.claimed for b in facts.backlogs if b.lane.connection not in names)
    if waiting and not elsewhere and not starting:
        return views.Verdict(level="ok", text=f"{are_paused}, {waits}")
    well += f", {waits}" if waiting else ", nothing waits"
    if paused:
        well += f"; {are_paused}"
    return views.Verdict(level="ok", text=well)


def _who(item: AttentionItem, report: ProcessReport) -> str:
    """The remote side as people call it."""
    if item.remote == KLAVIYO:
        return "Klaviyo"
    titles = [c.title for c in report.connections.values() if c.source == item.remote]
    return titles[0] if titles else item.remote or "A remote side"


def _how(items: Sequence[AttentionItem]) -> str:
    return "limiting requests" if all(i.problem in THROTTLED for i in items) else "away"


def _first_minute(now: Millis) -> int:
    return now // 60_000 - _MINUTES + 1


def _by_lane(minutes: Sequence[MinuteCount], now: Millis) -> Mapping[LaneId, list[int]]:
    found: dict[LaneId, list[int]] = defaultdict(lambda: [0] * _MINUTES)
    for lane, minute, count in minutes:
        if 0 <= (place := minute - _first_minute(now)) < _MINUTES:  # another clock may be ahead
            found[lane][place] = count
    return found


def _age(at: int | None, now: Millis) -> float | None:
    return None if at is None else max(0, now - at) / 1000


def _dead_letters(group: StuckGroup) -> views.DeadLetters:
    lane, code = group.lane, group.problem
    problem = Problem.from_code(code) if code else None
    advice = problem.advice if problem else ""
    if problem and group.state is State.DEAD:
        advice = lane.lane_kind.advice(problem)
    return views.DeadLetters(
        connection=lane.connection,
        kind=lane.kind,
        lane=lane.lane_kind.title(lane.destination),
        state=group.state.name.lower(),
        problem=code,
        meaning=problem.meaning if problem else "",
        remedy=at_command_line(advice, lane.connection),
        in_console=in_console(advice, lane.connection, code),
        count=group.entries,
    )


def _skipped_people(groups: Sequence[StuckGroup], connection: str) -> dict[str, int]:
    """Problem code → people whose profile is held or died."""
    found: dict[str, int] = defaultdict(int)
    for group in groups:
        if group.lane.connection == connection and group.lane.lane_kind is PROFILES:
            found[group.problem] += group.entries
    return dict(found)


_STOPS_EVERY_LANE = frozenset({Problem.STORE_UNAVAILABLE, Problem.STORE_REPLACED})
"""Nothing can be claimed. Of a damaged store some pages still can."""


class _Connection:
    """The part of one connection."""

    def __init__(self, store: Store, facts: Facts, name: str, mapping: str | None) -> None:
        self._store = store
        self._facts = facts
        self._name = name
        self._mapping = mapping
        self._report = facts.report.connections.get(name)
        self._backlogs = [b for b in facts.backlogs if b.lane.connection == name]
        self._items = {item.key: item for item in facts.items}
        self._store_outage = next((x for x in facts.items if x.problem in _STOPS_EVERY_LANE), None)

    async def view(
        self,
        streams: list[views.StreamStatus],
        uncertain: int,
        skipped: dict[str, int],
        minutes: Mapping[LaneId, list[int]],
    ) -> views.ConnectionStatus:
        report = self._report or ConnectionReport(
            title="", source="", mode="", enabled=False, modules=()
        )
        lanes = [self._lane(b) for b in self._backlogs]
        refusals = _refusals(report)
        links = [
            views.Link.model_validate(x) for x in self._facts.links if x["connection"] == self._name
        ]
        delivered = [lane.last_delivered for lane in lanes if lane.last_delivered is not None]
        return views.ConnectionStatus(
            title=report.title,
            source=report.source,
            mode=report.mode,
            enabled=report.enabled,
            modules=list(report.modules),
            lanes=lanes,
            audiences=[link for link in links if link.kind == "audience"],
            segments=[link for link in links if link.kind == "segment"],
            streams=streams,
            skipped=report.skipped,
            unattached=report.unattached,
            actions=await self._actions(uncertain),
            people=await self._people(skipped),
            quota=[
                quota_view(use)
                for use in self._facts.report.quota
                if self._facts.running and self._name in use.connections
            ],
            throughput=views.Throughput(
                events=self._throughput(EVENTS, minutes),
                profiles=self._throughput(PROFILES, minutes),
            ),
            last_received=max(report.received.values(), default=None),
            received=report.received,
            last_refusal=refusals[0] if refusals else None,
            refusals=refusals,
            last_delivered=max(delivered, default=None),
        )

    def _throughput(self, kind: LaneKind, minutes: Mapping[LaneId, list[int]]) -> list[int]:
        lanes = (b.lane.id for b in self._backlogs if b.lane.lane_kind is kind)
        return next((minutes[id] for id in lanes if id in minutes), [0] * _MINUTES)

    def _lane(self, b: Backlog) -> views.LaneStatus:
        title = b.lane.title
        keys = (f"lane {title}", f"slow {title}", f"account {self._name}")
        found = (self._items[key] for key in keys if key in self._items)
        item = next(found, None)
        if item is None and b.state.mode == "running":
            item = self._store_outage
        name, problem, reason = b.state.mode, b.state.problem, b.state.detail
        since: int | None = b.state.since or None
        if b.state.mode == "running":
            problem, reason = (item.problem, item.text) if item else (None, "")
            since = item.since if item else None
        elif problem:
            reason = f"{problem.meaning}: {reason}" if reason else problem.meaning
        advice = item.advice if item else problem.advice if problem else ""
        activity = self._facts.report.lanes.get(int(b.lane.id), _NO_LANE)
        per_second = activity.per_second if self._facts.running else 0.0
        state = self._state(name, degraded=item is not None)
        # The rate of the last minute outlives the moment in which a lane stops.
        moves = state == "running" or (state == "degraded" and problem in THROTTLED)
        left = b.ready + b.claimed if moves else 0
        return views.LaneStatus(
            lane=b.lane.lane_kind.title(b.lane.destination),
            destination=b.lane.destination,
            kind=b.lane.kind,
            state=state,
            problem=problem.value if problem else None,
            reason=reason,
            remedy=at_command_line(advice, b.lane.connection),
            in_console=in_console(advice, b.lane.connection),
            since=since,
            retry_in=item.retry_in if item else None,
            ready=b.ready,
            in_flight=b.claimed,
            held=b.held,
            dead=b.dead,
            oldest_seconds=_age(b.oldest, self._facts.now),
            per_second=round(per_second, 2),
            eta_seconds=round(left / per_second, 1) if left and per_second else None,
            last_delivered=activity.delivered_at,
        )

    def _state(self, mode: views.LaneStateName, *, degraded: bool) -> views.LaneStateName:
        if mode != "running":
            return mode
        if not self._facts.running or (self._report and not self._report.enabled):
            return "stopped"
        return "degraded" if degraded else "running"

    async def _actions(self, uncertain: int) -> views.ActionsStatus | None:
        for b in self._backlogs:
            if b.lane.lane_kind is ACTIONS:
                pace = await self._store.action_views.throughput(b.lane.id, now=self._facts.now)
                per_second = pace.per_second
                return views.ActionsStatus(
                    waiting=pace.waiting,
                    uncertain=uncertain,
                    held=b.held,
                    per_second=round(per_second, 2),
                    eta_seconds=pace.waiting / per_second if pace.waiting and per_second else None,
                )
        return None

    async def _people(self, skipped: dict[str, int]) -> views.PeopleStatus | None:
        waiting: dict[str, int] = defaultdict(int)
        other, found = 0, False
        for b in self._backlogs:
            if b.lane.lane_kind in (READS, PROFILES):
                found = True
                waiting[b.lane.lane_kind.queue] += b.ready + b.claimed
            if b.lane.lane_kind is PROFILES and self._mapping:
                other = await self._store.profiles.count_outdated(b.lane.id, self._mapping)
        if not found:
            return None
        counted_people = self._facts.report.people.get(self._name)
        known = counted_people.get("known", 0) if counted_people is not None else None
        # Of those who wait to be read it is not known what is wanted.
        unsynced = sum(waiting.values()) + sum(
            count for code, count in skipped.items() if code != Problem.NO_IDENTITY
        )
        return views.PeopleStatus(
            synced=None if known is None else max(0, known - unsynced),
            to_read=waiting["reads"],
            to_write=waiting["profiles"],
            without_email=None if counted_people is None else counted_people.get("held", 0),
            invalid=skipped.get(Problem.BAD_ADDRESS, 0),
            gone=None if counted_people is None else counted_people.get("gone", 0),
            skipped=skipped,
            other_mapping=other,
        )


def _refusals(report: ConnectionReport) -> list[views.Refusal]:
    found = []
    for cause, calls in report.refused.items():
        found.append(
            views.Refusal(
                cause=cause,
                problem=calls.problem,
                at=calls.last,
                count=calls.count,
                in_a_row=calls.in_a_row,
            )
        )
    return sorted(found, key=lambda refusal: -refusal.at)


def quota_view(use: QuotaUse) -> views.QuotaStatus:
    return views.QuotaStatus(
        account=use.account,
        endpoint=use.endpoint,
        used=use.used,
        allowed=use.allowed,
        text=f"{use.label}: {use.used:,} of {use.allowed:,} this minute",
    )
