"""What flows asked of a platform."""

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
    """An action as a person sees it, who it is for included. `uncertain` is looked up until
    `settled_at` is set: from then on a person decides. `ours` and `theirs` are what it is known by
    here and at the platform; `evidence` is an answer that came too late to settle anything."""

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
    """A lane of actions: how many wait to be sent, and requests a second in the last minute."""

    waiting: int
    per_second: float


Decision = Literal["applied", "again", "refuse"]


class ActionQueue(Queue, Protocol):
    """Adjustments and pushes: promise 4. A claim is the mark "sent": what was claimed and never
    settled is looked up, not sent again."""

    async def add(self, batches: Sequence[ActionBatch]) -> Sequence[ActionReceipt | Conflict]:
        """Store calls in one transaction, each whole or not at all; one answer per call.

        An action known by its identity and content is a duplicate and changes nothing. One beyond
        a cap is held, and a question (`cap`) asked.
        """
        ...

    async def find(
        self, *, connection: str | None = None, stuck: bool = False, limit: int = 100
    ) -> Sequence[ActionView]:
        """Uncertain and held ones first, then the newest; `stuck`: those that wait for a person."""
        ...

    async def decide(
        self, id: int, decision: Decision, *, by: str, now: Millis
    ) -> ActionView | str:
        """What a person says of an action: it was applied; send it (again); it shall not be sent.
        The action as it is now, or why this cannot be said of it."""
        ...

    async def resolve_cap(self, lane: Lane, approval: Approval, *, now: Millis) -> int:
        """Release or refuse what a cap held until the question was answered, and close it; what
        was held since is asked about anew. Returns how many changed."""
        ...

    async def release_identified(self, lane: LaneId, *, now: Millis) -> int:
        """Release what was held because its person was not known, where he has been seen since."""
        ...

    async def platform_id(self, connection: str, email: str) -> str | None:
        """The platform's id of the person with this address, where he has been seen."""
        ...

    async def uncertain(self) -> Mapping[str, int]:
        """Connection → actions of which nobody knows whether they were applied."""
        ...

    async def throughput(self, lane: LaneId, *, now: Millis) -> Throughput: ...

    async def prune(self, *, before: Millis, limit: int) -> int:
        """Forget settled actions received before then, at most `limit`: their keys count again."""
        ...
