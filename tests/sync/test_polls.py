"""Polls: pages and their cursors, failures, and a cursor that repeats."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from connector.domain.attention import Check
from connector.domain.errors import AmbiguousError, Problem, Rejected, StoreError
from connector.domain.lanes import Lane, Millis
from connector.domain.records import Checkpoint
from connector.mapping import load
from connector.pipeline.profile_reads import ProfileReadSink
from connector.ports import (
    AffectedResources,
    PeoplePage,
    PeoplePageItem,
    PersonRef,
    PersonSnapshot,
    Quota,
)
from connector.runtime.metrics import Metrics
from connector.runtime.supervisor import SupervisedWorker
from connector.store.sql import SqlStore, open_store
from connector.sync.approval_requests import ApprovalRequests
from connector.sync.flow_guard import FlowGuard
from connector.sync.polls import PEOPLE_STREAM, Poll
from connector.testing.fakes.clock import FakeClock, run_pending
from connector.testing.fakes.lease import FakeLease
from tests.paths import MAPPINGS

MAPPING = load(MAPPINGS / "jericommerce.toml").mapping


class NoReader:
    """connector.ports.Reader that must not be used: a poll reads no one singly."""

    endpoint = "GET /people"
    by_id = False
    parallel = 1
    quota: Quota

    async def read(self, ref: PersonRef, fields: frozenset[str]) -> PersonSnapshot | None:
        raise AssertionError("a poll read a person")

    async def check(self) -> Sequence[Check]:
        return []


class Pages:
    """connector.ports.Stream of a fixed list of people, `size` to a page."""

    def __init__(self, people: int, size: int = 2) -> None:
        self.people = [f"p{n}" for n in range(people)]
        self.size = size
        self.requested_cursors: list[str | None] = []
        self.fail: Callable[[], Exception] | None = None
        self.stuck = False
        self.refused: str | None = None

    async def page(
        self, cursor: str | None, fields: frozenset[str], *, backfill: bool = False
    ) -> PeoplePage:
        self.requested_cursors.append(cursor)
        if self.fail:
            raise self.fail()
        if cursor is not None and cursor == self.refused:
            raise Rejected(Problem.PLATFORM_REFUSED, "page_info is not known")
        start = int(cursor or 0)
        names = self.people[start : start + self.size]
        end = start + len(names)
        items = [PeoplePageItem(name, f"{name}@example.com", _snapshot(name)) for name in names]
        if self.stuck:
            return PeoplePage(items, cursor or "0", True, Millis(1_000))
        return PeoplePage(items, str(end), end < len(self.people), Millis(1_000))


def _snapshot(name: str) -> PersonSnapshot:
    view = {"email": f"{name}@example.com", "balance": 5}
    return PersonSnapshot(view, frozenset({"email", "balance"}))


class FakeFlows:
    """connector.ports.Flows."""

    def __init__(self) -> None:
        self.names: list[str] = []

    async def live(self, affected: AffectedResources) -> Sequence[str]:
        assert affected.fields
        return self.names


class PollHarness:
    """A poll on a real store with a fake clock."""

    def __init__(self, store: SqlStore, lane: Lane, writes: Lane, pages: Pages) -> None:
        self.store, self.pages = store, pages
        self.clock, self.lease, self.flows = FakeClock(), FakeLease(), FakeFlows()
        self.writes = writes
        self.observed_pages = 0
        profile_reads = ProfileReadSink(
            NoReader(),
            MAPPING,
            lane=writes.id,
            account="AcCt01",
            email_change="new",
            on_leave="keep",
        )
        self.poll = Poll(
            pages,
            profile_reads,
            MAPPING.reads,
            lane,
            reads=store.reads,
            checkpoints=store.checkpoints,
            lease=self.lease,
            clock=self.clock,
            metrics=Metrics("test"),
            guard=FlowGuard(
                "ask", self.flows, ApprovalRequests("acme", store.approvals, self.clock)
            ),
            every=300.0,
            on_observed=self._count_page,
        )

    def _count_page(self) -> None:
        self.observed_pages += 1

    async def cursor(self) -> Checkpoint | None:
        return await self.store.checkpoints.load("acme", PEOPLE_STREAM)


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Callable[[Pages], Any]]:
    store = await open_store(f"sqlite:///{tmp_path}/s.db")
    lane = await store.lanes.ensure("acme", "yotpo", "profile")
    writes = await store.lanes.ensure("acme", "klaviyo", "profile")
    yield lambda pages: PollHarness(store, lane, writes, pages)
    await store.aclose()


async def test_a_poll_reads_all_pages_and_the_next_starts_where_it_ended(make: Any) -> None:
    harness = make(Pages(5))
    assert await harness.poll.poll() == 5
    assert harness.pages.requested_cursors == [None, "2", "4"] * 2  # counted, then stored
    assert await harness.cursor() == Checkpoint(PEOPLE_STREAM, "5")
    harness.pages.people += ["late"]
    assert await harness.poll.poll() == 1
    assert harness.pages.requested_cursors[6:] == ["5"]
    assert harness.observed_pages == 4


async def test_a_first_poll_that_triggers_live_flows_waits_for_approval(make: Any) -> None:
    harness = make(Pages(3))
    harness.flows.names = ["Winback"]
    assert await harness.poll.poll() == 0
    assert await harness.poll.poll() == 0
    assert harness.pages.requested_cursors == [None, "2"]  # counted once
    assert not await harness.store.timelines.find("acme", "p0")
    [approval] = await harness.store.approvals.find()
    assert (approval.what, approval.detail["people"]) == ("first_sync", 3)
    await harness.store.approvals.decide(
        approval.id, approved=True, by="ana", now=harness.clock.now()
    )
    assert await harness.poll.poll() == 3
    assert await harness.store.timelines.find("acme", "p0")
    assert await harness.store.approvals.find(pending=False) == []


async def test_a_rejected_first_poll_sends_nothing(make: Any) -> None:
    harness = make(Pages(3))
    harness.flows.names = ["Winback"]
    await harness.poll.poll()
    [approval] = await harness.store.approvals.find()
    await harness.store.approvals.decide(
        approval.id, approved=False, by="ana", now=harness.clock.now()
    )
    assert await harness.poll.poll() == 0
    assert harness.observed_pages == 0


async def test_people_of_a_first_poll_have_backfill_priority_and_later_ones_do_not(
    make: Any,
) -> None:
    harness = make(Pages(1))
    await harness.poll.poll()
    ready = await harness.store.profiles.ready(harness.writes.id, now=harness.clock.now(), limit=9)
    assert (ready.batch, ready.backfill_batch) == (0, 1)
    harness.pages.people += ["late"]
    await harness.poll.poll()
    ready = await harness.store.profiles.ready(harness.writes.id, now=harness.clock.now(), limit=9)
    assert (ready.batch, ready.backfill_batch) == (1, 1)


async def test_a_first_poll_that_was_cut_off_continues_as_a_first_poll(make: Any) -> None:
    harness = make(Pages(6))
    harness.flows.names = ["Winback"]
    await harness.poll.poll()
    [approval] = await harness.store.approvals.find()
    await harness.store.approvals.decide(
        approval.id, approved=True, by="ana", now=harness.clock.now()
    )
    harness.lease.held = False
    assert await harness.poll.poll() == 2
    harness.lease.held = True
    harness.pages.requested_cursors.clear()
    assert await harness.poll.poll() == 4
    assert harness.pages.requested_cursors == ["2", "4"]
    ready = await harness.store.profiles.ready(harness.writes.id, now=harness.clock.now(), limit=9)
    assert (ready.batch, ready.backfill_batch) == (0, 6)
    assert await harness.store.approvals.find(pending=False) == []
    assert [found[1] for found in await harness.store.reports.streams()] == [PEOPLE_STREAM]
    harness.pages.people += ["late"]
    assert await harness.poll.poll() == 1
    ready = await harness.store.profiles.ready(harness.writes.id, now=harness.clock.now(), limit=9)
    assert (ready.batch, ready.backfill_batch) == (1, 6)


async def test_a_repeated_cursor_ends_the_poll_and_loses_no_one(make: Any) -> None:
    harness = make(Pages(2))
    harness.pages.stuck = True
    assert await harness.poll.poll() == 4
    assert harness.pages.requested_cursors == [None, "0"] * 2


async def test_a_page_that_fails_leaves_the_cursor_where_it_was(make: Any) -> None:
    harness = make(Pages(4))
    await harness.poll.poll()
    harness.pages.people += ["late"]
    harness.pages.fail = lambda: AmbiguousError(Problem.TIMED_OUT)
    with pytest.raises(AmbiguousError):
        await harness.poll.poll()
    assert await harness.cursor() == Checkpoint(PEOPLE_STREAM, "4")
    harness.pages.fail = None
    assert await harness.poll.poll() == 1


async def test_a_cursor_that_the_platform_refuses_is_given_up(make: Any) -> None:
    harness = make(Pages(4))
    await harness.poll.poll()
    harness.pages.refused, harness.pages.size = "4", 5
    harness.pages.people += ["late"]
    assert await harness.poll.run_once() == 30.0
    assert await harness.poll.attention()
    assert await harness.poll.run_once() == 300.0
    assert not await harness.poll.attention()
    assert await harness.store.timelines.find("acme", "late")
    ready = await harness.store.profiles.ready(harness.writes.id, now=harness.clock.now(), limit=9)
    assert (ready.batch, ready.backfill_batch) == (0, 5)
    assert await harness.cursor() == Checkpoint(PEOPLE_STREAM, "5")


async def test_without_the_lease_it_stops_after_the_current_page(make: Any) -> None:
    harness = make(Pages(6))
    harness.lease.held = False
    assert await harness.poll.poll() == 2


@pytest.mark.parametrize(
    "fault",
    [
        lambda: AmbiguousError(Problem.TIMED_OUT),
        lambda: StoreError(Problem.STORE_UNAVAILABLE),
        lambda: KeyError("an adapter's fault"),
    ],
)
async def test_a_failure_is_logged_and_retried_before_the_next_poll(
    make: Any, fault: Callable[[], Exception]
) -> None:
    harness = make(Pages(2))
    harness.pages.fail = fault
    assert not await harness.poll.idle()
    worker = SupervisedWorker(
        "poll", harness.poll, subject="acme", clock=harness.clock, metrics=Metrics("test")
    )
    worker.start()
    while not await harness.poll.idle():
        await run_pending()
    [item] = await harness.poll.attention()
    assert item.key == "poll acme"
    harness.pages.fail = None
    await harness.clock.advance(30.0)
    while await harness.poll.attention():
        await run_pending()
    assert await harness.cursor() == Checkpoint(PEOPLE_STREAM, "2")
    await worker.stop(1.0)
