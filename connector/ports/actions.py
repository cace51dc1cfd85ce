"""Actions at the platform: what is stored, sent, looked up and decided."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from connector.domain.actions import ActionBatch, ActionReceipt, Caps, Conflict
from connector.domain.lanes import Lane, LaneId, Millis
from connector.ports.admin import Approval
from connector.ports.queues import Queue

ActionState = Literal[
    "waiting", "sending", "uncertain", "held", "applied", "skipped", "refused", "discarded"
]


@dataclass(frozen=True, slots=True)
class ActionView:
    """An action for a person to read.

    An `uncertain` action is looked up until `settled_at` is set; from then on a person decides.
    `ref` is our reference, `platform_ref` the platform's. `evidence` is an answer that arrived too
    late to settle the action.
    """

    id: int
    connection: str
    name: str
    origin: str
    person: str
    amount: int
    reason: str
    state: ActionState
    problem: str | None
    detail: str
    ref: str
    platform_ref: str | None
    received_at: Millis
    sent_at: Millis | None
    settled_at: Millis | None
    lookups: int
    resent: bool
    evidence: str | None
    decided_by: str | None


@dataclass(frozen=True, slots=True)
class Throughput:
    """Of one lane of actions: how many wait to be sent, and requests per second in the last
    minute."""

    waiting: int
    per_second: float


@dataclass(frozen=True, slots=True)
class IdentifiedAction:
    """The platform's id of an action's person, None when it is not known. `is_first`: no earlier
    action of the person waits to be sent or is being sent."""

    platform_id: str | None
    is_first: bool


Decision = Literal["applied", "again", "refuse"]


class ActionQueue(Queue, Protocol):
    """Actions that a lane sends at most once (guarantee 4).

    A claim marks an action as sent: one that was claimed and never settled is looked up, not sent
    again.
    """

    async def identify(self, lane: Lane, id: int, email: str) -> IdentifiedAction | None:
        """Save that the person of an action, named by a Klaviyo profile id in the call, has this
        address: the action is the person's from now on, in order and caps too. None for an erased
        person."""
        ...

    async def prune(self, *, before: Millis, limit: int) -> int:
        """Delete settled actions received before then, at most `limit`: their keys can be used
        again. Returns how many."""
        ...


class ActionIntake(Protocol):
    """Stores requested actions, each once."""

    async def add(self, batches: Sequence[ActionBatch]) -> Sequence[ActionReceipt | Conflict]:
        """Store batches in one transaction, each batch whole or not at all; one result per batch.

        An action with the identity and content of a stored one is a duplicate and changes nothing.
        One that exceeds a cap is held, and an approval (`cap`) is requested.
        """
        ...


@dataclass(frozen=True, slots=True)
class ActionPosition:
    """The place in their list that an action had: `stuck` ones, uncertain or held, come first."""

    id: int
    stuck: bool


class ActionViews(Protocol):
    """Actions and their counts, for people and metrics."""

    async def find(
        self,
        *,
        connection: str | None = None,
        stuck: bool = False,
        after: ActionPosition | None = None,
        limit: int = 100,
    ) -> Sequence[ActionView]:
        """Uncertain and held actions first, of both the newest first. `stuck`: only those. `after`:
        the last action of the page before."""
        ...

    async def uncertain(self) -> Mapping[str, int]:
        """Connection → number of actions that may have been applied or not."""
        ...

    async def throughput(self, lane: LaneId, *, now: Millis) -> Throughput: ...


class ActionDecisions(Protocol):
    """Ends of uncertain and held actions that no answer of the platform brings."""

    async def decide(
        self, id: int, decision: Decision, *, by: str, now: Millis
    ) -> ActionView | str:
        """Record a person's decision: it was applied, send it again, or never send it.

        Returns the action as it is now, or why this decision is not possible.
        """
        ...

    async def releasable(self) -> Collection[str]:
        """Connections of which an action is held that need not be any longer: more is known of its
        person, or a person decided about its cap."""
        ...

    async def resolve_cap(self, lane: Lane, approval: Approval, *, caps: Caps, now: Millis) -> int:
        """Release or discard what a cap held until the approval was decided, and close it.

        Actions held since then need an approval of their own, which is requested, and so do those
        that exceed the other cap. Returns how many actions were released or discarded.
        """
        ...

    async def release_identified(self, lane: Lane, *, caps: Caps, now: Millis) -> int:
        """Release actions held for their person where more is known by now, within the caps: what
        exceeds one is held by it. Returns how many were released."""
        ...

    async def release_waiting(self, lane: Lane, *, caps: Caps, now: Millis) -> int:
        """The same for actions that waited because their lane sent nothing (NOT_LIVE)."""
        ...
