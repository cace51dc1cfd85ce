"""A lane under the test's hand: store in memory, fake clock, scripted destination."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import pytest
from sqlalchemy import Row, select, update

from connector.domain.errors import StoreError
from connector.domain.lanes import Lane, LaneId, LaneState
from connector.domain.messages import Fault, Skip
from connector.domain.outcomes import Outcome
from connector.domain.records import Claim, Entry, Page, Record, State
from connector.pipeline.dispatch import Dispatcher, Policy
from connector.ports import BatchMode, Fence, Queue, Quota, ReadyCounts, Settled
from connector.runtime.metrics import Metrics
from connector.store.tables import outbox
from connector.testing.fakes.clock import FakeClock, run_pending
from connector.testing.fakes.lease import FakeLease
from connector.testing.fakes.sinks import ScriptedSink
from connector.testing.fakes.store import InlineDatabase, memory_store

BULK = BatchMode("bulk", size=100, parallel=1)
_A_YEAR = 365 * 86_400_000


class PlainRenderer:
    """Renders an entry as (its id, the mapping version that it is rendered with)."""

    def __init__(self, version: str = "v1") -> None:
        self.version = version
        self.overrides: dict[str, Skip | Fault | Exception] = {}
        self.prepared: list[str | None] = []
        self.broken: Exception | None = None

    async def prepare(self, entries: Sequence[Entry]) -> None:
        if self.broken:
            raise self.broken
        self.prepared += [entry.mapping for entry in entries if entry.mode]

    def render(self, entry: Entry) -> tuple[str, str | None] | Skip | Fault:
        overrides = self.overrides.get(entry.unique_id)
        if isinstance(overrides, Exception):
            raise overrides
        return overrides or (entry.unique_id, entry.mapping if entry.mode else self.version)


class HookedQueue:
    """connector.ports.Queue over the store, with hooks that delay or fail its calls."""

    def __init__(self, inner: Queue) -> None:
        self._inner = inner
        self.looked = 0
        """How often it was asked what is ready."""
        self.after_ready: Callable[[], Awaitable[None]] = _nothing
        self.before_claim: Callable[[], Awaitable[None]] = _nothing
        self.after_claim: Callable[[], Awaitable[None]] = _nothing
        self.before_extend: Callable[[], Awaitable[None]] = _nothing
        self.refuses: Callable[[Sequence[Outcome]], Exception | None] = lambda outcomes: None
        """The error with which `settle` refuses these outcomes."""

    async def ready(self, lane: LaneId, **options: Any) -> ReadyCounts:
        self.looked += 1
        counts = await self._inner.ready(lane, **options)
        await self.after_ready()
        return counts

    async def claim(self, lane: Lane, fence: Fence, **options: Any) -> Claim | None:
        await self.before_claim()
        claim = await self._inner.claim(lane, fence, **options)
        await self.after_claim()
        return claim

    async def settle(self, claim: Claim, outcomes: Sequence[Outcome], **options: Any) -> Settled:
        if error := self.refuses(outcomes):
            raise error
        return await self._inner.settle(claim, outcomes, **options)

    async def recover(self, fence: Fence, **options: Any) -> int:
        return await self._inner.recover(fence, **options)

    async def retry_now(self, lane: LaneId, **options: Any) -> int:
        return await self._inner.retry_now(lane, **options)

    async def extend_horizon(self, lane: LaneId, pause: int) -> int:
        await self.before_extend()
        return await self._inner.extend_horizon(lane, pause)


async def _nothing() -> None: ...


class Rig:
    """One running lane."""

    def __init__(self, database: InlineDatabase, clock: FakeClock) -> None:
        self.database, self.clock = database, clock
        self.store = memory_store(database)
        self.queue = HookedQueue(self.store.outbox)
        self.lane: Lane
        self.lease: FakeLease
        self.renderer = PlainRenderer()
        self.sink: ScriptedSink[Any] = ScriptedSink(bulk=BULK)
        self.metrics = Metrics("test")
        self.policy = Policy(bulk_threshold=5, probe_every=30.0, horizon=60_000)
        self.dispatcher: Dispatcher[Any]
        self._running = False

    async def open(self) -> None:
        """Take the lease of the store."""
        self.lane = await self.store.lanes.ensure("acme", "klaviyo", "event")
        fence = await self.store.leases.acquire("store", "one", now=self.clock.now(), ttl=_A_YEAR)
        assert isinstance(fence, Fence)
        self.lease = FakeLease(fence)

    async def start(self, *, broken: StoreError | None = None, **changes: Any) -> None:
        """Start, or start again as after a restart: with the lane's stored state. With `broken`
        the store fails from then on."""
        state = next(s for x, s in await self.store.lanes.all() if x.id == self.lane.id)
        self.policy = changes.get("policy", self.policy)
        self.dispatcher = Dispatcher(
            self.lane,
            state,
            queue=self.queue,
            lanes=self.store.lanes,
            sink=self.sink,
            renderer=self.renderer,
            lease=self.lease,
            clock=self.clock,
            metrics=self.metrics,
            policy=self.policy,
        )
        self.database.error = broken
        self.dispatcher.start()
        self._running = True
        await run_pending()

    async def stop(self, timeout: float = 0.0) -> None:
        if not self._running:
            return
        stopping = asyncio.create_task(self.dispatcher.stop(timeout))
        await self.clock.advance(timeout)
        await stopping
        self._running = False

    async def append_records(
        self, *keys: str, backfill: bool = False, email: str | None = "a@b.cd"
    ) -> None:
        """Store records and wake the lane, as an endpoint does."""
        records = [
            Record(key, f"test:{key}", "Balance changed", self.clock.now(), b"{}", email=email)
            for key in keys
        ]
        page = Page(self.lane, "webhook", records, self.clock.now(), backfill=backfill)
        await self.store.outbox.append([page])
        self.wake()
        await run_pending()

    def wake(self) -> None:
        if self._running:
            self.dispatcher.wake()

    async def after(self, seconds: float) -> None:
        await self.clock.advance(seconds)

    def rows(self) -> Sequence[Row[Any]]:
        """The outbox as it is stored."""
        return self.database.execute(lambda c: c.execute(select(outbox)).all())

    def row(self, key: str) -> Row[Any]:
        [row] = [row for row in self.rows() if row.unique_id == f"test:{key}"]
        return row

    def set_state(self, key: str, state: State) -> None:
        """Change a record behind the lane's back."""
        change = update(outbox).where(outbox.c.unique_id == f"test:{key}").values(state=state)
        self.database.execute(lambda c: c.execute(change))

    def states(self) -> dict[State, int]:
        return dict(Counter(State(row.state) for row in self.rows()))


@pytest.fixture
async def make_rig() -> AsyncIterator[Callable[..., Any]]:
    """Makes a rig that has not started; `quota` and `bulk` are the sink's."""
    made: list[Rig] = []

    async def make(quota: Quota | None = None, bulk: BatchMode | None = BULK) -> Rig:
        rig = Rig(InlineDatabase(), FakeClock())
        await rig.open()
        rig.sink = ScriptedSink(bulk=bulk, quota=quota)
        made.append(rig)
        return rig

    yield make
    for rig in made:
        rig.database.error = None
        rig.sink.open.set()
        await rig.stop(1.0)


@pytest.fixture
async def rig(make_rig: Callable[..., Any]) -> Rig:
    made: Rig = await make_rig()
    await made.start()
    return made


@pytest.fixture
async def stopped_rig(make_rig: Callable[..., Any]) -> Rig:
    """A rig that has not started, so that a test can prepare what it finds at its start."""
    made: Rig = await make_rig()
    return made


__all__ = ["FakeLease", "LaneState", "PlainRenderer", "Rig"]
