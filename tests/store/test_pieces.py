"""Long work is many short transactions: how many rows one of them changes is bounded."""

from __future__ import annotations

import itertools
import sqlite3
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest
from sqlalchemy import Connection, event, update

from connector.domain.actions import Caps
from connector.domain.errors import Problem, StoreError
from connector.domain.lanes import DeliveryMode, Millis
from connector.domain.memberships import Link
from connector.domain.outcomes import Pending, Skipped
from connector.domain.records import Checkpoint, Page, Record, State
from connector.ports import (
    BackfillPage,
    DeadLetterFilter,
    Fence,
    Member,
    MembersPage,
    PersonKey,
    RetryPolicy,
)
from connector.store.pieces import LEAST, TARGET, Pieces
from connector.store.sql import SqlStore, open_store, store_on
from connector.store.sqlite import Work
from connector.store.tables import profiles
from connector.testing.contracts.actions import make_harness as action_harness
from connector.testing.contracts.actions import make_request
from connector.testing.contracts.bulk_observations import listed_person
from connector.testing.contracts.profile_harness import (
    lanes,
    profile_lane,
)
from connector.testing.contracts.store import HORIZON, NOW, TTL, acquire_lease, record, take

T = TypeVar("T")
_MOST = 5_000
"""Row changes of one transaction, those of triggers included. A record or person takes up to 12."""
_MANY = 1_200


class Transactions:
    """How many rows each transaction changed."""

    def __init__(self, store: SqlStore) -> None:
        self.changes: list[int] = []
        self._before = 0
        event.listen(store.database.engine, "commit", self._note)

    def _note(self, connection: Connection) -> None:
        raw = cast(sqlite3.Connection, connection.connection.driver_connection)
        self.changes.append(raw.total_changes - self._before)
        self._before = raw.total_changes


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqlStore]:
    made = await open_store(f"sqlite:///{tmp_path}/s.db")
    yield made
    await made.aclose()


async def test_an_import_changes_few_rows_at_a_time(store: SqlStore) -> None:
    _, reads, writes = await lanes(store)
    fence = await acquire_lease(store)
    done = Transactions(store)
    run = await store.backfills.begin("acme", "platform", {}, now=NOW)
    await store.backfills.start(run.id, now=NOW, total=None, notes=())
    listed = [listed_person(f"p{n}", NOW, writes.id, balance=n) for n in range(_MANY)]
    page = BackfillPage("next", more=True, listed=listed, counts={"invalid": 3})
    assert await store.backfills.append_page(run.id, reads, page, now=NOW) == _MANY
    stored = await store.backfills.get(run.id)
    assert stored
    assert (stored.cursor, stored.counts) == ("next", {"invalid": 3, "people": _MANY})
    claim = await store.profiles.claim(
        writes, fence, now=NOW, limit=10_000, mode=DeliveryMode.BATCH, mapping="v"
    )
    assert claim
    assert len(claim.entries) == _MANY
    pending = [Pending(e.seq, "job", n, "r") for n, e in enumerate(claim.entries)]
    policy = RetryPolicy(HORIZON)
    settled = await store.profiles.settle(claim, pending, now=NOW, policy=policy)
    assert settled.changed == _MANY
    closed = await store.profile_receipts.close_receipt(writes.id, "job", now=NOW, failed={})
    assert closed == _MANY
    assert max(done.changes) < _MOST


def many(count: int) -> list[Record]:
    return [record(f"k{n}", email=f"a{n}@example.com") for n in range(count)]


async def test_a_long_page_is_stored_in_parts_and_its_cursor_last(store: SqlStore) -> None:
    lane, fence = (await lanes(store))[0], await acquire_lease(store)
    done = Transactions(store)
    cursor = Checkpoint("events", "after")
    whole = Page(lane, "poll", many(_MANY), NOW, checkpoint=cursor)
    refused = [*many(_MANY), record("bad", data=cast(bytes, object()))]
    with pytest.raises(StoreError):
        await store.outbox.append([replace(whole, records=refused)])
    assert await store.checkpoints.load("acme", "events") is None
    [result] = await store.outbox.append([whole])
    assert result.accepted + result.duplicates == _MANY
    assert result.duplicates >= _MANY - 100, "what was stored before the refused part is known"
    assert await store.checkpoints.load("acme", "events") == cursor
    claim = await take(store, lane, fence, limit=_MANY)
    assert claim
    skipped = [Skipped(entry.seq, "disabled") for entry in claim.entries]
    await store.outbox.settle(claim, skipped, now=NOW, policy=RetryPolicy(HORIZON))
    assert max(done.changes) < _MOST


class StolenLease:
    """connector.store.database.Database whose first write is followed by another holder's lease."""

    def __init__(self, store: SqlStore) -> None:
        self._store = store
        self._writes = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store.database, name)

    async def write(self, work: Work[T], *, patient: bool = False) -> T:
        result = await self._store.database.write(work)
        self._writes += 1
        if self._writes == 1:
            later = Millis(NOW + 10 * TTL)
            assert isinstance(
                await self._store.leases.acquire("store", "two", now=later, ttl=TTL), Fence
            )
        return result


async def test_a_claim_whose_lease_ends_on_the_way_is_what_it_has(store: SqlStore) -> None:
    writes = await profile_lane(store)
    fence = await acquire_lease(store)
    listed = [listed_person(f"p{n}", NOW, writes.id, balance=n) for n in range(600)]
    await store.reads.bulk_observe((await lanes(store))[1], listed, now=NOW)
    claiming = store_on(StolenLease(store), "sqlite://").profiles
    claim = await claiming.claim(
        writes, fence, now=NOW, limit=600, mode=DeliveryMode.BATCH, mapping="v"
    )
    assert claim
    assert 0 < len(claim.entries) <= store.profiles.most_rows
    with pytest.raises(StoreError) as caught:
        await store.profiles.claim(
            writes, fence, now=NOW, limit=600, mode=DeliveryMode.BATCH, mapping="v"
        )
    assert caught.value.problem is Problem.STORE_HELD


async def test_retention_changes_few_rows_at_a_time(store: SqlStore) -> None:
    lane, fence = (await lanes(store))[0], await acquire_lease(store)
    await store.outbox.append([Page(lane, "poll", many(_MANY), NOW)])
    claim = await take(store, lane, fence, limit=_MANY)
    assert claim
    skipped = [Skipped(entry.seq, "disabled") for entry in claim.entries]
    await store.outbox.settle(claim, skipped, now=NOW, policy=RetryPolicy(HORIZON))
    done, after, deleted = Transactions(store), 0, 0
    while True:
        part = await store.maintenance.prune_records(
            now=Millis(NOW + 10), keep={State.SKIPPED: 1}, limit=100, after=after
        )
        deleted += part.deleted
        if part.after is None:
            break
        after = part.after
    assert deleted == _MANY
    assert max(done.changes[1:], default=0) < _MOST


class Timer:
    """The clocks as every piece sees them: each takes `each` seconds for a row, and the thread
    runs all the time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(time, "thread_time", lambda: self.now)

    async def run(self, pieces: Pieces, count: int, each: float) -> list[int]:
        """How many rows each of the pieces had that changed `count` rows."""
        sizes = []

        def part(c: Connection, after: int, rows: int) -> tuple[int, int | None]:
            done = min(rows, count - after)
            sizes.append(done)
            self.now += done * each
            return done, after + done if after + done < count else None

        assert await pieces.each(part, 0) == count
        return sizes


async def test_a_piece_has_as_many_rows_as_fit_into_the_target(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    timer, pieces = Timer(monkeypatch), Pieces(store.database, 1_000)
    assert pieces.rows == 125, "nothing is known of the first piece"
    await timer.run(pieces, 1_000, each=TARGET / 500)
    assert pieces.rows == 500
    slow = await timer.run(pieces, 3_000, each=TARGET / 100)
    assert slow[:4] == [500, 250, 125, 100], "halved at most, because one piece may be unlucky"
    assert set(slow[3:-1]) == {100}
    fast = await timer.run(pieces, 5_000, each=TARGET / 2_000)
    assert fast[:5] == [100, 200, 400, 800, 1_000]
    assert max(fast) == 1_000
    stuck = await timer.run(pieces, 3_000, each=1.0)
    assert min(stuck[:-1]) == LEAST


async def test_only_a_full_piece_says_how_long_a_row_takes(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    timer, pieces = Timer(monkeypatch), Pieces(store.database, 1_000)
    await timer.run(pieces, 10, each=1.0)
    assert pieces.rows == 125


async def test_pieces_that_are_never_full_become_smaller_where_they_take_too_long(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Retention asks for 500 rows at most, and was fast enough for 1,000."""
    timer, pieces = Timer(monkeypatch), Pieces(store.database, 1_000)
    await timer.run(pieces, 3_000, each=TARGET / 2_000)
    assert pieces.rows == 1_000
    sizes = []
    for _ in range(6):
        sizes.append(min(500, pieces.rows))

        def work(c: Connection, rows: int = sizes[-1]) -> None:
            timer.now += rows * TARGET / 100

        await pieces.write(work, rows=sizes[-1])
    assert sizes == [500, 500, 250, 125, 100, 100]


async def test_slices_follow_the_size_and_the_last_one_is_marked(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    timer, pieces = Timer(monkeypatch), Pieces(store.database, 800)
    found = []
    for part, is_last in pieces.parts(range(170)):

        def work(c: Connection, rows: int = len(part)) -> None:
            timer.now += rows * TARGET / 50

        await pieces.write(work, rows=len(part))
        found.append((len(part), is_last))
    assert found == [(100, False), (50, False), (20, True)]
    assert [(len(part), is_last) for part, is_last in pieces.parts(())] == [(0, True)]


async def test_a_first_sync_changes_few_rows_at_a_time(store: SqlStore) -> None:
    lane = await store.lanes.ensure("acme", "klaviyo", "membership")
    await store.member_groups.set_links(lane, [Link("gold", "VIP")], account="A")
    target, source = await store.member_groups.all()
    fence = await acquire_lease(store)
    await store.group_scans.begin(source.id, fence, now=NOW)
    members = [Member(f"p{n}", f"p{n}@example.com") for n in range(_MANY)]
    await store.group_scans.save_source_page(
        source.id, MembersPage(members, None, more=False), fence, requested_at=NOW, now=NOW
    )
    done = Transactions(store)
    assert await store.target_members.enable_writes(target.id, now=NOW) == _MANY
    assert max(done.changes[1:]) < _MOST
    counts = await store.target_members.counts(target.id)
    assert counts.pending == _MANY


async def test_a_new_account_changes_few_rows_at_a_time(store: SqlStore) -> None:
    writes = await profile_lane(store)
    listed = [listed_person(f"p{n}", NOW, writes.id, balance=n) for n in range(_MANY)]
    await store.reads.bulk_observe((await lanes(store))[1], listed, now=NOW)
    lane = await store.lanes.ensure("acme", "klaviyo", "membership")
    await store.member_groups.set_links(lane, [Link("gold", "VIP")], account="A")
    target, _ = await store.member_groups.all()
    fence = await acquire_lease(store)
    await store.group_scans.begin(target.id, fence, now=NOW)
    members = [Member(f"p{n}", f"p{n}@example.com", f"k{n}") for n in range(_MANY)]
    page = MembersPage(members, None, more=False)
    await store.group_scans.save_target_page(target.id, page, fence, requested_at=NOW, now=NOW)
    done = Transactions(store)
    assert await store.profiles.reset_confirmed(writes.id, now=NOW) == _MANY
    await store.address_scopes.move("acme", "B")
    await store.member_groups.reset_account("acme", now=NOW)
    assert max(done.changes[1:]) < 2_000, "two changes for each row"
    assert (await store.target_members.counts(target.id)).actual == 0


async def test_a_reset_that_is_cut_off_lets_no_one_join_a_segment_again(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The earlier account may come back: those who were in the segment are its baseline."""
    lane = await store.lanes.ensure("acme", "jericommerce", "membership")
    await store.member_groups.set_links(lane, [Link("seg", "tag")], account="acme")
    _, segment = await store.member_groups.all()
    fence = await acquire_lease(store)
    members = [Member(f"p{n}", f"p{n}@example.com") for n in range(_MANY)]

    async def scan() -> None:
        group = await store.group_scans.begin(segment.id, fence, now=NOW)
        tracks_joins = group.completed_scan > 0
        page = MembersPage(members, None, more=False)
        await store.group_scans.save_source_page(
            segment.id, page, fence, requested_at=NOW, now=NOW, track_joins=tracks_joins
        )
        await store.group_scans.apply(segment.id, now=NOW)

    await scan()
    write, number = store.database.write, 0
    for allowed in itertools.count():

        async def cut_off(work: Work[T], *, patient: bool = False, left: int = allowed) -> T:
            nonlocal number
            number += 1
            if number > left:
                raise StoreError(Problem.STORE_UNAVAILABLE, "cut off")
            return await write(work, patient=patient)

        number = 0
        with monkeypatch.context() as patch:
            patch.setattr(store.database, "write", cut_off)
            try:
                await store.member_groups.reset_account("acme", now=NOW)
                break
            except StoreError:
                pass
        await scan()
        assert await store.segment_joins.unhandled(segment.id, limit=1) == []
    assert allowed > 2, "it was one transaction"


async def test_a_claim_that_finds_only_held_people_changes_few_rows_at_a_time(
    store: SqlStore,
) -> None:
    writes = await profile_lane(store)
    fence = await acquire_lease(store)
    listed = [listed_person(f"p{n}", NOW, writes.id, balance=n) for n in range(_MANY)]
    await store.reads.bulk_observe((await lanes(store))[1], listed, now=NOW)
    unset = {"wanted": '{"balance":[null,2]}', "confirmed": '{"balance":[1,1]}'}
    await store.database.write(lambda c: c.execute(update(profiles).values(unset)))
    noted = {"balance": _MANY}
    await store.unset_fields.note(writes.id, noted, writes=_MANY, earlier_writes=0, now=NOW)
    done = Transactions(store)
    claim = await store.profiles.claim(
        writes, fence, now=NOW, limit=100, mode=DeliveryMode.BATCH, mapping="v"
    )
    assert claim is None
    assert await store.unset_fields.held(writes.id) == {"balance": _MANY}
    assert len(done.changes) >= _MANY // store.profiles.most_rows


async def test_the_reads_of_a_backfill_are_withdrawn_and_resumed_in_short_transactions(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start that is cut off leaves a run that waits, so that it is started again."""
    _, reads, _ = await lanes(store)
    run = await store.backfills.begin("acme", "file", {}, now=NOW)
    await store.backfills.start(run.id, now=NOW, total=None, notes=[])
    keys = [PersonKey(None, f"p{n}@example.com") for n in range(_MANY)]
    await store.backfills.append_page(run.id, reads, BackfillPage(None, False, keys=keys), now=NOW)
    done = Transactions(store)
    await store.backfills.set_state(run.id, "stopped", now=NOW)
    await store.backfills.set_state(run.id, "waiting", now=NOW)
    write = store.database.write

    async def cut_off(work: Work[T], *, patient: bool = False) -> T:
        if len(done.changes) > 5:
            raise StoreError(Problem.STORE_UNAVAILABLE, "cut off")
        return await write(work, patient=patient)

    with monkeypatch.context() as patch:
        patch.setattr(store.database, "write", cut_off)
        with pytest.raises(StoreError):
            await store.backfills.start(run.id, now=NOW, total=None, notes=[])
    found = await store.backfills.get(run.id)
    assert found
    assert found.state == "waiting"
    await store.backfills.start(run.id, now=NOW, total=None, notes=[])
    assert (await store.reads.ready(reads.id, now=NOW, limit=_MANY)).backfill_batch == _MANY
    assert await store.backfill_progress.outcome_counts(run.id) == {"pending": _MANY}
    assert max(done.changes[1:]) <= 3 * 500, (
        "a read is three changes; the first are those of before"
    )


async def test_a_decision_about_a_cap_is_carried_out_in_short_transactions(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is cut off is still to be carried out."""
    harness = await action_harness(store)
    caps = Caps(per_person=1)
    for start in range(0, _MANY + 1, 100):
        await harness.add(*(make_request(key=str(n)) for n in range(start, start + 100)), caps=caps)
    [question] = await store.approvals.find()
    answer = await store.approvals.decide(question.id, approved=True, by="ana", now=NOW)
    assert answer
    answer = replace(answer, decided_at=Millis(2**52))
    done = Transactions(store)
    write = store.database.write

    async def cut_off(work: Work[T], *, patient: bool = False) -> T:
        if done.changes:
            raise StoreError(Problem.STORE_UNAVAILABLE, "cut off")
        return await write(work, patient=patient)

    with monkeypatch.context() as patch:
        patch.setattr(store.database, "write", cut_off)
        with pytest.raises(StoreError):
            await store.action_decisions.resolve_cap(harness.lane, answer, caps=caps, now=NOW)
    assert set(await store.action_decisions.releasable()) == {harness.lane.connection}
    await store.action_decisions.resolve_cap(harness.lane, answer, caps=caps, now=NOW)
    assert {view.state for view in await harness.all_actions()} == {"waiting"}
    assert not await store.approvals.find()
    assert not await store.action_decisions.releasable()
    assert max(done.changes[1:]) <= _MOST


async def test_dead_letters_are_looked_for_beside_the_writer(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred thousand that wait for an address are passed over on the way to one that is
    retried. One that a person discards meanwhile is not retried."""
    lane, _, _ = await lanes(store)
    held = [record(f"k{n}", email=None) for n in range(5)]
    await store.outbox.append([Page(lane, "poll", held, NOW)])
    letters, every = store.dead_letters, DeadLetterFilter()
    writes = Transactions(store)
    assert await letters.retry(every, now=NOW) == (0, None)
    assert not any(writes.changes)
    ids = [letter.id for letter in await letters.find()]
    read = store.database.read

    async def discarded_after(work: Work[T], *, brief: bool = False) -> T:
        found = await read(work, brief=brief)
        monkeypatch.undo()
        assert await letters.discard(DeadLetterFilter(ids=[ids[0]]), reason="", now=NOW)
        return found

    monkeypatch.setattr(store.database, "read", discarded_after)
    assert await letters.discard(every, reason="later", now=NOW) == (4, ids[0])
    first = await letters.show(ids[0])
    assert first
    assert not first.dead_letter.detail, "discarded already"
