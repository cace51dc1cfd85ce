"""What comes in is durable before anybody is told so."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from connector.domain.errors import Problem, StoreError
from connector.domain.lanes import (
    Lane,
    LaneId,
)
from connector.domain.records import (
    Appended,
    Checkpoint,
    Page,
    Record,
    State,
)
from connector.pipeline.intake import Intake
from connector.runtime.metrics import Metrics
from connector.testing.fakes.clock import FakeClock, settle_down
from connector.testing.fakes.store import MemoryStore


class SlowOutbox(MemoryStore):
    """Commits when the test lets it, and cannot store a record named `unstorable`."""

    def __init__(self) -> None:
        super().__init__()
        self.appends: list[int] = []
        self.free = asyncio.Event()
        self.free.set()

    async def append(self, pages: Sequence[Page]) -> Sequence[Appended]:
        self.appends.append(len(pages))
        await self.free.wait()
        if any(record.name == "unstorable" for page in pages for record in page.records):
            raise ValueError("no such text")
        return await super().append(pages)


class Door:
    """An intake, its outbox, and the lanes that were woken."""

    def __init__(self, lane: Lane, store: SlowOutbox) -> None:
        self.lane, self.store = lane, store
        self.woken: list[LaneId] = []
        self.clock = FakeClock()
        self.intake = Intake(store, self.clock, Metrics("test"), arrived=self.woken.append)

    def take(self, *keys: str, name: str = "Added", **more: str | None) -> asyncio.Task[Appended]:
        records = [self.record(key, name, **more) for key in keys]
        return asyncio.create_task(self.intake.take(self.lane, "webhook", records))

    def record(self, key: str, name: str = "Added", **more: str | None) -> Record:
        given = {"email": "ada@example.com", **more}
        return Record(key, f"test:{key}", name, self.clock.now(), b"{}", **given)  # type: ignore[arg-type]

    @property
    def stored(self) -> set[str]:
        return {row.record.key for row in self.store.rows.values()}


@pytest.fixture
async def door() -> Door:
    store = SlowOutbox()
    return Door(await store.ensure("acme", "klaviyo", "event"), store)


async def test_deliveries_that_arrive_together_share_few_commits(door: Door) -> None:
    results = await asyncio.gather(*(door.take(f"k{i}") for i in range(500)))
    assert results == [Appended(1, 0)] * 500
    assert len(door.store.appends) <= 2
    assert len(door.stored) == 500


async def test_what_arrives_during_a_commit_shares_the_next_one(door: Door) -> None:
    door.store.free.clear()
    first = door.take("first")
    await settle_down()
    rest = [door.take(f"k{i}") for i in range(99)]
    await settle_down()
    assert door.store.appends == [1]
    door.store.free.set()
    await asyncio.gather(first, *rest)
    assert door.store.appends == [1, 99]


async def test_nobody_is_answered_before_his_commit(door: Door) -> None:
    door.store.free.clear()
    taken = [door.take("a"), door.take("b")]
    await settle_down()
    assert [task.done() for task in taken] == [False, False]
    assert door.stored == set()
    door.store.free.set()
    await asyncio.gather(*taken)
    assert door.stored == {"a", "b"}


async def test_one_bad_page_fails_alone(door: Door) -> None:
    good = [door.take(f"k{i}") for i in range(20)]
    bad = door.take("bad", name="unstorable")
    more = [door.take(f"m{i}") for i in range(20)]
    assert await asyncio.gather(*good, *more) == [Appended(1, 0)] * 40
    with pytest.raises(StoreError) as caught:
        await bad
    assert caught.value.problem == Problem.STORE_UNAVAILABLE
    assert "no such text" not in caught.value.detail
    assert door.stored == {f"k{i}" for i in range(20)} | {f"m{i}" for i in range(20)}


async def test_a_page_that_fails_leaves_no_cursor(door: Door) -> None:
    records = [door.record("a", "unstorable")]
    page = Page(door.lane, "poll", records, door.clock.now(), Checkpoint("recent", "p2"))
    with pytest.raises(StoreError):
        await door.intake.page(page)
    assert await door.store.load("acme", "recent") is None


async def test_a_store_that_is_away_answers_with_its_error_and_keeps_nothing(door: Door) -> None:
    door.store.broken = StoreError(Problem.STORE_UNAVAILABLE, "told by a test")
    for task in [door.take("a"), door.take("b")]:
        with pytest.raises(StoreError):
            await task
    door.store.broken = None
    assert await door.take("a") == Appended(1, 0)


async def test_more_than_can_wait_is_refused_at_once(door: Door) -> None:
    door.store.free.clear()
    first = door.take("first")
    await settle_down()
    big = [door.take(*(f"{n}-{i}" for i in range(10_000)), email=None) for n in range(5)]
    await settle_down()
    with pytest.raises(StoreError, match="too much waits"):
        await door.take("one too many")
    door.store.free.set()
    await asyncio.gather(first, *big)
    assert await door.take("one too many") == Appended(1, 0)


async def test_with_little_disk_left_nothing_is_taken_in(door: Door) -> None:
    door.intake.closed = Problem.DISK_LOW
    with pytest.raises(StoreError) as caught:
        await door.take("a")
    assert caught.value.problem == Problem.DISK_LOW
    assert door.store.appends == []
    door.intake.closed = None
    assert await door.take("a") == Appended(1, 0)


async def test_a_caller_who_leaves_does_not_take_the_others_along(door: Door) -> None:
    door.store.free.clear()
    first, leaves, stays = door.take("a"), door.take("b"), door.take("c")
    await settle_down()
    leaves.cancel()
    await settle_down()
    door.store.free.set()
    assert await asyncio.gather(first, stays) == [Appended(1, 0)] * 2
    assert await door.take("d") == Appended(1, 0)


async def test_a_lane_is_woken_only_when_something_can_be_delivered(door: Door) -> None:
    await door.take("a")
    assert door.woken == [door.lane.id]
    await door.take("a")  # known
    await door.take("held", email=None, person="p1")  # has no address
    await door.take()  # nothing
    assert door.woken == [door.lane.id]
    await door.take("brings it", email="p1@example.com", person="p1")
    assert len(door.woken) == 2
    assert all(row.state == State.READY for row in door.store.rows.values())


async def test_a_record_that_only_releases_others_wakes_the_lane(door: Door) -> None:
    await door.take("held", email=None, person="p1")
    result = await door.take("a", "b", email="p1@example.com", person="p1")
    assert result == Appended(2, 0, released=1)
    assert door.woken == [door.lane.id]


@pytest.mark.parametrize(("by_id", "woken"), [(True, 1), (False, 0)])
async def test_a_held_record_wakes_its_line_only_where_a_read_may_release_it(
    door: Door, by_id: bool, woken: int
) -> None:
    nameless = [door.record("a", email=None)]
    await door.intake.page(Page(door.lane, "webhook", nameless, door.clock.now(), by_id=by_id))
    assert len(door.woken) == woken
