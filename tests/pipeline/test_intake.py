"""What comes in is durable before anybody is told so."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import select

from connector.domain.errors import Problem, StoreError
from connector.domain.lanes import Lane, LaneId
from connector.domain.records import Appended, Checkpoint, Page, Record, State
from connector.pipeline.intake import Intake
from connector.runtime.metrics import Metrics
from connector.store.queues.outbox import SqlOutbox
from connector.store.tables import outbox
from connector.testing.fakes.clock import FakeClock, run_pending
from connector.testing.fakes.store import InlineDatabase, memory_store


class SlowOutbox(SqlOutbox):
    """Commits when the test lets it, and cannot store a record named `unstorable`."""

    def __init__(self, database: InlineDatabase) -> None:
        super().__init__(database)
        self.appends: list[int] = []
        self.free = asyncio.Event()
        self.free.set()

    async def append(self, pages: Sequence[Page]) -> Sequence[Appended]:
        self.appends.append(len(pages))
        await self.free.wait()
        if any(record.name == "unstorable" for page in pages for record in page.records):
            raise ValueError("no such text")
        return await super().append(pages)


class IntakeHarness:
    """An intake, its outbox, and the lanes that were woken."""

    def __init__(self, lane: Lane, database: InlineDatabase) -> None:
        self.lane, self.database = lane, database
        self.outbox = SlowOutbox(database)
        self.woken_lanes: list[LaneId] = []
        self.clock = FakeClock()
        self.intake = Intake(
            self.outbox, self.clock, Metrics("test"), on_ready=self.woken_lanes.append
        )

    def deliver(
        self, *keys: str, name: str = "Added", **more: str | None
    ) -> asyncio.Task[Appended]:
        records = [self.record(key, name, **more) for key in keys]
        return asyncio.create_task(self.intake.receive(self.lane, "webhook", records))

    def record(self, key: str, name: str = "Added", **more: str | None) -> Record:
        given = {"email": "ada@example.com", **more}
        return Record(key, f"test:{key}", name, self.clock.now(), b"{}", **given)  # type: ignore[arg-type]

    @property
    def stored(self) -> set[str]:
        return {id.removeprefix("test:") for id in self._column(outbox.c.unique_id)}

    @property
    def states(self) -> set[State]:
        return {State(state) for state in self._column(outbox.c.state)}

    def _column(self, column: Any) -> list[Any]:
        return list(self.database.execute(lambda c: c.execute(select(column)).scalars()))


@pytest.fixture
async def harness() -> IntakeHarness:
    database = InlineDatabase()
    lane = await memory_store(database).lanes.ensure("acme", "klaviyo", "event")
    return IntakeHarness(lane, database)


async def test_deliveries_that_arrive_together_share_few_commits(harness: IntakeHarness) -> None:
    results = await asyncio.gather(*(harness.deliver(f"k{i}") for i in range(500)))
    assert results == [Appended(1, 0)] * 500
    assert len(harness.outbox.appends) <= 2
    assert len(harness.stored) == 500


async def test_deliveries_during_a_commit_share_the_next_one(harness: IntakeHarness) -> None:
    harness.outbox.free.clear()
    first = harness.deliver("first")
    await run_pending()
    rest = [harness.deliver(f"k{i}") for i in range(99)]
    await run_pending()
    assert harness.outbox.appends == [1]
    harness.outbox.free.set()
    await asyncio.gather(first, *rest)
    assert harness.outbox.appends == [1, 99]


async def test_no_caller_is_answered_before_their_commit(harness: IntakeHarness) -> None:
    harness.outbox.free.clear()
    tasks = [harness.deliver("a"), harness.deliver("b")]
    await run_pending()
    assert [task.done() for task in tasks] == [False, False]
    assert harness.stored == set()
    harness.outbox.free.set()
    await asyncio.gather(*tasks)
    assert harness.stored == {"a", "b"}


async def test_one_bad_page_fails_alone(harness: IntakeHarness) -> None:
    good = [harness.deliver(f"k{i}") for i in range(20)]
    bad = harness.deliver("bad", name="unstorable")
    more = [harness.deliver(f"m{i}") for i in range(20)]
    assert await asyncio.gather(*good, *more) == [Appended(1, 0)] * 40
    with pytest.raises(StoreError) as caught:
        await bad
    assert caught.value.problem == Problem.STORE_UNAVAILABLE
    assert "no such text" not in caught.value.detail
    assert harness.stored == {f"k{i}" for i in range(20)} | {f"m{i}" for i in range(20)}


async def test_a_page_that_fails_leaves_no_cursor(harness: IntakeHarness) -> None:
    records = [harness.record("a", "unstorable")]
    page = Page(harness.lane, "poll", records, harness.clock.now(), Checkpoint("recent", "p2"))
    with pytest.raises(StoreError):
        await harness.intake.page(page)
    assert await memory_store(harness.database).checkpoints.load("acme", "recent") is None


async def test_an_unavailable_store_returns_its_error_and_keeps_nothing(
    harness: IntakeHarness,
) -> None:
    harness.database.broken = StoreError(Problem.STORE_UNAVAILABLE, "told by a test")
    for task in [harness.deliver("a"), harness.deliver("b")]:
        with pytest.raises(StoreError):
            await task
    harness.database.broken = None
    assert await harness.deliver("a") == Appended(1, 0)


async def test_deliveries_above_the_queue_limit_are_refused_at_once(harness: IntakeHarness) -> None:
    harness.outbox.free.clear()
    first = harness.deliver("first")
    await run_pending()
    big = [harness.deliver(*(f"{n}-{i}" for i in range(10_000)), email=None) for n in range(5)]
    await run_pending()
    with pytest.raises(StoreError, match="wait for a commit"):
        await harness.deliver("one too many")
    harness.outbox.free.set()
    await asyncio.gather(first, *big)
    assert await harness.deliver("one too many") == Appended(1, 0)


async def test_with_low_disk_space_nothing_is_accepted(harness: IntakeHarness) -> None:
    harness.intake.closed_by = Problem.DISK_LOW
    with pytest.raises(StoreError) as caught:
        await harness.deliver("a")
    assert caught.value.problem == Problem.DISK_LOW
    assert harness.outbox.appends == []
    harness.intake.closed_by = None
    assert await harness.deliver("a") == Appended(1, 0)


async def test_a_cancelled_caller_does_not_cancel_the_others(harness: IntakeHarness) -> None:
    harness.outbox.free.clear()
    first, leaves, stays = harness.deliver("a"), harness.deliver("b"), harness.deliver("c")
    await run_pending()
    leaves.cancel()
    await run_pending()
    harness.outbox.free.set()
    assert await asyncio.gather(first, stays) == [Appended(1, 0)] * 2
    assert await harness.deliver("d") == Appended(1, 0)


async def test_a_lane_is_woken_only_when_something_can_be_delivered(harness: IntakeHarness) -> None:
    await harness.deliver("a")
    assert harness.woken_lanes == [harness.lane.id]
    await harness.deliver("a")  # known
    await harness.deliver("held", email=None, person="p1")  # has no address
    await harness.deliver()  # nothing
    assert harness.woken_lanes == [harness.lane.id]
    await harness.deliver("brings it", email="p1@example.com", person="p1")
    assert len(harness.woken_lanes) == 2
    assert harness.states == {State.READY}


async def test_a_record_that_only_releases_others_wakes_the_lane(harness: IntakeHarness) -> None:
    await harness.deliver("held", email=None, person="p1")
    result = await harness.deliver("a", "b", email="p1@example.com", person="p1")
    assert result == Appended(2, 0, released=1)
    assert harness.woken_lanes == [harness.lane.id]


@pytest.mark.parametrize(("by_id", "woken_lanes"), [(True, 1), (False, 0)])
async def test_a_held_record_wakes_its_lane_only_if_a_read_may_release_it(
    harness: IntakeHarness, by_id: bool, woken_lanes: int
) -> None:
    nameless = [harness.record("a", email=None)]
    await harness.intake.page(
        Page(harness.lane, "webhook", nameless, harness.clock.now(), by_id=by_id)
    )
    assert len(harness.woken_lanes) == woken_lanes
