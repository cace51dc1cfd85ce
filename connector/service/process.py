"""The process that runs the connections, as it describes itself.

What only this process knows (rates, refused calls, a remote side that is away) is saved with the
store every few seconds as a `ProcessReport`, so that a status read by another process is complete,
and says when the process was last alive.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from connector.domain.attention import AttentionItem
from connector.domain.errors import Problem
from connector.domain.lanes import Lane, LaneId, Millis
from connector.domain.wording import counted
from connector.pipeline.holder import is_dead
from connector.ports import Clock, ProcessState
from connector.ports.workers import Worker
from connector.runtime.activity import RECENT_MS, Activity, Refusals
from connector.service.runtime import ConnectionRuntime

ALIVE_MS: Final = 15_000
"""A process has ended, or cannot report, if its last report is older."""
DEFAULT_PATIENCE: Final = 600.0
"""Seconds that a remote side may be away before it is a matter for a person."""
_WRONG_SECRET_AFTER = 3
"""Refusals in a row, with accepted calls before them, that are not an unknown caller's."""
_OLD_SECRET_AFTER = 20
"""Refusals within an hour, with accepted calls between them, that are more than an unknown
caller's."""
_LOST_AFTER = 3
"""Calls with the right secret that were refused for good within an hour, and are more than
someone's trial."""
_REFUSED = {
    "signature": (Problem.WEBHOOK_UNSIGNED, "webhook", "webhook"),
    "flow_secret": (Problem.FLOW_SECRET, "flow", "flow call"),
}
"""Reason of a refusal → its problem, how accepted calls are counted, and their name."""
_LOST = {
    Problem.WEBHOOK_MALFORMED: "webhook",
    Problem.STORE_REFUSED: "webhook",
    Problem.FLOW_MALFORMED: "flow call",
    Problem.FLOW_CONFLICT: "flow call",
}
"""Problem of a refusal whose sender had the right secret → the name of such calls."""


class _Report(BaseModel):
    model_config = ConfigDict(frozen=True)


class QuotaUse(_Report):
    """Requests of one account to one endpoint in the last minute, by all connections together."""

    account: str
    connections: tuple[str, ...]
    endpoint: str
    label: str
    used: int
    allowed: int


class RefusedCalls(_Report):
    problem: str | None = None
    count: int
    in_a_row: int
    last: int


class ConnectionReport(_Report):
    """One connection as configured in the process, and what arrived. `starting`: it is enabled, and
    its lanes do not run yet. `lease` is the resource whose lease it needs. `refused_minutes` by
    problem code and minute since 1970. Other times in ms since 1970."""

    title: str
    source: str
    mode: str
    enabled: bool
    modules: tuple[str, ...]
    starting: bool = False
    lease: str = ""
    received: dict[str, int] = {}
    refused: dict[str, RefusedCalls] = {}
    refused_minutes: dict[str, dict[int, int]] = {}
    skipped: dict[str, int] = {}
    unattached: int = 0


class LaneReport(_Report):
    per_second: float
    delivered_at: int | None = None


class ProcessReport(_Report):
    """What a process says about itself. `lanes` by their number, `since` by the key of an item that
    waits for a remote side, `people` by connection and state."""

    version: str
    public_url: str
    patience: float = DEFAULT_PATIENCE
    connections: dict[str, ConnectionReport] = {}
    lanes: dict[int, LaneReport] = {}
    quota: tuple[QuotaUse, ...] = ()
    people: dict[str, dict[str, int]] = {}
    attention: tuple[AttentionItem, ...] = Field(default=())
    since: dict[str, int] = {}


@dataclass(slots=True, kw_only=True)
class Process:
    """This process. The callables and the collections are read at every report.

    `people`: (connection, state) → number of people, as last counted. `running`: names of the
    connections whose lanes run. `holder` is its name as a holder of leases, `resources` those whose
    lease it can use. `since`: key of an item → when it was first seen, in ms.
    """

    clock: Clock
    version: str = ""
    public_url: str = ""
    patience: float = DEFAULT_PATIENCE
    runtimes: Mapping[str, ConnectionRuntime] = field(default_factory=dict)
    running: Collection[str] = ()
    problems: Callable[[], Sequence[AttentionItem]] = tuple
    workers: Callable[[], Sequence[Worker]] = tuple
    quota: Callable[[], Sequence[QuotaUse]] = tuple
    activity: Activity = field(default_factory=Activity)
    people: Mapping[tuple[str, str], int] = field(default_factory=dict)
    holder: str = ""
    resources: Callable[[], frozenset[str]] = frozenset
    since: dict[str, Millis] = field(default_factory=dict)

    async def attention(self) -> list[AttentionItem]:
        """What only this process can know."""
        found = [*self.problems()]
        # A reload may replace the connections meanwhile.
        for runtime in list(self.runtimes.values()):
            found += await runtime.attention()
        for worker in self.workers():
            found += await worker.attention()
        return [*found, *self._refusals()]

    def _refusals(self) -> list[AttentionItem]:
        """Connections whose callers are refused as if their secret were wrong, oftener than an
        unknown caller would be, or send what cannot be read."""
        found = []
        for connection in list(self.runtimes):
            wrong = {p: self._wrong_secret(connection, why) for why, (p, *_) in _REFUSED.items()}
            lost = {problem: self._lost(connection, problem) for problem in _LOST}
            for problem, refused in (wrong | lost).items():
                if refused:
                    text = f"{connection}: {refused}: {problem.meaning}"
                    found.append(AttentionItem(f"refused {connection} {problem}", text, problem))
        return found

    def _wrong_secret(self, connection: str, reason: str) -> str:
        """What a wrong secret does, or "" where an unknown caller may have made the calls."""
        problem, via, call = _REFUSED[reason]
        activity, now = self.activity, self.clock.now()
        refusals = activity.refused.get((connection, reason))
        if refusals is None or now - refusals.last > RECENT_MS:
            return ""
        needed = _WRONG_SECRET_AFTER if (connection, via) in activity.received else 1
        if refusals.in_a_row >= needed:
            return f"{counted(refusals.in_a_row, call)} refused with 401 and none accepted since"
        recent = activity.recently_refused(connection, problem, now)
        if recent >= _OLD_SECRET_AFTER:
            calls = counted(recent, call)
            return f"{calls} refused with 401 within an hour while others are accepted"
        return ""

    def _lost(self, connection: str, problem: Problem) -> str:
        """What calls that cannot be read lose, or "" where they may be someone's trial."""
        recent = self.activity.recently_refused(connection, problem, self.clock.now())
        if recent < _LOST_AFTER:
            return ""
        calls = counted(recent, _LOST[problem])
        return f"{calls} refused within an hour, and nothing of them is stored"

    def note(self, items: Sequence[AttentionItem]) -> None:
        """Remember since when each of these has been there, and forget all others. `items` are all
        that wait for a remote side."""
        now = self.clock.now()
        self.since = {item.key: self.since.get(item.key, now) for item in items if item.waits}

    async def report(self) -> ProcessReport:
        now = self.clock.monotonic()
        lanes = {
            dispatcher.lane.id: self._lane(dispatcher.lane, now)
            for runtime in self.runtimes.values()
            for dispatcher in runtime.dispatchers
        }
        people: dict[str, dict[str, int]] = {}
        for (connection, state), count in self.people.items():
            people.setdefault(connection, {})[state] = count
        return ProcessReport(
            version=self.version,
            public_url=self.public_url,
            patience=self.patience,
            connections={name: self._connection(r) for name, r in self.runtimes.items()},
            lanes={int(id): lane for id, lane in lanes.items()},
            quota=tuple(self.quota()),
            people=people,
            attention=tuple(await self.attention()),
            since={key: int(at) for key, at in self.since.items()},
        )

    def _lane(self, lane: Lane, now: float) -> LaneReport:
        activity = self.activity
        return LaneReport(
            per_second=activity.per_second(lane.id, now),
            delivered_at=activity.delivered.get(lane.id),
        )

    def _connection(self, runtime: ConnectionRuntime) -> ConnectionReport:
        activity, name = self.activity, runtime.name
        return ConnectionReport(
            title=runtime.title,
            source=runtime.source,
            mode=runtime.mode,
            enabled=runtime.enabled,
            modules=runtime.modules,
            starting=runtime.enabled and runtime.name not in self.running,
            lease=runtime.lease.resource,
            received={via: at for (c, via), at in activity.received.items() if c == name},
            refused={
                reason: RefusedCalls(
                    problem=r.problem,
                    count=r.count,
                    in_a_row=r.in_a_row,
                    last=r.last,
                )
                for (c, reason), r in activity.refused.items()
                if c == name
            },
            refused_minutes={
                code: dict(minutes)
                for (c, code), minutes in activity.refused_minutes.items()
                if c == name
            },
            skipped={reason: n for (c, reason), n in activity.skipped.items() if c == name},
            unattached=activity.unattached[name],
        )

    def resume(self, before: ProcessReport) -> None:
        """Continue the counts of the process that ran before this one."""
        activity = self.activity
        for name, connection in before.connections.items():
            for via, at in connection.received.items():
                activity.received[name, via] = Millis(at)
            for reason, calls in connection.refused.items():
                activity.refused[name, reason] = Refusals(
                    calls.count, calls.in_a_row, Millis(calls.last), calls.problem
                )
            for code, minutes in connection.refused_minutes.items():
                activity.refused_minutes[name, code] = Counter(minutes)
            for reason, count in connection.skipped.items():
                activity.skipped[name, reason] += count
            activity.unattached[name] += connection.unattached
        for id, lane in before.lanes.items():
            if lane.delivered_at is not None:
                activity.delivered[LaneId(id)] = Millis(lane.delivered_at)
        self.since = {key: Millis(at) for key, at in before.since.items()}


def has_ended(state: ProcessState, now: Millis) -> bool:
    """Whether the process that reported this has ended or stops, as far as is known: it has
    withdrawn, this machine proves it, or it has been silent. A process for which no lease is left
    runs: it takes webhooks."""
    return not state.offers or is_dead(state.holder) or state.saved_at < now - ALIVE_MS


def read_report(document: str, *, age: float = 0.0) -> ProcessReport:
    """A report that was stored `age` seconds ago. One that another version wrote may not be
    readable: an empty one."""
    try:
        report = ProcessReport.model_validate_json(document)
    except ValidationError:
        return ProcessReport(version="", public_url="")
    attention = tuple(
        item if item.retry_in is None else replace(item, retry_in=max(0.0, item.retry_in - age))
        for item in report.attention
    )
    return report.model_copy(update={"attention": attention})


def aged(items: Sequence[AttentionItem], since: Mapping[str, int]) -> list[AttentionItem]:
    """The items with the time since when they have been there, where it is known."""
    return [
        replace(item, since=Millis(since[item.key]))
        if item.since is None and item.key in since
        else item
        for item in items
    ]
