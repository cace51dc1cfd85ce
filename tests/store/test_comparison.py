"""The store in memory and the SQL stores give the same answers to the same steps.

Everything that the lanes' tests show on the store in memory holds on disk only because of this.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from connector.errors import Problem, StoreError
from connector.model import (
    Accepted,
    Checkpoint,
    Claim,
    Dead,
    Doubt,
    Held,
    Millis,
    Outcome,
    Page,
    Record,
    Request,
    Retry,
    Skipped,
    Spend,
    State,
    Unsent,
)
from connector.ports import Fence, Store
from connector.store.sql import open_store
from connector.testing.memory import MemoryStore

TTL = 60_000
HORIZON = 30_000
KEYS = st.sampled_from([f"k{i}" for i in range(60)])
PEOPLE = st.sampled_from([None, "p1", "p1", "p2"])
EMAILS = st.sampled_from([None, "a@example.com", "b@example.com"])
WINDOWS = st.sampled_from([None, None, 1_000, 10_000])
NAMES = ("accepted", "skipped", "unsent", "retry", "doubt", "dead", "held")
PROBLEMS = (Problem.KLAVIYO_REFUSED, Problem.MAPPING_FAILED, Problem.BAD_ADDRESS)

RECORDS = st.lists(st.tuples(KEYS, PEOPLE, EMAILS, WINDOWS), max_size=5)
OUTCOMES = st.lists(
    st.tuples(st.sampled_from(NAMES), st.sampled_from(PROBLEMS), st.integers(0, 20)), max_size=6
)


class Side:
    """One store, and what this test must remember of it because seqs and tokens are its own."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.claims: list[Claim] = []
        self.fences: dict[str, Fence] = {}
        self.seqs: dict[str, int] = {}

    def show(self, claim: Claim | None) -> Any:
        if claim is None:
            return None
        return [
            (e.unique_id, e.email, e.attempts, e.solo, e.mapping, e.backfill, e.failing_since)
            for e in claim.entries
        ]


class Comparison(RuleBasedStateMachine):
    """Every step is taken on both sides; their answers and their views must be equal."""

    url: ClassVar[str | None] = None

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory(prefix="comparison-")
        self.sides: list[Side] = []
        self.now = 1_790_000_000_000
        self.count = 0

    @initialize()
    def open(self) -> None:
        url = self.url or f"sqlite:///{Path(self.folder.name)}/s.db"
        second = self.runner.run(open_store(url))
        self.sides = [Side(MemoryStore()), Side(second)]
        if self.url:
            self.runner.run(second._database.write(_empty))
        self.lanes = [
            [self.runner.run(side.store.lanes.ensure(c, "klaviyo", "event")) for c in ("a", "b")]
            for side in self.sides
        ]
        self.acquire("one")

    def teardown(self) -> None:
        for side in self.sides:
            self.runner.run(side.store.aclose())
        self.runner.close()
        self.folder.cleanup()

    def both(self, step: Any) -> Any:
        """Run a step on both sides; an error of the store is an answer too."""
        answers = []
        for side, lanes in zip(self.sides, self.lanes, strict=True):
            try:
                answers.append(self.runner.run(step(side, lanes)))
            except StoreError as error:
                answers.append(error.problem)
        assert answers[0] == answers[1]
        return answers[0]

    # ── time and lease ───────────────────────────────────────────────────────────────────────────

    @rule(ms=st.sampled_from([1, 100, 1_000, 5_000, 10_001, 61_000]))
    def time_moves(self, ms: int) -> None:
        self.now += ms

    @rule(holder=st.sampled_from(["one", "one", "two"]))
    def acquire(self, holder: str, gone: str | None = None) -> None:
        async def step(side: Side, _: Any) -> Any:
            answer = await side.store.leases.acquire(
                "store", holder, now=Millis(self.now), ttl=TTL, gone=gone
            )
            if isinstance(answer, Fence):
                side.fences[holder] = answer
            return answer

        self.both(step)

    @rule(holder=st.sampled_from(["one", "two"]))
    def take_over_from_the_dead(self, holder: str) -> None:
        self.acquire(holder, gone="two" if holder == "one" else "one")

    @rule(holder=st.sampled_from(["one", "two"]), away=st.booleans())
    def renew_or_release(self, holder: str, away: bool) -> None:
        async def step(side: Side, _: Any) -> Any:
            fence = side.fences.get(holder)
            if fence is None:
                return None
            if away:
                return await side.store.leases.release(fence)
            return await side.store.leases.renew(fence, now=Millis(self.now), ttl=TTL)

        self.both(step)

    # ── the road ─────────────────────────────────────────────────────────────────────────────────

    @rule(person=PEOPLE, email=EMAILS, key=KEYS, at=st.integers(0, 1))
    def append_one(self, person: str | None, email: str | None, key: str, at: int) -> None:
        self.append([([(key, person, email, None)], at, False)])

    @rule(at=st.integers(0, 1))
    def claim_all(self, at: int) -> None:
        for solo in (False, True):
            self.claim(at, "one", 1_000, solo, "v3")

    @rule(
        pages=st.lists(st.tuples(RECORDS, st.integers(0, 1), st.booleans()), min_size=1, max_size=3)
    )
    def append(self, pages: Sequence[tuple[Any, int, bool]]) -> None:
        said: list[list[Record]] = []
        for records, _, _ in pages:
            said.append([])
            for key, person, email, window in records:
                self.count += 1
                id = f"{key}-{self.count}"
                said[-1].append(
                    Record(key, id, "Added", Millis(self.now), b"{}", person, email, window)
                )

        async def step(side: Side, lanes: Any) -> Any:
            made = [
                Page(
                    lanes[at],
                    "webhook",
                    records,
                    Millis(self.now),
                    Checkpoint("recent", f"c{self.count}"),
                    backfill,
                )
                for records, (_, at, backfill) in zip(said, pages, strict=True)
            ]
            return await side.store.append(made)

        self.both(step)

    @rule(
        at=st.integers(0, 1),
        holder=st.sampled_from(["one", "one", "one", "two"]),
        limit=st.integers(1, 6),
        solo=st.booleans(),
        mapping=st.sampled_from(["v1", "v2"]),
    )
    def claim(self, at: int, holder: str, limit: int, solo: bool, mapping: str) -> None:
        async def step(side: Side, lanes: Any) -> Any:
            fence = side.fences.get(holder, Fence("store", holder, 0))
            claim = await side.store.claim(
                lanes[at],
                fence,
                now=Millis(self.now),
                limit=limit,
                solo=solo,
                mapping=mapping,
                spend=[Spend("acc", "events", self.now // 1000, limit)],
            )
            if claim:
                side.claims.append(claim)
                side.seqs.update((e.unique_id, e.seq) for e in claim.entries)
            return side.show(claim)

        self.both(step)

    @rule(which=st.integers(0, 30), outcomes=OUTCOMES)
    def settle(self, which: int, outcomes: Sequence[tuple[str, Problem, int]]) -> None:
        if not self.sides[0].claims:
            return
        self.count += 1
        which %= len(self.sides[0].claims)

        async def step(side: Side, _: Any) -> Any:
            claim = side.claims[which]
            made = [
                _outcome(name, entry.seq, problem, after, f"r{self.count}")
                for entry, (name, problem, after) in zip(claim.entries, outcomes, strict=False)
            ]
            sent = Request(f"r{self.count}", "POST /api/events", Millis(self.now), 202, 3)
            return await side.store.settle(
                claim, made, now=Millis(self.now), requests=[sent], horizon=HORIZON
            )

        self.both(step)

    @rule(holder=st.sampled_from(["one", "two"]))
    def recover(self, holder: str) -> None:
        async def step(side: Side, _: Any) -> Any:
            fence = side.fences.get(holder, Fence("store", holder, 0))
            return await side.store.recover(fence, now=Millis(self.now))

        self.both(step)

    # ── people's orders and the nightly work ─────────────────────────────────────────────────────

    @rule(
        how=st.sampled_from(["every", "problem", "ids", "nothing"]),
        problem=st.sampled_from(PROBLEMS),
        which=st.integers(0, 30),
    )
    def retry(self, how: str, problem: Problem, which: int) -> None:
        async def step(side: Side, _: Any) -> Any:
            asked: dict[str, Any] = {}
            if how == "every":
                asked["every"] = True
            elif how == "problem":
                asked["problem"] = problem.value
            elif how == "ids" and side.seqs:
                asked["ids"] = [sorted(side.seqs.items())[which % len(side.seqs)][1]]
            return await side.store.dead_letters.retry(now=Millis(self.now), **asked)

        self.both(step)

    @rule(which=st.integers(0, 30))
    def discard(self, which: int) -> None:
        async def step(side: Side, _: Any) -> Any:
            if not side.seqs:
                return 0
            id = sorted(side.seqs.items())[which % len(side.seqs)][1]
            return await side.store.dead_letters.discard([id], reason="t", now=Millis(self.now))

        self.both(step)

    @rule(state=st.sampled_from([State.ACCEPTED, State.DEAD, State.HELD]), age=st.integers(0, 9))
    def prune(self, state: State, age: int) -> None:
        async def step(side: Side, _: Any) -> Any:
            return await side.store.prune(now=Millis(self.now), keep={state: age * 1_000}, limit=3)

        self.both(step)

    @rule(at=st.integers(0, 1), ms=st.integers(0, 20_000))
    def extend(self, at: int, ms: int) -> None:
        async def step(side: Side, lanes: Any) -> Any:
            return await side.store.extend(lanes[at].id, ms)

        self.both(step)

    # ── what must be equal after every step ──────────────────────────────────────────────────────

    @invariant()
    def views_are_equal(self) -> None:
        if not self.sides:
            return

        async def step(side: Side, lanes: Any) -> Any:
            store = side.store
            return (
                [await store.ready(lane.id, now=Millis(self.now), limit=5) for lane in lanes],
                [
                    (b.lane.connection, b.ready, b.claimed, b.held, b.dead, b.oldest)
                    for b in await store.insight.backlog()
                ],
                sorted(await store.dead_letters.groups()),
                [
                    (x.unique_id, x.problem, x.detail, x.attempts, x.settled_at)
                    for x in await store.dead_letters.find()
                ],
                await store.insight.dead_by_cause(),
                await store.insight.streams(),
                [await store.insight.latencies(lane.id, 100) for lane in lanes],
                await store.memory.spent(since_second=0),
            )

        self.both(step)


def _outcome(name: str, seq: int, problem: Problem, after: int, request: str) -> Outcome:
    match name:
        case "accepted":
            return Accepted(seq, request)
        case "skipped":
            return Skipped(seq, "disabled")
        case "unsent":
            return Unsent(seq)
        case "retry":
            return Retry(seq, problem, float(after), "again")
        case "doubt":
            return Doubt(seq, problem, float(after), "doubt")
        case "dead":
            return Dead(seq, problem, "dead", request)
        case _:
            return Held(seq, problem, "held")


def _empty(connection: Any) -> None:
    from connector.store.tables import metadata

    for table in metadata.tables.values():
        connection.execute(table.delete())


_HOW = {"deadline": None, "suppress_health_check": list(HealthCheck), "derandomize": True}

Comparison.TestCase.settings = settings(max_examples=30, stateful_step_count=30, **_HOW)  # type: ignore[arg-type]
TestSqliteEqualsMemory = Comparison.TestCase


def test_postgres_equals_memory(postgres_url: str) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    class OnPostgres(Comparison):
        url = postgres_url

    how = settings(max_examples=8, stateful_step_count=25, **_HOW)  # type: ignore[arg-type]
    run_state_machine_as_test(OnPostgres, settings=how)
    with contextlib.suppress(StoreError), asyncio.Runner() as runner:
        store = runner.run(open_store(postgres_url))
        runner.run(store._database.write(_empty))
        runner.run(store.aclose())


def test_an_address_that_changes_back_is_the_one_that_counts(tmp_path: Path) -> None:
    async def steps(store: Store) -> Any:
        lane = await store.lanes.ensure("a", "klaviyo", "event")
        fence = await store.leases.acquire("store", "one", now=Millis(0), ttl=TTL)
        assert isinstance(fence, Fence)
        for number, email in enumerate(("a@example.com", "b@example.com", "a@example.com", None)):
            said = Record(f"k{number}", f"k{number}", "x", Millis(0), b"{}", "p1", email)
            await store.append([Page(lane, "webhook", [said], Millis(0))])
        claim = await store.claim(lane, fence, now=Millis(0), limit=9, solo=False, mapping="v")
        await store.aclose()
        assert claim
        return [entry.email for entry in claim.entries]

    with asyncio.Runner() as runner:
        sql = runner.run(open_store(f"sqlite:///{tmp_path}/s.db"))
        assert runner.run(steps(sql)) == runner.run(steps(MemoryStore()))


@pytest.mark.parametrize("order", [("b", "a"), ("b", "a", "b"), ("a", "b", "a")])
def test_addresses_within_one_commit_count_in_their_order(tmp_path: Path, order: Any) -> None:
    async def steps(store: Store) -> Any:
        lane = await store.lanes.ensure("a", "klaviyo", "event")
        fence = await store.leases.acquire("store", "one", now=Millis(0), ttl=TTL)
        assert isinstance(fence, Fence)

        def page(key: str, *emails: str | None) -> Page:
            said = [
                Record(f"{key}{n}", f"{key}{n}", "x", Millis(0), b"{}", "p1", email)
                for n, email in enumerate(emails)
            ]
            return Page(lane, "webhook", said, Millis(0))

        await store.append([page("first", "a@example.com")])
        await store.append([page(f"k{n}", f"{x}@example.com") for n, x in enumerate(order)])
        await store.append([page("last", None)])
        await store.append([page("same", *(f"{x}@example.com" for x in order), None)])
        claim = await store.claim(lane, fence, now=Millis(0), limit=20, solo=False, mapping="v")
        await store.aclose()
        assert claim
        return [entry.email for entry in claim.entries]

    with asyncio.Runner() as runner:
        sql = runner.run(open_store(f"sqlite:///{tmp_path}/s.db"))
        assert runner.run(steps(sql)) == runner.run(steps(MemoryStore()))
