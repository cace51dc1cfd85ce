"""Actions at the platform: what is stored, sent, looked up and decided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from connector.domain.actions import ActionBatch, ActionReceipt, Conflict
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


Decision = Literal["applied", "again", "refuse"]


class ActionQueue(Queue, Protocol):
    """Actions that a lane sends at most once (guarantee 4).

    A claim marks an action as sent: one that was claimed and never settled is looked up, not sent
    again.
    """

    async def platform_id(self, connection: str, email: str) -> str | None:
        """The platform's id of the person with this address; None when it is not known."""
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


class ActionViews(Protocol):
    """Actions and their counts, for people and metrics."""

    async def find(
        self, *, connection: str | None = None, stuck: bool = False, limit: int = 100
    ) -> Sequence[ActionView]:
        """Uncertain and held actions first, then the newest. `stuck`: only the first."""
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

    async def resolve_cap(self, lane: Lane, approval: Approval, *, now: Millis) -> int:
        """Release or discard what a cap held until the approval was decided, and close it.

        Actions held since then need an approval of their own, which is requested. Returns how many
        actions changed.
        """
        ...

    async def release_identified(self, lane: LaneId, *, now: Millis) -> int:
        """Release actions held for an unknown person who has been seen since; how many."""
        ...
