"""Intake: a call from outside is stored before it is acknowledged, then its lanes are woken."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

from connector.domain.actions import ActionBatch, ActionReceipt, Conflict
from connector.domain.errors import Problem, StoreError
from connector.domain.lanes import Lane, LaneKind, Millis, Via
from connector.domain.records import Appended, Page
from connector.ports import ActionIntake, Clock, Outbox
from connector.runtime.group_commit import GroupCommit
from connector.runtime.metrics import Metrics

T = TypeVar("T")
R = TypeVar("R")


class Intake:
    """What the endpoints of all connections store their calls through. `fault`: why the store takes
    nothing more, however often it is tried."""

    def __init__(
        self,
        outbox: Outbox,
        actions: ActionIntake,
        fault: Callable[[], StoreError | None] = lambda: None,
    ) -> None:
        self._fault = fault
        self.closed_by: Problem | None = None
        """Why endpoints accept no call (free disk too low); None while they do."""
        self.pages = GroupCommit[Page, Appended](outbox.append, lambda page: len(page.records))
        self.actions = GroupCommit[ActionBatch, ActionReceipt | Conflict](
            actions.add, lambda batch: len(batch.requests)
        )

    def refusal(self) -> StoreError | None:
        """Why endpoints accept no call now; None while they do. /readyz answers the same."""
        return StoreError(self.closed_by) if self.closed_by else self._fault()


class Endpoint(ABC, Generic[T, R]):
    """Receives the calls of one kind for one connection: base of webhooks and flows.

    `wake` gets the lanes for which a call has stored something, and when that is due.
    """

    def __init__(
        self,
        intake: Intake,
        clock: Clock,
        metrics: Metrics,
        *,
        wake: Callable[[Mapping[LaneKind, Millis]], None],
    ) -> None:
        self._intake = intake
        self._clock = clock
        self._metrics = metrics
        self._wake = wake

    async def receive(self, path: str, headers: Mapping[str, str], body: bytes) -> R:
        """Verify, parse and store a call.

        `path` is what follows the connection's name in the URL; `headers` are lower case. Raises
        Unauthorised, Malformed and StoreError; then nothing of the call is stored.
        """
        content = self._parse(path, headers, body)
        if refusal := self._intake.refusal():
            raise refusal
        return await self._store(content)

    @abstractmethod
    def _parse(self, path: str, headers: Mapping[str, str], body: bytes) -> T:
        """The content of a call. Raises Unauthorised and Malformed."""

    @abstractmethod
    async def _store(self, content: T) -> R:
        """Commit the content, then call `_stored`. Raises StoreError."""

    def _stored(self, lane: Lane, via: Via, result: Appended, now: Millis) -> None:
        """Count what was committed, and wake the lanes that have more to do."""
        self._metrics.record_received(lane, via, result, now)
        if result.lanes:
            self._wake(result.lanes)
