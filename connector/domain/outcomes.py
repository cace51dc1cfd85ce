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
    """One request that was sent, for the timeline: a route template, never a URL with data in it.

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
    """The destination accepted it. `ref` is the destination's own id of what it accepted, where it
    returns one; `confirmed` is False where it accepted it without a result."""

    seq: int
    request: str
    ref: str | None = None
    confirmed: bool = True


UNKNOWN_JOB = "?"
"""The first character of the receipt of a job that may exist and whose id is unknown. Klaviyo's
ids have none such."""


@dataclass(frozen=True, slots=True)
class Pending:
    """The destination queued it, or may have: the job `receipt` has the result of the entry at
    `position`. A receipt that begins with UNKNOWN_JOB stands for one request, whose job is
    unknown. `problem` is why the request has no answer; None where it was accepted. `request` is
    None where its sender was stopped before it knew."""

    seq: int
    receipt: str
    position: int
    request: str | None
    problem: Problem | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Observed:
    """A person was read."""

    seq: int
    observation: Observation


@dataclass(frozen=True, slots=True)
class Gone:
    """The platform does not know the person, or no longer."""

    seq: int
    on_leave: OnLeave


@dataclass(frozen=True, slots=True)
class Skipped:
    """A named rule excludes it from being sent."""

    seq: int
    reason: str


@dataclass(frozen=True, slots=True)
class Unsent:
    """It did not fit into this request, or the lane stopped first. Costs no attempt."""

    seq: int


@dataclass(frozen=True, slots=True)
class Retry:
    """Certainly not applied: try again, `after` seconds from now at the earliest.

    With `grace` the cause is the record and not its destination, so its lane does not slow down;
    after `grace` ms of this problem the record is dead.
    """

    seq: int
    problem: Problem
    after: float = 0.0
    detail: str = ""
    grace: int | None = None


@dataclass(frozen=True, slots=True)
class Ambiguous:
    """It may have been applied: from now on it is sent singly, rendered as before."""

    seq: int
    problem: Problem
    after: float = 0.0
    detail: str = ""
    request: str | None = None


@dataclass(frozen=True, slots=True)
class Dead:
    """It will not be accepted as it is. `detail` says what to do and is shown to people."""

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
    """An ambiguous entry was looked up, and the destination does not have it so far."""

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


_SUCCESS = (Accepted, Pending, Observed, Gone, Absent)


def is_success(outcome: Outcome) -> bool:
    """Whether the outcome shows that the destination works."""
    return isinstance(outcome, _SUCCESS) and not is_unanswered(outcome)


def is_unanswered(outcome: Outcome) -> bool:
    """Whether the request may have been applied and no readable answer came."""
    unanswered = isinstance(outcome, Pending) and outcome.problem is not None
    return unanswered or isinstance(outcome, Ambiguous)


@dataclass(frozen=True, slots=True)
class Stop:
    """Nothing of this scope is sent until something outside changes."""

    scope: Scope
    problem: Problem
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Delivery:
    """The result of a claim: an outcome for every entry, the requests that were sent, and why the
    sink stopped early, if it did. `bulk`: they were sent in the sink's bulk mode."""

    outcomes: Sequence[Outcome]
    requests: Sequence[Request] = ()
    stop: Stop | None = None
    bulk: bool = False
