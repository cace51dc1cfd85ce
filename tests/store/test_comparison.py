"""The SQL store and a plain model of the outbox give the same answers to the same steps."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from connector.domain.errors import Problem, StoreError
from connector.domain.lanes import DeliveryMode, Millis, QuotaUsage
from connector.domain.outcomes import (
    Accepted,
    Ambiguous,
    Dead,
    Held,
    Outcome,
    Request,
    Retry,
    Skipped,
    Unsent,
)
from connector.domain.records import Checkpoint, Claim, Page, Record, State
from connector.ports import DeadLetterFilter, Fence, RetryPolicy, Store
from connector.store.admin import leases
from connector.store.sql import open_store
from tests.stores import delete_all

from .model import OutboxModel

TTL = 60_000
HORIZON = 30_000
KEYS = [f"k{i}" for i in range(80)]
PEOPLE = [None, "p1", "p1", "p2", "p3"]
EMAILS = [None, "a@example.com", "b@example.com", "c@example.com"]
WINDOWS = [None, None, None, 1_000, 10_000]
OUTCOMES = ("accepted", "skipped", "unsent", "retry", "ambiguous", "dead", "held")
PROBLEMS = (Problem.KLAVIYO_REFUSED, Problem.MAPPING_FAILED, Problem.BAD_ADDRESS)
STEPS = {
    "advance_time": 3,
    "acquire": 2,
    "take_over": 1,
    "renew_or_release": 1,
    "append": 6,
    "claim": 6,
    "settle": 7,
    "recover": 1,
    "retry": 2,
    "discard": 1,
    "prune": 2,
    "extend": 1,
}
"""What is done, and how often of 33 times."""
_VIEWS_EVERY = 4
"""Steps. A difference stays, and a look at all views costs ten times what a step does."""


class StoreSide:
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
            (e.unique_id, e.email, e.attempts, e.mode, e.mapping, e.backfill, e.failing_since)
            for e in claim.entries
        ]


class Comparison:
    """Takes each step on both sides; their answers must be equal, and every few steps their views.

    `done` counts the steps that changed something, so that a script which does nothing is seen.
    """

    def __init__(self, seed: int, runner: asyncio.Runner, stores: Sequence[Store]) -> None:
        self.rng = random.Random(seed)
        self.runner = runner
        self.store_sides = [StoreSide(store) for store in stores]
        self.lanes = [
            [runner.run(side.store.lanes.ensure(name, "klaviyo", "event")) for name in ("a", "b")]
            for side in self.store_sides
        ]
        self.now = 1_790_000_000_000
        self.count = 0
        self.done: Counter[str] = Counter()
        self.steps_done: list[str] = []

    def run(self, steps: int) -> None:
        self._acquire("one")
        for number in range(1, steps + 1):
            [name] = self.rng.choices(list(STEPS), list(STEPS.values()))
            self.steps_done.append(name)
            answer = getattr(self, name)()
            if answer and not isinstance(answer, Problem):
                self.done[name] += 1
            if number % _VIEWS_EVERY == 0:
                self.views_are_equal()

    def on_both(self, step: Callable[[StoreSide, Any], Awaitable[Any]]) -> Any:
        """An error of the store is an answer too."""
        answers = []
        for side, lanes in zip(self.store_sides, self.lanes, strict=True):
            try:
                answers.append(self.runner.run(_coroutine(step(side, lanes))))
            except StoreError as error:
                answers.append(error.problem)
        assert answers[0] == answers[1], f"step {len(self.steps_done)}: {self.steps_done[-1:]}"
        return answers[0]

    def views_are_equal(self) -> None:
        async def step(side: StoreSide, lanes: Any) -> Any:
            store = side.store
            return (
                [
                    await store.outbox.ready(lane.id, now=Millis(self.now), limit=5)
                    for lane in lanes
                ],
                [
                    (b.lane.connection, b.ready, b.claimed, b.held, b.dead, b.oldest)
                    for b in await store.reports.backlog()
                ],
                sorted(
                    (group.lane.connection, *group[1:])
                    for group in await store.dead_letters.groups()
                ),
                [
                    (x.unique_id, x.problem, x.detail, x.attempts, x.settled_at)
                    for x in await store.dead_letters.find()
                ],
                await store.reports.streams(),
                [await store.reports.latencies(lane.id, 100) for lane in lanes],
                await store.facts.usage_since("acc", {"events": 0}),
            )

        self.on_both(step)

    # ── time and lease ───────────────────────────────────────────────────────────────────────────

    def advance_time(self) -> bool:
        self.now += self.rng.choice([1, 100, 1_000, 5_000, 10_001, 61_000])
        return True

    def acquire(self) -> Any:
        return self._acquire(self.rng.choice(["one", "one", "one", "two"]))

    def take_over(self) -> Any:
        holder, gone = self.rng.choice([("one", "two"), ("two", "one")])
        return self._acquire(holder, gone)

    def _acquire(self, holder: str, gone: str | None = None) -> Any:
        async def step(side: StoreSide, _: Any) -> Any:
            answer = await side.store.leases.acquire(
                "store", holder, now=Millis(self.now), ttl=TTL, dead_holder=gone
            )
            if isinstance(answer, Fence):
                side.fences[holder] = answer
            return answer

        return self.on_both(step)

    def renew_or_release(self) -> Any:
        holder, away = self._holder(), self.rng.random() < 0.3

        async def step(side: StoreSide, _: Any) -> Any:
            fence = side.fences.get(holder)
            if fence is None:
                return None
            if away:
                return await side.store.leases.release([fence])
            return await side.store.leases.renew([fence], now=Millis(self.now), ttl=TTL)

        return self.on_both(step)

    def _holder(self) -> str:
        """Mostly who has the lease, sometimes who has not."""
        leases = self.store_sides[0].store.leases
        held = self.runner.run(_coroutine(leases.holders(now=Millis(self.now)))).get("store")
        others = [name for name in ("one", "two") if not held or name != held.holder]
        return self.rng.choice([held.holder] * 5 + others) if held else "one"

    # ── delivery ─────────────────────────────────────────────────────────────────────────────────

    def append(self) -> Any:
        pages: list[tuple[list[Record], int, bool]] = []
        for _ in range(self.rng.choice([1, 1, 1, 2, 3])):
            records = [self._record() for _ in range(self.rng.choice([0, 1, 1, 2, 4]))]
            pages.append((records, self.rng.randrange(2), self.rng.random() < 0.2))

        async def step(side: StoreSide, lanes: Any) -> Any:
            cursor = Checkpoint("recent", f"c{self.count}")
            made = [
                Page(lanes[at], "webhook", records, Millis(self.now), cursor, backfill)
                for records, at, backfill in pages
            ]
            return await side.store.outbox.append(made)

        return any(x.accepted for x in self.on_both(step))

    def _record(self) -> Record:
        self.count += 1
        pick = self.rng.choice
        key, person, email, window = pick(KEYS), pick(PEOPLE), pick(EMAILS), pick(WINDOWS)
        id = f"{key}-{self.count}"
        return Record(key, id, "Added", Millis(self.now), b"{}", person, email, window)

    def claim(self) -> Any:
        at, holder = self.rng.randrange(2), self._holder()
        mode = DeliveryMode(self.rng.random() < 0.4)
        limit, mapping = self.rng.choice([1, 2, 6, 50]), self.rng.choice(["v1", "v2"])

        async def step(side: StoreSide, lanes: Any) -> Any:
            fence = side.fences.get(holder, Fence("store", holder, 0))
            claim = await side.store.outbox.claim(
                lanes[at],
                fence,
                now=Millis(self.now),
                limit=limit,
                mode=mode,
                mapping=mapping,
                usage=[QuotaUsage("acc", "events", self.now // 1000, limit)],
            )
            if claim:
                side.claims.append(claim)
                side.seqs.update((e.unique_id, e.seq) for e in claim.entries)
            return side.show(claim)

        return self.on_both(step)

    def settle(self) -> Any:
        """Mostly the newest claim, sometimes one that was settled or recovered before."""
        if not self.store_sides[0].claims:
            return None
        self.count += 1
        which = self.rng.choice([-1, -1, self.rng.randrange(len(self.store_sides[0].claims))])
        entries = len(self.store_sides[0].claims[which].entries)
        chosen = [
            (self.rng.choice(OUTCOMES), self.rng.choice(PROBLEMS), self.rng.randrange(20))
            for _ in range(self.rng.choice([entries, entries, 1]))
        ]

        async def step(side: StoreSide, _: Any) -> Any:
            claim = side.claims[which]
            made = [
                _outcome(name, entry.seq, problem, after, f"r{self.count}")
                for entry, (name, problem, after) in zip(claim.entries, chosen, strict=False)
            ]
            sent = Request(f"r{self.count}", "POST /api/events", Millis(self.now), 202, 3)
            return await side.store.outbox.settle(
                claim, made, now=Millis(self.now), requests=[sent], policy=RetryPolicy(HORIZON)
            )

        return self.on_both(step)

    def recover(self) -> Any:
        """Everything, or one claim whose commit had no answer."""
        holder, which = self._holder(), self.rng.randrange(len(self.store_sides[0].claims) + 3)

        async def step(side: StoreSide, _: Any) -> Any:
            fence = side.fences.get(holder, Fence("store", holder, 0))
            claim = side.claims[which] if which < len(side.claims) else None
            return await side.store.outbox.recover(fence, now=Millis(self.now), claim=claim)

        return self.on_both(step)

    # ── people's orders and the nightly work ─────────────────────────────────────────────────────

    def retry(self) -> Any:
        how, problem = self.rng.choice(["every", "problem", "ids"]), self.rng.choice(PROBLEMS)
        id = self._random_id()

        async def step(side: StoreSide, _: Any) -> Any:
            which = DeadLetterFilter(cause=problem.value)
            if how != "problem":
                every = how == "every" or not id
                which = DeadLetterFilter() if every else DeadLetterFilter(ids=[side.seqs[id]])
            changed, _ = await side.store.dead_letters.retry(which, now=Millis(self.now))
            return changed

        return self.on_both(step)

    def discard(self) -> Any:
        ids = [id for id in (self._random_id() for _ in range(4)) if id]

        async def step(side: StoreSide, _: Any) -> Any:
            which = DeadLetterFilter(ids=[side.seqs[id] for id in ids] or [0])
            letters = side.store.dead_letters
            changed, _ = await letters.discard(which, reason="t", now=Millis(self.now))
            return changed

        return self.on_both(step)

    def _random_id(self) -> str | None:
        known = sorted(self.store_sides[0].seqs)
        return self.rng.choice(known) if known else None

    def prune(self) -> Any:
        state = self.rng.choice([State.ACCEPTED, State.DEAD, State.HELD, State.DISCARDED])
        age = self.rng.choice([0, 1_000, 60_000])

        async def step(side: StoreSide, _: Any) -> Any:
            deleted, after = 0, 0
            while True:
                part = await side.store.maintenance.prune_records(
                    now=Millis(self.now), keep={state: age}, limit=3, after=after
                )
                deleted += part.deleted
                if part.after is None:
                    return deleted
                after = part.after

        return self.on_both(step)

    def extend(self) -> Any:
        at, ms = self.rng.randrange(2), self.rng.randrange(20_000)

        async def step(side: StoreSide, lanes: Any) -> Any:
            return await side.store.outbox.extend_horizon(lanes[at].id, ms)

        return self.on_both(step)


async def _coroutine(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


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
        case "ambiguous":
            return Ambiguous(seq, problem, float(after), "ambiguous")
        case "dead":
            return Dead(seq, problem, "dead", request)
        case _:
            return Held(seq, problem, "held")


def compare(url: str, scripts: int, steps: int) -> Counter[str]:
    """Run scripts of steps, each on empty tables; how often each kind of step did something."""
    done: Counter[str] = Counter()
    with asyncio.Runner() as runner:
        for seed in range(scripts):
            sql = runner.run(open_store(url))
            try:
                runner.run(sql.database.write(delete_all))
                comparison = Comparison(seed, runner, [OutboxModel(), sql])
                comparison.run(steps)
                done += comparison.done
                runner.run(sql.database.write(delete_all))
            finally:
                runner.run(sql.aclose())
    return done


def test_sqlite_behaves_like_the_model(tmp_path: Path) -> None:
    done = compare(f"sqlite:///{tmp_path}/store.db", scripts=10, steps=120)
    assert {name: count for name in STEPS if (count := done[name]) < 5} == {}


def test_postgresql_behaves_like_the_model(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Leases end by the database's clock there, which no test can move.
    as_given = leases.LeaseStatements(time=lambda dialect, now: now)
    monkeypatch.setattr(leases, "_STATEMENTS", as_given)
    done = compare(postgres_url, scripts=2, steps=120)
    assert done["settle"] > 5


def test_an_address_changed_back_is_the_current_one(tmp_path: Path) -> None:
    async def steps(store: Store) -> Any:
        lane = await store.lanes.ensure("a", "klaviyo", "event")
        fence = await store.leases.acquire("store", "one", now=Millis(0), ttl=TTL)
        assert isinstance(fence, Fence)
        for number, email in enumerate(("a@example.com", "b@example.com", "a@example.com", None)):
            steps_done = Record(f"k{number}", f"k{number}", "x", Millis(0), b"{}", "p1", email)
            await store.outbox.append([Page(lane, "webhook", [steps_done], Millis(0))])
        claim = await store.outbox.claim(
            lane, fence, now=Millis(0), limit=9, mode=DeliveryMode.BATCH, mapping="v"
        )
        await store.aclose()
        assert claim
        return [entry.email for entry in claim.entries]

    with asyncio.Runner() as runner:
        sql = runner.run(open_store(f"sqlite:///{tmp_path}/s.db"))
        assert runner.run(steps(sql)) == runner.run(steps(OutboxModel()))


@pytest.mark.parametrize("order", [("b", "a"), ("b", "a", "b"), ("a", "b", "a")])
def test_addresses_within_one_commit_apply_in_order(tmp_path: Path, order: Any) -> None:
    async def steps(store: Store) -> Any:
        lane = await store.lanes.ensure("a", "klaviyo", "event")
        fence = await store.leases.acquire("store", "one", now=Millis(0), ttl=TTL)
        assert isinstance(fence, Fence)

        def page(key: str, *emails: str | None) -> Page:
            steps_done = [
                Record(f"{key}{n}", f"{key}{n}", "x", Millis(0), b"{}", "p1", email)
                for n, email in enumerate(emails)
            ]
            return Page(lane, "webhook", steps_done, Millis(0))

        await store.outbox.append([page("first", "a@example.com")])
        await store.outbox.append([page(f"k{n}", f"{x}@example.com") for n, x in enumerate(order)])
        await store.outbox.append([page("last", None)])
        await store.outbox.append([page("same", *(f"{x}@example.com" for x in order), None)])
        claim = await store.outbox.claim(
            lane, fence, now=Millis(0), limit=20, mode=DeliveryMode.BATCH, mapping="v"
        )
        await store.aclose()
        assert claim
        return [entry.email for entry in claim.entries]

    with asyncio.Runner() as runner:
        sql = runner.run(open_store(f"sqlite:///{tmp_path}/s.db"))
        assert runner.run(steps(sql)) == runner.run(steps(OutboxModel()))
