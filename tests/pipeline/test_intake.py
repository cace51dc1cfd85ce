"""A call is committed before it is answered, and its lanes are woken after that."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from sqlalchemy import select

from connector.domain.errors import Problem, StoreError
from connector.domain.lanes import Lane, LaneId, LaneKind, Millis
from connector.domain.records import Appended, Checkpoint, Page, Record, State
from connector.pipeline.intake import Intake
from connector.pipeline.webhook_endpoint import ReadRules, WebhookEndpoint
from connector.runtime.group_commit import GroupCommit
from connector.runtime.metrics import Metrics
from connector.store.sql import SqlStore
from connector.store.tables import outbox
from connector.testing.fakes.clock import FakeClock, run_pending
from connector.testing.fakes.store import InlineDatabase, memory_store

_EMAIL = "ada@example.com"


class SlowOutbox:
    """An outbox that commits while `free` is set and cannot store a record named `unstorable`."""

    def __init__(self, store: SqlStore) -> None:
        self._store = store
        self.appends: list[int] = []
        self.free = asyncio.Event()
        self.free.set()
        self.error: StoreError | None = None

    async def append(self, pages: Sequence[Page]) -> Sequence[Appended]:
        self.appends.append(len(pages))
        await self.free.wait()
        if self.error:
            raise self.error
        if any(record.name == "unstorable" for page in pages for record in page.records):
            raise ValueError("no such text")
        return await self._store.outbox.append(pages)


class StubWebhook:
    """connector.ports.Webhook whose body is a number: records that were given to it before."""

    def __init__(self) -> None:
        self.calls: list[Sequence[Record]] = []

    def verify(self, headers: Mapping[str, str], body: bytes, secret: str | None) -> None: ...

    def parse(self, headers: Mapping[str, str], body: bytes) -> Sequence[Record]:
        return self.calls[int(body)]


class IntakeHarness:
    """A webhook endpoint, its outbox, and how often its lanes were woken."""

    def __init__(self, store: SqlStore, database: InlineDatabase, lane: Lane) -> None:
        self.store, self.database, self.lane = store, database, lane
        self.outbox: Any = SlowOutbox(store)
        self.clock = FakeClock()
        self.wakes: list[Mapping[LaneKind, Millis]] = []
        self.intake = Intake(self.outbox, store.action_intake)
        self.webhook = StubWebhook()
        self.endpoint = self.make_endpoint()
        self._numbers = itertools.count()

    def make_endpoint(self, reads: ReadRules | None = None) -> WebhookEndpoint:
        return WebhookEndpoint(
            self.lane,
            self.webhook,
            self.intake,
            self.clock,
            Metrics("test"),
            wake=self.wakes.append,
            reads=reads,
        )

    def deliver(
        self,
        *keys: str,
        name: str = "Added",
        email: str | None = _EMAIL,
        person: str | None = None,
    ) -> asyncio.Task[Appended]:
        self.webhook.calls.append([self.record(key, name, email, person) for key in keys])
        body = b"%d" % next(self._numbers)
        return asyncio.create_task(self.endpoint.receive("", {}, body))

    def record(
        self, key: str, name: str, email: str | None = _EMAIL, person: str | None = None
    ) -> Record:
        now = self.clock.now()
        return Record(key, f"test:{key}", name, now, b"{}", email=email, person=person)

    def limit_waiting_rows(self, rows: int) -> None:
        self.intake.pages = GroupCommit(
            self.outbox.append, lambda page: len(page.records), max_waiting_rows=rows
        )

    @property
    def stored(self) -> dict[str, State]:
        """Key → state of every record in the outbox."""
        query = select(outbox.c.unique_id, outbox.c.state)
        found = self.database.execute(lambda c: list(c.execute(query)))
        return {id.removeprefix("test:"): State(state) for id, state in found}


@pytest.fixture
async def harness() -> IntakeHarness:
    database = InlineDatabase()
    store = memory_store(database)
    lane = await store.lanes.ensure("acme", "klaviyo", "event")
    return IntakeHarness(store, database, lane)


async def test_deliveries_that_arrive_together_share_few_commits(harness: IntakeHarness) -> None:
    results = await asyncio.gather(*(harness.deliver(f"k{i}") for i in range(500)))
    assert results == [Appended(1, 0)] * 500
    assert harness.outbox.appends == [100] * 5
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
    assert set(harness.stored) == set()
    harness.outbox.free.set()
    await asyncio.gather(*tasks)
    assert set(harness.stored) == {"a", "b"}


async def test_one_bad_page_fails_alone(harness: IntakeHarness) -> None:
    good = [harness.deliver(f"k{i}") for i in range(20)]
    bad = harness.deliver("bad", name="unstorable")
    more = [harness.deliver(f"m{i}") for i in range(20)]
    assert await asyncio.gather(*good, *more) == [Appended(1, 0)] * 40
    with pytest.raises(StoreError) as caught:
        await bad
    assert caught.value.problem == Problem.STORE_UNAVAILABLE
    assert "no such text" not in caught.value.detail
    assert set(harness.stored) == {f"k{i}" for i in range(20)} | {f"m{i}" for i in range(20)}


async def test_a_page_that_fails_leaves_no_cursor(harness: IntakeHarness) -> None:
    records = [harness.record("a", "unstorable")]
    page = Page(harness.lane, "poll", records, harness.clock.now(), Checkpoint("recent", "p2"))
    with pytest.raises(StoreError):
        await harness.intake.pages.put(page)
    assert await harness.store.checkpoints.load("acme", "recent") is None


async def test_an_unavailable_store_returns_its_error_and_keeps_nothing(
    harness: IntakeHarness,
) -> None:
    harness.outbox.error = StoreError(Problem.STORE_UNAVAILABLE, "raised by a test")
    for task in [harness.deliver("a"), harness.deliver("b")]:
        with pytest.raises(StoreError):
            await task
    harness.outbox.error = None
    assert await harness.deliver("a") == Appended(1, 0)


async def test_deliveries_above_the_queue_limit_are_refused_at_once(harness: IntakeHarness) -> None:
    harness.limit_waiting_rows(50)
    harness.outbox.free.clear()
    first = harness.deliver("first")
    await run_pending()
    waiting = [harness.deliver(*(f"{n}-{i}" for i in range(10))) for n in range(5)]
    await run_pending()
    with pytest.raises(StoreError, match="50 rows wait to be stored, allowed 50"):
        await harness.deliver("one too many")
    harness.outbox.free.set()
    await asyncio.gather(first, *waiting)
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


async def test_lanes_are_woken_only_when_something_can_be_delivered(harness: IntakeHarness) -> None:
    await harness.deliver("a")
    assert len(harness.wakes) == 1
    await harness.deliver("a")  # a duplicate
    await harness.deliver("held", email=None, person="p1")  # has no address
    await harness.deliver()  # empty
    assert len(harness.wakes) == 1
    await harness.deliver("with its address", email="p1@example.com", person="p1")
    assert len(harness.wakes) == 2
    assert set(harness.stored.values()) == {State.READY}


async def test_a_record_that_only_releases_others_wakes_the_lanes(harness: IntakeHarness) -> None:
    await harness.deliver("held", email=None, person="p1")
    result = await harness.deliver("a", "b", email="p1@example.com", person="p1")
    assert result == Appended(2, 0, released=1)
    assert len(harness.wakes) == 1


@pytest.mark.parametrize(("by_id", "wakes"), [(True, 1), (False, 0)])
async def test_a_held_record_wakes_the_lanes_only_if_a_read_may_release_it(
    harness: IntakeHarness, by_id: bool, wakes: int
) -> None:
    lane = await harness.store.lanes.ensure("acme", "yotpo", "profile")
    harness.endpoint = harness.make_endpoint(_read_rules(lane.id, by_id=by_id))
    result = await harness.deliver("a", email=None, person="p1")
    assert (result.accepted, result.held) == (1, 1)
    assert len(harness.wakes) == wakes


def _read_rules(lane: LaneId, *, by_id: bool) -> ReadRules:
    return ReadRules(
        lane,
        triggers_read=lambda name: False,
        by_id=by_id,
        attach_wait=lambda: 0.0,
        min_interval=0.5,
    )
