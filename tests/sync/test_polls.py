"""Polls: pages and their cursors, failures, and a cursor that goes round in circles."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from connector.domain.attention import Check
from connector.domain.errors import AmbiguousError, Problem, StoreError
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
from connector.store.sql import SqlStore, open_store
from connector.sync.flow_guard import FlowGuard
from connector.sync.polls import PEOPLE_STREAM, Poll
from connector.testing.fakes.clock import FakeClock, run_pending
from tests.paths import MAPPINGS

MAPPING = load(MAPPINGS / "jericommerce.toml").mapping


class NoReader:
    """connector.ports.Reader of a platform that is only listed here."""

    endpoint = "GET /people"
    by_id = False
    parallel = 1
    quota: Quota

    async def read(self, ref: PersonRef, fields: frozenset[str]) -> PersonSnapshot | None:
        raise AssertionError("nobody is read here")

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

    async def page(
        self, cursor: str | None, fields: frozenset[str], *, backfill: bool = False
    ) -> PeoplePage:
        self.requested_cursors.append(cursor)
        if self.fail:
            raise self.fail()
        start = int(cursor or 0)
        names = self.people[start : start + self.size]
        end = start + len(names)
        seen = [PeoplePageItem(name, f"{name}@example.com", _snapshot(name)) for name in names]
        if self.stuck:
            return PeoplePage(seen, cursor or "0", True, Millis(1_000))
        return PeoplePage(seen, str(end), end < len(self.people), Millis(1_000))


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


class StaticLease:
    """connector.ports.Lease."""

    fence: Any = None

    def __init__(self) -> None:
        self.held = True

    def valid(self) -> bool:
        return self.held


class Rig:
    """A poll on a real store, with time that only the test moves."""

    def __init__(self, store: SqlStore, lane: Lane, writes: Lane, pages: Pages) -> None:
        self.store, self.pages = store, pages
        self.clock, self.lease, self.flows = FakeClock(), StaticLease(), FakeFlows()
        self.writes = writes
        self.seen = 0
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
            guard=FlowGuard("acme", "ask", self.flows, store.approvals, self.clock),
            every=300.0,
            on_observed=self._saw,
        )

    def _saw(self) -> None:
        self.seen += 1

    async def cursor(self) -> Checkpoint | None:
        return await self.store.checkpoints.load("acme", PEOPLE_STREAM)


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Callable[[Pages], Any]]:
    store = await open_store(f"sqlite:///{tmp_path}/s.db")
    lane = await store.lanes.ensure("acme", "yotpo", "profile")
    writes = await store.lanes.ensure("acme", "klaviyo", "profile")
    yield lambda pages: Rig(store, lane, writes, pages)
    await store.aclose()


async def test_a_poll_reads_all_pages_and_the_next_starts_where_it_ended(make: Any) -> None:
    rig = make(Pages(5))
    assert await rig.poll.poll() == 5
    assert rig.pages.requested_cursors == [None, "2", "4"] * 2  # counted, then told
    assert await rig.cursor() == Checkpoint(PEOPLE_STREAM, "5")
    rig.pages.people += ["late"]
    assert await rig.poll.poll() == 1
    assert rig.pages.requested_cursors[6:] == ["5"]
    assert rig.seen == 4


async def test_a_first_poll_that_triggers_live_flows_waits_for_approval(make: Any) -> None:
    rig = make(Pages(3))
    rig.flows.names = ["Winback"]
    assert await rig.poll.poll() == 0
    assert await rig.poll.poll() == 0
    assert rig.pages.requested_cursors == [None, "2"]  # counted once
    assert not await rig.store.reports.people("acme", "p0")
    [approval] = await rig.store.approvals.find()
    assert (approval.what, approval.detail["people"]) == ("first_sync", 3)
    await rig.store.approvals.decide(approval.id, approved=True, by="ana", now=rig.clock.now())
    assert await rig.poll.poll() == 3
    assert await rig.store.reports.people("acme", "p0")


async def test_a_rejected_first_poll_sends_nothing(make: Any) -> None:
    rig = make(Pages(3))
    rig.flows.names = ["Winback"]
    await rig.poll.poll()
    [approval] = await rig.store.approvals.find()
    await rig.store.approvals.decide(approval.id, approved=False, by="ana", now=rig.clock.now())
    assert await rig.poll.poll() == 0
    assert rig.seen == 0


async def test_people_of_a_first_poll_have_backfill_priority_and_later_ones_do_not(
    make: Any,
) -> None:
    rig = make(Pages(1))
    await rig.poll.poll()
    ready = await rig.store.profiles.ready(rig.writes.id, now=rig.clock.now(), limit=9)
    assert (ready.fresh, ready.backfill_fresh) == (0, 1)
    rig.pages.people += ["late"]
    await rig.poll.poll()
    ready = await rig.store.profiles.ready(rig.writes.id, now=rig.clock.now(), limit=9)
    assert (ready.fresh, ready.backfill_fresh) == (1, 1)


async def test_a_repeated_cursor_ends_the_poll_and_loses_nobody(make: Any) -> None:
    rig = make(Pages(2))
    rig.pages.stuck = True
    assert await rig.poll.poll() == 4
    assert rig.pages.requested_cursors == [None, "0"] * 2


async def test_a_page_that_fails_leaves_the_cursor_where_it_was(make: Any) -> None:
    rig = make(Pages(4))
    await rig.poll.poll()
    rig.pages.people += ["late"]
    rig.pages.fail = lambda: AmbiguousError(Problem.TIMED_OUT)
    with pytest.raises(AmbiguousError):
        await rig.poll.poll()
    assert await rig.cursor() == Checkpoint(PEOPLE_STREAM, "4")
    rig.pages.fail = None
    assert await rig.poll.poll() == 1


async def test_without_the_lease_it_stops_after_the_current_page(make: Any) -> None:
    rig = make(Pages(6))
    rig.lease.held = False
    assert await rig.poll.poll() == 2


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
    rig = make(Pages(2))
    rig.pages.fail = fault
    assert not await rig.poll.idle()
    running = asyncio.create_task(rig.poll.run())
    while not await rig.poll.idle():
        await run_pending()
    [item] = await rig.poll.attention()
    assert item.key == "poll acme"
    rig.pages.fail = None
    await rig.clock.advance(30.0)
    while await rig.poll.attention():
        await run_pending()
    assert await rig.cursor() == Checkpoint(PEOPLE_STREAM, "2")
    running.cancel()
