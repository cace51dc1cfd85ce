"""Lanes, their kinds and state, and the units that everything is measured in."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Literal, NamedTuple, NewType

from connector.domain.errors import Problem
from connector.domain.remedies import OF_PEOPLE, Page, by, refreshed, retried

Millis = NewType("Millis", int)
"""A time in ms since 1970 UTC, or a duration in ms."""

KLAVIYO = "klaviyo"
"""The destination of every lane that does not lead to the platform."""

Kind = Literal["event", "profile", "membership", "action"]
"""What a lane delivers: as stored, and the value of the metrics' label `kind`."""

Via = Literal["webhook", "poll", "backfill", "flow", "scan"]
"""How a record was received: the value of the metrics' label `via`."""

QueueName = Literal["outbox", "reads", "profiles", "memberships", "actions"]
"""The store's queue that a lane claims its entries from.

`outbox` takes records about a person: one without an address is held. A kind of lane whose entries
are something else needs a queue of its own: a table, a port, and rows in
connector.pipeline.lane_queues and connector.store.admin.reports.
"""

LaneId = NewType("LaneId", int)
MAX_ID: Final = 2**63 - 1
"""The largest number that a stored row can have."""


@dataclass(frozen=True, slots=True)
class LaneKind:
    """All that differs between kinds of lanes, besides their sinks and renderers.

    A lane of this kind delivers `kind` to `side`, from the store's `queue`. `label` is what people
    call its records, `work` what waits while it is stopped, `arrow` the direction in which they
    travel seen from the connector. `dead_noun` names a record that died, `dead_remedy` says what to
    do. With `counts_names` its outcomes are also counted by the entries' names, in
    `connector_actions_total`.
    """

    kind: Kind
    side: Literal["klaviyo", "platform"]
    queue: QueueName
    label: str
    work: str
    dead_noun: str
    dead_remedy: str
    arrow: Literal["→", "←"] = "→"
    counts_names: bool = False

    def advice(self, problem: Problem) -> str:
        """What a person does about entries of this kind that died of the problem, with slots."""
        code = problem.value
        if self.queue == "outbox":
            return retried(problem.advice, code) + by(Page.NONE, ", or discard")
        if self.queue == "actions":
            return f"{problem.advice}; {self.dead_remedy}"
        remedy = OF_PEOPLE.get(code, problem.advice)
        if self.queue == "memberships":
            return f"{remedy}; {self.dead_remedy}"
        return refreshed(remedy, code)

    def title(self, destination: str) -> str:
        """`events → klaviyo`, `people ← yotpo`."""
        return f"{self.label} {self.arrow} {destination}"


_REFRESH_THEM = (
    "look at them "
    + by(Page.PEOPLE, "with `connector people list --connection CONNECTION`")
    + ", then fix the cause and refresh them"
    + by(Page.NONE, " with `connector people refresh CONNECTION --cause CODE`")
)

EVENTS = LaneKind(
    "event",
    "klaviyo",
    "outbox",
    "events",
    "events",
    "failed event",
    "look at them "
    + by(Page.FAILED, "with `connector dead-letters list`")
    + ", then fix the cause and retry, or discard",
)
PROFILES = LaneKind(
    "profile", "klaviyo", "profiles", "profiles", "profiles", "refused profile", _REFRESH_THEM
)
READS = LaneKind(
    "profile",
    "platform",
    "reads",
    "people",
    "reads of people",
    "refused read",
    _REFRESH_THEM,
    arrow="←",
)
LIST_MEMBERS = LaneKind(
    "membership",
    "klaviyo",
    "memberships",
    "memberships",
    "lists",
    "refused membership",
    "the next full sync"
    + by(Page.NONE, ", or `connector audiences sync CONNECTION NAME`,")
    + " tries again",
)
SEGMENT_MEMBERS = LaneKind(
    "membership",
    "platform",
    "memberships",
    "memberships",
    "segments",
    "refused membership",
    "the next full sync"
    + by(Page.NONE, ", or `connector segments sync CONNECTION NAME`,")
    + " tries again",
)
ACTIONS = LaneKind(
    "action",
    "platform",
    "actions",
    "actions",
    "actions",
    "refused action",
    "request them again if they are still wanted"
    + by(Page.NONE, "; `connector actions list` shows them"),
    counts_names=True,
)

LANE_KINDS = (EVENTS, PROFILES, READS, LIST_MEMBERS, SEGMENT_MEMBERS, ACTIONS)
_BY_KIND_AND_SIDE = {(kind.kind, kind.side): kind for kind in LANE_KINDS}


def find_lane_kind(kind: Kind, destination: str) -> LaneKind:
    """Of a lane as stored. Raises KeyError where no such lane is built."""
    return _BY_KIND_AND_SIDE[kind, "klaviyo" if destination == KLAVIYO else "platform"]


@dataclass(frozen=True, slots=True)
class Lane:
    """All records of one kind from one connection to one destination."""

    id: LaneId
    connection: str
    destination: str
    kind: Kind

    @property
    def lane_kind(self) -> LaneKind:
        return find_lane_kind(self.kind, self.destination)

    @property
    def title(self) -> str:
        """`acme events → klaviyo`."""
        return f"{self.connection} {self.lane_kind.title(self.destination)}"


class DeliveryMode(IntEnum):
    """How an entry may be sent: with others in one request, or by itself."""

    BATCH = 0
    SINGLE = 1


Suppression = Literal["disabled", "shadow"]
"""Why a lane sends nothing although it runs: its module is off, or its connection is in shadow
mode."""

LaneMode = Literal["running", "paused", "held", "blocked"]


@dataclass(frozen=True, slots=True)
class LaneState:
    """`paused`: by a person. `held`: too many records died, or a target is gone. `blocked`: the
    remote side refuses the lane or its account. The connector probes a held or blocked lane and
    lets it run again when that succeeds."""

    mode: LaneMode = "running"
    problem: Problem | None = None
    detail: str = ""
    since: Millis = Millis(0)


class MinuteCount(NamedTuple):
    """How many entries of a lane reached an end within one minute, counted since 1970 UTC."""

    lane: LaneId
    minute: int
    entries: int


@dataclass(frozen=True, slots=True)
class QuotaUsage:
    """Requests that were granted to an endpoint within one second. Stored, so that a restart does
    not spend a window's quota twice."""

    account: str
    endpoint: str
    second: int
    count: int
