"""What a sink reports: one outcome per entry, matched by `seq`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from connector.domain.errors import Problem, Scope
from connector.domain.lanes import Millis
from connector.domain.profiles import Observation, OnLeave


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
class Ambiguous:
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
    Accepted
    | Pending
    | Observed
    | Gone
    | Skipped
    | Unsent
    | Retry
    | Ambiguous
    | Dead
    | Held
    | Absent
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
