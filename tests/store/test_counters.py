"""Counters equal a count, whatever is done: random lives of people, on every engine.

The fixture compares them at the end of every contract test too (tests/store/conftest.py).
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import update

from connector.domain.errors import Problem
from connector.domain.lanes import EVENTS, Millis
from connector.domain.memberships import Link
from connector.domain.outcomes import (
    Accepted,
    Ambiguous,
    Dead,
    Gone,
    Held,
    Observed,
    Outcome,
    Pending,
    Retry,
    Skipped,
    Unsent,
)
from connector.domain.records import Page, State
from connector.ports import DeadLetterFilter, Fence, Member, MembersPage, RetryPolicy
from connector.store import counters
from connector.store.sql import SqlStore
from connector.store.tables import outbox, people, profiles
from connector.testing.contracts.profile_harness import (
    claim_reads,
    claim_writes,
    event_lane,
    lanes,
    make_observation,
    profile_lane,
)
from connector.testing.contracts.store import HORIZON, NOW, acquire_lease, record, take

_POLICY = RetryPolicy(HORIZON)
_PEOPLE = 12


class Life:
    """Random acts on one store. Every act is something that the daemon or a person does."""

    def __init__(self, store: SqlStore, fence: Fence, seed: int) -> None:
        self.store = store
        self.fence = fence
        self.rng = random.Random(seed)
        self.now = NOW
        self.done: set[str] = set()

    async def act(self) -> None:
        self.now = Millis(self.now + self.rng.choice([1, 500, 5_000]))
        await self.store.leases.renew([self.fence], now=self.now, ttl=60_000)
        acts = [name for name in dir(self) if name.startswith("do_")]
        name = self.rng.choice(acts)
        if await getattr(self, name)():
            self.done.add(name)

    def _who(self) -> dict[str, Any]:
        """An id, an address or both: those of two people make them one."""
        number, other = self.rng.randrange(_PEOPLE), self.rng.randrange(_PEOPLE)
        person, email = f"p{number}", f"a{other}@example.com"
        return self.rng.choice(
            [
                {"person": person, "email": None},
                {"person": None, "email": email},
                {"person": person, "email": email},
                {"person": person, "email": email, "membership": ("vip", True)},
            ]
        )

    async def do_events(self) -> Any:
        events, reads, _ = await lanes(self.store)
        found = [record(**self._who(), refresh=True) for _ in range(self.rng.randrange(1, 6))]
        page = Page(events, "webhook", found, self.now, read_lane=reads.id, by_id=True)
        return await self.store.outbox.append([page])

    async def do_settle_events(self) -> Any:
        events = await event_lane(self.store)
        claim = await take(self.store, events, self.fence, at=self.now, limit=6)
        if not claim:
            return False
        outcomes = [self._outcome(entry.seq) for entry in claim.entries]
        settled = await self.store.outbox.settle(claim, outcomes, now=self.now, policy=_POLICY)
        return settled.changed

    def _outcome(self, seq: int) -> Outcome:
        problem = self.rng.choice([Problem.KLAVIYO_REFUSED, Problem.BAD_ADDRESS])
        return self.rng.choice(
            [
                Accepted(seq, "r"),
                Skipped(seq, "shadow"),
                Unsent(seq),
                Retry(seq, problem, 0.0),
                Ambiguous(seq, problem, 0.0),
                Dead(seq, problem),
                Held(seq, problem),
            ]
        )

    async def do_reads(self) -> Any:
        writes = await profile_lane(self.store)
        claim = await claim_reads(self.store, self.fence, self.now)
        if not claim:
            return False
        outcomes: list[Outcome] = []
        for entry in claim.entries:
            shown = make_observation(
                entry.seq, f"b{entry.seq}", self.now, writes.id, points=self.rng.randrange(9)
            )
            aliases = (f"p{self.rng.randrange(_PEOPLE)}",)
            seen = Observed(entry.seq, replace(shown, aliases=aliases))
            outcomes.append(
                self.rng.choice([seen, seen, Gone(entry.seq, "unset"), self._failed(entry.seq)])
            )
        settled = await self.store.reads.settle(claim, outcomes, now=self.now, policy=_POLICY)
        return settled.changed

    def _failed(self, seq: int) -> Outcome:
        return self.rng.choice([Dead(seq, Problem.BAD_ADDRESS), Retry(seq, Problem.TIMED_OUT, 0.0)])

    async def do_writes(self) -> Any:
        claim = await claim_writes(self.store, self.fence, self.now)
        if not claim:
            return False
        outcomes = [
            self.rng.choice([self._outcome(e.seq), Pending(e.seq, "job", n, "r")])
            for n, e in enumerate(claim.entries)
        ]
        settled = await self.store.profiles.settle(claim, outcomes, now=self.now, policy=_POLICY)
        return settled.changed

    async def do_close(self) -> Any:
        writes = await profile_lane(self.store)
        failed = {0: (Problem.KLAVIYO_REFUSED, "")}
        receipts = self.store.profile_receipts
        if self.rng.random() < 0.5:
            return await receipts.requeue_receipt(writes.id, "job", now=self.now)
        return await receipts.close_receipt(writes.id, "job", now=self.now, failed=failed)

    async def do_scan(self) -> Any:
        lane = await self.store.lanes.ensure("acme", "klaviyo", "membership")
        await self.store.member_groups.set_links(lane, [Link("vip", "VIP", False)], account="A")
        target, source = await self.store.member_groups.all("acme")
        await self.store.group_scans.begin(source.id, self.fence, now=self.now)
        size = self.rng.randrange(_PEOPLE)
        members = [Member(f"p{n}", f"a{n}@example.com") for n in range(size)]
        page = MembersPage(members, None, more=False)
        await self.store.group_scans.save_source_page(
            source.id, page, self.fence, requested_at=self.now, now=self.now
        )
        await self.store.group_scans.apply(source.id, now=self.now)
        if self.rng.random() < 0.5:
            await self.store.target_members.enable_writes(target.id, now=self.now)
        return True

    async def do_crash(self) -> Any:
        await self.store.outbox.recover(self.fence, now=self.now)
        await self.store.reads.recover(self.fence, now=self.now)
        await self.store.profiles.recover(self.fence, now=self.now)
        return True

    async def do_forget(self) -> Any:
        who = self.rng.choice([f"p{self.rng.randrange(_PEOPLE)}", "a3@example.com"])
        return (await self.store.erasure.forget("acme", who, now=self.now)).people

    async def do_retention(self) -> Any:
        keep = {self.rng.choice([State.ACCEPTED, State.DEAD, State.HELD]): 5_000}
        found = await self.store.maintenance.prune_records(now=self.now, keep=keep, limit=50)
        return found.deleted

    async def do_dead_letters(self) -> Any:
        letters, all_of_them = self.store.dead_letters, DeadLetterFilter()
        if self.rng.random() < 0.5:
            return (await letters.retry(all_of_them, now=self.now))[0]
        return (await letters.discard(all_of_them, reason="", now=self.now))[0]

    async def do_fold(self) -> Any:
        await self.store.maintenance.fold_counters()
        return True


@pytest.mark.parametrize("seed", range(3))
async def test_counters_equal_a_count_after_every_act(store: SqlStore, seed: int) -> None:
    life = Life(store, await acquire_lease(store), seed)
    for number in range(120):
        await life.act()
        if number % 10 == 0:
            assert await store.database.read(counters.miscounted) == []
    assert len(life.done) > 8, "too few kinds of acts did something"


async def test_what_is_changed_by_hand_is_counted_too(store: SqlStore) -> None:
    life = Life(store, await acquire_lease(store), 1)
    for _ in range(60):
        await life.act()
    await store.database.write(
        lambda c: (
            c.execute(update(outbox).values(state=State.DEAD, problem="K400")),
            c.execute(update(people).values(gone_at=1)),
            c.execute(profiles.delete()),
        )
    )
    assert await store.database.read(counters.miscounted) == []
    dead = [g for g in await store.dead_letters.groups() if g.lane.lane_kind is EVENTS]
    assert {group[1:3] for group in dead} == {(State.DEAD, "K400")}
    assert sum(g.entries for g in dead) == len(await store.dead_letters.find(limit=10_000))


async def test_a_wrong_counter_is_found(store: SqlStore) -> None:
    life = Life(store, await acquire_lease(store), 2)
    await life.do_events()
    await store.database.write(lambda c: c.exec_driver_sql("UPDATE counts SET rows = rows + 1"))
    assert await store.database.read(counters.miscounted) != []
    await store.database.write(counters.install)
    assert await store.database.read(counters.miscounted) == []
