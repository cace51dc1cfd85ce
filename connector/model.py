"""Frozen values that travel the road. Instants are milliseconds since 1970 in UTC (`Millis`)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any, Literal, NewType, TypeAlias

from connector.errors import Problem, Scope

Millis = NewType("Millis", int)
Kind = Literal["event", "profile", "membership", "action"]
Via = Literal["webhook", "poll", "backfill", "flow", "scan"]
LaneId = NewType("LaneId", int)


@dataclass(frozen=True, slots=True)
class Record:
    """What a source says, as it said it.

    `key` is the source's own id of the thing said, or a hash that stands for it: the same `key`
    twice is a redelivery. With `repeat_window` (ms) the key counts again once the last record of
    that key was received longer ago. `data` is the source's JSON, untouched. `person` is the
    platform's id. With `refresh` the person is to be read again,
    with `renew` also what is fetched seldom. `membership` is an audience, by the platform's id or
    name, and whether the person is in it from now on. `observation` is what the event itself says
    of the person's fields, for whoever he turns out to be.
    """

    key: str
    unique_id: str
    name: str
    occurred_at: Millis
    data: bytes
    person: str | None = None
    email: str | None = None
    repeat_window: int | None = None
    refresh: bool = False
    renew: bool = False
    membership: tuple[str, bool] | None = None
    observation: Observation | None = None

    def anew(self, received_at: Millis) -> Record:
        """The record when its key counts again: another event with the same content, which
        Klaviyo would take for a repeat of the first one."""
        return replace(self, unique_id=f"{self.unique_id}:{received_at}")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far a stream has been read. `cursor` is opaque to everyone but the source."""

    stream: str
    cursor: str


@dataclass(frozen=True, slots=True)
class Lane:
    """One road out: all records of one kind from one connection to one destination."""

    id: LaneId
    connection: str
    destination: str
    kind: Kind


@dataclass(frozen=True, slots=True)
class Page:
    """Records for one lane and the checkpoint that stands for them: stored together or not at
    all. `checkpoint` belongs to the lane's connection.

    `reads` is the lane on which people are read again, for records that want it: not before `gap`
    ms after the last read of the same person, and those records wait `attach_wait` ms for it.
    With `by_id` a person whose address is not known is read for each of his records: the platform
    can be asked by its id alone.
    """

    lane: Lane
    via: Via
    records: Sequence[Record]
    received_at: Millis
    checkpoint: Checkpoint | None = None
    backfill: bool = False
    reads: LaneId | None = None
    attach_wait: int = 0
    gap: int = 0
    by_id: bool = False


@dataclass(frozen=True, slots=True)
class Appended:
    """What became of a page: `accepted` records are new, `duplicates` were known, `held` (a part
    of accepted) wait for their person's address, `released` had waited for one that it brought,
    `forgotten` are about people who must not come back, and were not stored."""

    accepted: int
    duplicates: int
    held: int = 0
    released: int = 0
    forgotten: int = 0


class State(IntEnum):
    """Where a record stands. `READY` and `CLAIMED` are the backlog."""

    READY = 0
    CLAIMED = 1
    ACCEPTED = 2
    SKIPPED = 3
    HELD = 4
    DEAD = 5
    DISCARDED = 6


LaneMode = Literal["running", "paused", "held", "blocked"]


@dataclass(frozen=True, slots=True)
class LaneState:
    """`paused`: a person did it. `held`: too many deaths, or a target is gone. `blocked`: the lane
    or its account is refused at the far end; a probe tries again by itself."""

    mode: LaneMode = "running"
    problem: Problem | None = None
    detail: str = ""
    since: Millis = Millis(0)


@dataclass(frozen=True, slots=True)
class Entry:
    """A claimed record. `attempts` counts this attempt; `solo` entries may have been applied
    before and must go where a repeat is harmless, rendered with `mapping` if it is set."""

    seq: int
    unique_id: str
    name: str
    occurred_at: Millis
    received_at: Millis
    email: str | None
    person: int | None
    data: bytes
    attempts: int
    solo: bool
    mapping: str | None
    backfill: bool
    failing_since: Millis | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """Entries that this holder alone may send, until it settles them or loses its lease."""

    token: int
    lane: Lane
    entries: Sequence[Entry]


@dataclass(frozen=True, slots=True)
class Spend:
    """Requests that were allowed to an endpoint within one second, for the memory of quotas."""

    account: str
    endpoint: str
    second: int
    count: int


@dataclass(frozen=True, slots=True)
class Request:
    """One request that left, for the timeline: route template, never a URL with data in it.

    `status` is None when no answer came; `millis` is how long the answer took.
    """

    id: str
    endpoint: str
    sent_at: Millis
    status: int | None
    millis: int
    problem: Problem | None = None


# ── people as states ─────────────────────────────────────────────────────────────────────────────

EmailChange = Literal["new", "move"]
OnLeave = Literal["keep", "unset"]


@dataclass(frozen=True, slots=True)
class Observation:
    """What one read showed: the view, and the fields and identity that the mapping made of it.

    `changes` holds only what the read covers (None: unset); `at` is when the read was sent.
    `lane` is the profile lane, `since` when what asked for the read was received, `address` a
    digest of account and address (None without one), and `problem` says why the person cannot be
    told to Klaviyo, if he cannot. `email` is set where the platform was asked by its id: it is the
    person's address from then on. Of one who is `withheld` nothing may be told, and his records
    lose the address that they have. What a `backfill` asked for is told after all live traffic.
    With `partial` it was an event that said so, where reads know better who the person is.
    """

    person: int
    view: Mapping[str, Any]
    changes: Mapping[str, Any]
    identity: Mapping[str, str]
    at: Millis
    mapping: str
    lane: LaneId
    since: Millis = Millis(0)
    address: bytes | None = None
    email_change: EmailChange = "new"
    problem: Problem | None = None
    email: str | None = None
    withheld: bool = False
    backfill: bool = False
    partial: bool = False


@dataclass(frozen=True, slots=True)
class ProfileWrite:
    """What one write tells Klaviyo about a person.

    `identity` holds email, phone_number or external_id; `profile_id` Klaviyo's own id where it is
    known. `farewell` means the address is a former one, whose fields are all unset; with
    `move_from` the profile of that identity is to get this one's address.
    """

    identity: Mapping[str, str]
    sets: Mapping[str, Any]
    unsets: tuple[str, ...] = ()
    profile_id: str | None = None
    farewell: bool = False
    move_from: Mapping[str, str] | None = None


# ── people as members ────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Link:
    """An audience that is kept as a list, or a segment as a tag, by their names as configured.
    With `removes` members of the list whom we did not put there are taken off."""

    source: str
    target: str
    removes: bool = False


@dataclass(frozen=True, slots=True)
class Group:
    """A group of people: a source, which is read, or a target (`target` 0), which is kept.

    A scan runs while `begun_at` is set, from `cursor` on; `complete` is the number of the last one
    that came to its end, after `took` ms, and found `members`. While it is not `applied` those
    whom it did not find have not left.
    """

    id: int
    connection: str
    kind: Literal["audience", "segment", "list", "tag"]
    name: str
    target: int
    far_id: str | None
    title: str
    opened: bool
    scan: int
    cursor: str | None
    begun_at: Millis | None
    saved_at: Millis | None
    complete: int
    completed_at: Millis | None
    took: int
    applied: int
    members: int
    without_address: int
    problem: Problem | None
    detail: str


@dataclass(frozen=True, slots=True)
class MembershipWrite:
    """What one write tells of a person: that he `joins` the group of this id, or leaves it.

    `profile` is Klaviyo's id and `platform_id` the platform's, where they are known; `split` is how
    often a job that held the person was lost."""

    group: str
    joins: bool
    email: str
    profile: str | None = None
    platform_id: str | None = None
    split: int = 0


# ── what Klaviyo asks of a platform ──────────────────────────────────────────────────────────────

ActionName = Literal["increase", "decrease", "adjust", "push"]


@dataclass(frozen=True, slots=True)
class Action:
    """One adjustment or push, as it was asked for.

    `amount` is signed: more or fewer points; `earned` whether it also counts towards points ever
    earned, `visible` whether the person sees it. `ref` is ours, given when it is stored: what the
    action is known by at the platform where it keeps one. `customer` is the id that the caller
    gave, the platform's or Klaviyo's; `email` and `person` (the platform's id) are what is known
    of him.
    """

    name: ActionName
    ref: str = ""
    email: str | None = None
    person: str | None = None
    customer: str | None = None
    amount: int = 0
    reason: str = ""
    earned: bool | None = None
    visible: bool = True
    message: str = ""
    url: str = ""


Origin = Literal["flow", "segment"]
REFERENCE = re.compile(r"\blc[0-9a-f]{10}\b", re.ASCII)
"""What `Action.ref` looks like wherever a platform gives it back."""


@dataclass(frozen=True, slots=True)
class Asked:
    """An action and what it is known again by: the same `key` for the same person on the same
    `route` is the same action, for `window` ms (None: for as long as keys are kept)."""

    action: Action
    route: str
    key: str
    window: int | None = None


@dataclass(frozen=True, slots=True)
class Caps:
    """What a day (24 h) may hold before a person is asked: adjustments `per_person`, and points up
    or down in `total` (0: as many as you like)."""

    per_person: int
    total: int = 0


@dataclass(frozen=True, slots=True)
class Call:
    """Actions of one call: stored whole or not at all. `lane` is the platform's lane of actions."""

    lane: Lane
    origin: Origin
    asked: Sequence[Asked]
    received_at: Millis
    caps: Caps


@dataclass(frozen=True, slots=True)
class Added:
    """What became of a call: new actions that go out, those known before, and new ones that wait
    for a person because of a cap."""

    accepted: int
    duplicates: int
    held: int


@dataclass(frozen=True, slots=True)
class Conflict:
    """Nothing of the call was stored: its `item` (from 1) has the key of another action with other
    content."""

    item: int


# ── outcomes: one per entry, by `seq` ────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Accepted:
    """The far end took it. `ref` is the far end's own id of what it took, where it says one;
    `confirmed` is False where it took it without saying what became of it."""

    seq: int
    request: str
    ref: str | None = None
    confirmed: bool = True


@dataclass(frozen=True, slots=True)
class Pending:
    """The far end queued it: the job `receipt` will say what became of the entry at `position`.
    An empty receipt: a job may exist, and nobody told us its id."""

    seq: int
    receipt: str
    position: int
    request: str


@dataclass(frozen=True, slots=True)
class Observed:
    """A person was read."""

    seq: int
    observation: Observation


@dataclass(frozen=True, slots=True)
class Gone:
    """The platform does not know the person (any more)."""

    seq: int
    on_leave: OnLeave


@dataclass(frozen=True, slots=True)
class Skipped:
    """A named rule says that it is not sent."""

    seq: int
    reason: str


@dataclass(frozen=True, slots=True)
class Unsent:
    """It did not fit into this request, or the lane stopped first. Costs no attempt."""

    seq: int


@dataclass(frozen=True, slots=True)
class Retry:
    """Certainly not applied: try again, `after` seconds from now at the earliest."""

    seq: int
    problem: Problem
    after: float = 0.0
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Doubt:
    """It may have been applied: from now on it goes singly, rendered as it was."""

    seq: int
    problem: Problem
    after: float = 0.0
    detail: str = ""
    request: str | None = None


@dataclass(frozen=True, slots=True)
class Dead:
    """It will not be taken as it is. `detail` says what to do and is shown to a person."""

    seq: int
    problem: Problem
    detail: str = ""
    request: str | None = None


@dataclass(frozen=True, slots=True)
class Held:
    """It waits for something that a person or a later record brings."""

    seq: int
    problem: Problem
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Absent:
    """What was in doubt was looked up, and the far end does not have it, for now."""

    seq: int
    request: str | None = None


Outcome: TypeAlias = (
    Accepted | Pending | Observed | Gone | Skipped | Unsent | Retry | Doubt | Dead | Held | Absent
)


SUCCESS = (Accepted, Pending, Observed, Gone, Absent)
"""Outcomes that show the far end working."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Nothing of this scope goes out until something outside changes."""

    scope: Scope
    problem: Problem
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Delivery:
    """What a sink made of a claim: an outcome for every entry, the requests it sent, and why it
    stopped early, if it did."""

    outcomes: Sequence[Outcome]
    requests: Sequence[Request] = ()
    stop: Stop | None = None


# ── what the mapping makes of a view ─────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class EventMessage:
    """An event as the mapping renders it, in Klaviyo's words but not yet in its JSON.

    `identity` holds email, phone_number or external_id; `attributes` the person's fresh fields in
    the form of Klaviyo's `profile.data.attributes`. `notes` names what was left out and why.
    """

    metric: str
    unique_id: str
    occurred_at: Millis
    identity: Mapping[str, str]
    properties: Mapping[str, Any]
    value: float | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Skip:
    """The mapping does not send this record; `reason` is a closed word for the metric's label."""

    reason: Literal["disabled", "unknown_event", "shadow", "placeholder", "restricted"]


@dataclass(frozen=True, slots=True)
class Fault:
    """The mapping cannot render this record."""

    problem: Problem
    detail: str


@dataclass(frozen=True, slots=True)
class Check:
    """One line of `connector check`: what was looked at, whether it is well, and what to do."""

    what: str
    level: Literal["ok", "warning", "fault"]
    detail: str = ""
    problem: Problem | None = None


@dataclass(frozen=True, slots=True)
class Need:
    """Something that a person must look at. `key` stays the same while it is the same thing."""

    key: str
    text: str
