"""A lane of actions with a fake clock, a platform whose faults the test sets, and a process that
can be killed at any point around a send."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from connector.actions.flow_endpoint import FlowEndpoint
from connector.actions.held_actions import HeldActionsWorker
from connector.actions.requests import ActionRules, routes_for
from connector.actions.sink import ActionRenderer, ActionSink
from connector.domain.actions import (
    Action,
    ActionBatch,
    ActionReceipt,
    ActionRequest,
    Caps,
    Conflict,
)
from connector.domain.attention import Check
from connector.domain.errors import AmbiguousError, DeliveryError, Problem, RetryLater
from connector.domain.lanes import Lane, LaneState, Millis
from connector.domain.outcomes import Outcome
from connector.domain.records import Claim
from connector.pipeline.dispatch import Dispatcher, Policy
from connector.pipeline.intake import Intake
from connector.ports import ActionView, Fence, IdentifiedAction
from connector.runtime.metrics import Metrics
from connector.runtime.supervisor import SupervisedWorker
from connector.store.queues.action_intake import SqlActionIntake
from connector.store.queues.actions import SqlActionQueue
from connector.store.sql import SqlStore
from connector.testing.fakes.clock import FakeClock
from connector.testing.fakes.lease import FakeLease
from connector.testing.fakes.sinks import FakeQuota
from connector.testing.fakes.store import InlineDatabase, memory_store

SECRET = "flow-secret"
LOOK_UPS = (0, 60_000, 600_000)
_FOREVER = 10**15
_HOUR = 3_600_000

Fault = Literal["", "before", "after", "wait"] | DeliveryError
"""The fault of a send: none, a connection lost before or after it was applied, certainly not
applied."""


AtPoint = Callable[[str], Awaitable[None]]
"""Called at every named point around a send; it may wait for ever, as a killed process does."""


async def _no_op(point: str) -> None: ...


@dataclass
class Platform:
    """connector.ports.Actions with a ledger. Without `supports_lookup` it keeps no references."""

    supports_lookup: bool = True
    parallel: int = 4
    endpoint: str = "POST /adjust"
    ledger: Counter[str] = field(default_factory=Counter)
    sent: list[Action] = field(default_factory=list)
    lookups: list[tuple[str, int]] = field(default_factory=list)
    faults: deque[Fault] = field(default_factory=deque)
    lookup_faults: deque[DeliveryError] = field(default_factory=deque)
    default_fault: Callable[[], Fault] = lambda: ""
    at_point: AtPoint = _no_op
    now: Callable[[], int] = lambda: 0
    quota: Any = field(default_factory=FakeQuota)

    async def apply(self, action: Action) -> str:
        self.sent.append(action)
        await self.at_point("left")
        fault = self.faults.popleft() if self.faults else self.default_fault()
        if isinstance(fault, DeliveryError):
            raise fault
        if fault == "wait":
            raise RetryLater(Problem.PLATFORM_UNAVAILABLE, status=503)
        if fault == "before":
            raise AmbiguousError(Problem.CONNECTION_LOST)
        self.ledger[action.ref] += 1
        await self.at_point("applied")
        if fault == "after":
            raise AmbiguousError(Problem.TIMED_OUT)
        return f"platform-{action.ref}"

    async def look_up(self, action: Action) -> Literal["applied", "absent", "unknowable"]:
        self.lookups.append((action.ref, self.now()))
        await self.at_point("looking")
        if self.lookup_faults:
            raise self.lookup_faults.popleft()
        if not self.supports_lookup:
            return "unknowable"
        return "applied" if self.ledger[action.ref] else "absent"


class InstrumentedIntake(SqlActionIntake):
    """The intake, with a hook before and after each commit."""

    at_point: AtPoint = staticmethod(_no_op)

    async def add(self, batches: Sequence[ActionBatch]) -> Sequence[ActionReceipt | Conflict]:
        await self.at_point("received")
        receipts = await super().add(batches)
        await self.at_point("stored")
        return receipts


class InstrumentedQueue(SqlActionQueue):
    """The queue, with hooks around claim and settle."""

    at_point: AtPoint = staticmethod(_no_op)

    async def claim(self, *args: Any, **how: Any) -> Claim | None:
        claim = await super().claim(*args, **how)
        await self.at_point("claimed")
        return claim

    async def settle(self, claim: Claim, outcomes: Sequence[Outcome], **how: Any) -> int:
        await self.at_point("answered")
        changed = await super().settle(claim, outcomes, **how)
        await self.at_point("settled")
        return changed


class Rig:
    """The part of a daemon that handles actions. Its store and platform survive a kill."""

    def __init__(self, platform: Platform, *, caps: Caps | None = None, **how: Any) -> None:
        self.clock = FakeClock()
        self.platform = platform
        platform.now = self.clock.now
        self.caps = caps or Caps(per_person=1_000)
        self.how = how
        self.metrics = Metrics("test")
        self.addresses: dict[str, str] = {}
        self.on_address_lookup: Callable[[], None] = lambda: None
        self.database = InlineDatabase()
        self.starts = 0
        self.store: SqlStore
        self.queue: InstrumentedQueue
        self.action_intake: InstrumentedIntake
        self.lane: Lane
        self.lease: FakeLease
        self.endpoint: FlowEndpoint
        self.dispatcher: Dispatcher[Action]
        self._outside: set[asyncio.Task[Any]] = set()

    async def start(self, at_point: AtPoint = _no_op) -> None:
        self._outside = asyncio.all_tasks()
        self.database = self.database.reopened()
        self.store = store = memory_store(self.database)
        self.queue = queue = InstrumentedQueue(self.database)
        self.action_intake = InstrumentedIntake(self.database)
        self._set_hook(at_point)
        self.starts += 1
        now, us, before = self.clock.now(), f"us{self.starts}", f"us{self.starts - 1}"
        fence = await store.leases.acquire("store", us, now=now, ttl=_FOREVER, dead_holder=before)
        assert isinstance(fence, Fence)
        await queue.recover(fence, now=now)
        self.lease = FakeLease(fence)
        self.lane = await store.lanes.ensure("acme", "fake", "action")
        self.dispatcher = self._dispatcher(queue)
        self.intake = Intake(store.outbox, self.action_intake)
        self.endpoint = self.make_endpoint(self.lane)
        held_worker = HeldActionsWorker(
            self.lane,
            store.action_decisions,
            store.approvals,
            self.clock,
            caps=self.caps,
            on_released=self.dispatcher.wake,
        )
        self.held_worker = held_worker
        self.dispatcher.start()
        SupervisedWorker(
            "held_actions", held_worker, subject="acme", clock=self.clock, metrics=Metrics("test")
        ).start()

    def _set_hook(self, at_point: AtPoint) -> None:
        self.queue.at_point = self.action_intake.at_point = self.platform.at_point = at_point

    def _dispatcher(self, queue: SqlActionQueue) -> Dispatcher[Action]:
        async def address_of(id: str) -> str | None:
            self.on_address_lookup()
            return self.addresses.get(id)

        async def identify(id: int, email: str) -> IdentifiedAction | None:
            return await queue.identify(self.lane, id, email)

        async def check() -> Sequence[Check]:
            return [Check("fake", "ok")]

        sink = ActionSink(
            self.platform,
            clock=self.clock,
            may_send=lambda: self.lease.valid(),
            not_applied=frozenset({423, 429, 503}),
            address_of=address_of,
            identify=identify,
            check=check,
            settings=self.how.get("settings", ""),
            unknown_person_grace=self.how.get("grace", 0),
        )
        return Dispatcher(
            self.lane,
            LaneState(),
            queue=queue,
            lanes=self.store.lanes,
            sink=sink,
            renderer=ActionRenderer(self.how.get("settings", "")),
            lease=self.lease,
            clock=self.clock,
            metrics=self.metrics,
            policy=Policy(
                look_ups=self.how.get("look_ups", LOOK_UPS), retry_base=0.1, retry_max=0.5
            ),
        )

    def make_endpoint(self, lane: Lane | None) -> FlowEndpoint:
        return FlowEndpoint(
            lane,
            self.intake,
            self.clock,
            self.metrics,
            wake=lambda _: self.dispatcher.wake(),
            routes=routes_for(frozenset({"adjust", "push"})),
            secrets=self.how.get("secrets", [SECRET, "next-secret"]),
            rules=ActionRules(10_000, 25 * _HOUR, 400 * 24 * _HOUR),
            caps=self.caps,
            enabled=self.how.get("enabled", True),
        )

    async def send(
        self, *keys: str, email: str = "ana@example.com", amount: int = 10
    ) -> ActionReceipt:
        """Submit one call with an adjustment per key."""
        action = Action("increase", email=email, amount=amount, reason="r")
        answer = await self.endpoint.submit(
            "flow", [ActionRequest(action, "r", key) for key in keys]
        )
        assert isinstance(answer, ActionReceipt)
        await self.after(0.0)
        return answer

    async def after(self, seconds: float) -> None:
        await self.clock.advance(seconds)

    async def kill(self) -> None:
        """Like `kill -9`: what is in flight is cancelled and nothing more is settled."""
        self.database.dead = True
        self._set_hook(_no_op)
        ours = asyncio.all_tasks() - self._outside - {asyncio.current_task()}
        for task in ours:
            task.cancel()
        await asyncio.gather(*ours, return_exceptions=True)

    async def all_actions(self) -> list[ActionView]:
        found = await self.store.action_views.find(limit=100_000)
        return sorted(found, key=lambda action: action.id)

    async def states(self) -> list[str]:
        return [action.state for action in await self.all_actions()]


@pytest.fixture
async def make_rig() -> AsyncIterator[Callable[..., Rig]]:
    made: list[Rig] = []

    def make(platform: Platform | None = None, **how: Any) -> Rig:
        made.append(Rig(platform or Platform(), **how))
        return made[-1]

    yield make
    for rig in made:
        if rig.starts:
            await rig.kill()


@pytest.fixture
async def rig(make_rig: Callable[..., Rig]) -> Rig:
    made = make_rig()
    await made.start()
    return made


@pytest.fixture(autouse=True)
def mute_logs(silenced_logs: None) -> None: ...


__all__ = ["LOOK_UPS", "SECRET", "Millis", "Platform", "Rig"]
