"""Erasure on every engine: no row is left, and the person is not stored again."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Connection, insert, select

from connector.domain.actions import Action, ActionBatch, ActionReceipt, ActionRequest, Caps
from connector.domain.errors import StoreError
from connector.domain.lanes import Millis
from connector.domain.memberships import Link
from connector.domain.outcomes import Accepted, Observed
from connector.domain.records import Appended, Page, State
from connector.ports import ErasureResult, Member, MembersPage, RetryPolicy
from connector.store.sql import SqlStore, open_store
from connector.store.tables import actions, groups, memberships, metadata, source_members
from connector.testing.contracts.profile_harness import (
    claim_reads,
    claim_writes,
    lanes,
    make_observation,
    profile_lane,
    settle,
)
from connector.testing.contracts.store import HORIZON, NOW, acquire_lease, record

LATER = Millis(NOW + 60_000)


async def append_events(
    store: SqlStore, *names: str, email: str = "", at: int = NOW, size: int = 0
) -> Appended:
    """An event of each of these platform ids; its address is the id's unless one is given, and its
    body names the person and is `size` bytes longer."""
    events, reads, _ = await lanes(store)
    records = [
        record(
            person=name,
            email=email or f"{name}@example.com",
            refresh=True,
            data=b'{"id":"%s","text":"%s"}' % (name.encode(), b"x" * size),
        )
        for name in names
    ]
    [result] = await store.outbox.append(
        [Page(events, "webhook", records, Millis(at), read_lane=reads.id)]
    )
    return result


async def test_an_erasure_previews_the_matching_people(store: SqlStore) -> None:
    await append_events(store, "adeline", "bo")
    found = await store.erasure.find("acme", " ADELINE@example.com ")
    assert found == ErasureResult(1, ("adeline@example.com",))
    assert await store.erasure.find("acme", "bo") == ErasureResult(1, ("bo@example.com",))
    assert await store.erasure.find("acme", "unknown") == ErasureResult(0)
    assert await store.erasure.find("other", "adeline") == ErasureResult(0)


async def test_an_erased_person_is_in_no_table_and_others_remain(store: SqlStore) -> None:
    await append_events(store, "adeline", "bo")
    await _read(store, "adeline", "bo")
    await store.commands.submit(
        "refresh", {"connection": "acme", "person": "Adeline@example.com"}, by="x", now=NOW
    )
    # A search for dead letters of all connections.
    search = {"q": "adeline@example.com", "connection": None}
    await store.commands.submit("retry", search, by="x", now=NOW)
    gone = await store.erasure.forget("acme", "adeline@example.com", now=NOW)
    assert (gone.people, gone.emails) == (1, ("adeline@example.com",))
    assert gone.rows > 3
    text = await dump_tables(store)
    assert "adeline" not in text
    assert "bo@example.com" in text
    assert len(await store.timelines.find("acme", "bo")) == 1


async def test_an_erased_person_is_not_created_again_by_id_or_address(store: SqlStore) -> None:
    await append_events(store, "adeline", "bo")
    await store.erasure.forget("acme", "adeline", now=NOW)
    assert await append_events(store, "adeline", email="new@example.com") == Appended(
        0, 0, forgotten=1
    )
    assert await append_events(store, "other-id", email="adeline@example.com") == Appended(
        0, 0, forgotten=1
    )
    assert (await append_events(store, "adeline", "bo", "cy")) == Appended(2, 0, forgotten=1)
    assert "adeline" not in await dump_tables(store)


async def test_an_erasure_does_not_affect_another_connection(store: SqlStore) -> None:
    await append_events(store, "adeline")
    other = await store.lanes.ensure("other", "klaviyo", "event")
    again = record(person="adeline", email="adeline@example.com")
    await store.outbox.append([Page(other, "webhook", [again], NOW)])
    await store.erasure.forget("acme", "adeline", now=NOW)
    assert len(await store.timelines.find("other", "adeline@example.com")) == 1
    more = record(person="adeline", email="adeline@example.com")
    assert await store.outbox.append([Page(other, "webhook", [more], NOW)]) == [Appended(1, 0)]


async def test_removing_the_tombstone_lets_the_person_be_created_again(store: SqlStore) -> None:
    await append_events(store, "adeline")
    await store.erasure.forget("acme", "adeline", now=NOW)
    assert await store.erasure.remove_tombstone("acme", "unknown") is False
    assert await store.erasure.remove_tombstone("acme", "ADELINE@example.com ") is True
    assert (
        await store.erasure.remove_tombstone("acme", "adeline") is False
    )  # it went with the address
    assert await append_events(store, "adeline") == Appended(1, 0)
    assert len(await store.timelines.find("acme", "adeline")) == 1


async def test_ids_sharing_an_address_are_erased_together(store: SqlStore) -> None:
    """Two ids that share an address go together, with the addresses of both."""
    await append_events(store, "adeline", email="shared@example.com")
    await append_events(store, "adeline-2", email="second@example.com")
    await append_events(store, "adeline-2", email="shared@example.com")
    gone = await store.erasure.forget("acme", "adeline", now=NOW)
    assert gone.people == 2
    assert "shared@" not in await dump_tables(store)
    assert (await append_events(store, "adeline-2", email="fresh@example.com")).forgotten == 1


async def test_a_read_in_flight_does_not_restore_an_erased_person(store: SqlStore) -> None:
    fence = await acquire_lease(store)
    await append_events(store, "adeline")
    claim = await claim_reads(store, fence)
    assert claim
    await store.erasure.forget("acme", "adeline", now=NOW)
    [entry] = claim.entries
    profiles = await profile_lane(store)
    observed = Observed(entry.seq, make_observation(entry.seq, "adeline", LATER, profiles.id))
    await store.reads.settle(claim, [observed], now=LATER, policy=RetryPolicy(HORIZON))
    assert "adeline" not in await dump_tables(store)


async def test_erasing_an_unknown_person_leaves_no_tombstone(store: SqlStore) -> None:
    assert await store.erasure.forget("acme", "adeline", now=NOW) == ErasureResult(0)
    assert await append_events(store, "adeline") == Appended(1, 0)


async def _read(store: SqlStore, *names: str) -> None:
    """Read everyone who waits to be read, and write their profiles."""
    fence = await acquire_lease(store)
    claim = await claim_reads(store, fence)
    assert claim
    assert len(claim.entries) == len(names)
    profiles = await profile_lane(store)
    outcomes = [
        Observed(e.seq, make_observation(e.seq, e.unique_id, NOW, profiles.id, balance=1))
        for e in claim.entries
    ]
    await store.reads.settle(claim, outcomes, now=NOW, policy=RetryPolicy(HORIZON))
    written = await claim_writes(store, fence)
    assert written
    assert len(written.entries) == len(names)
    await settle(store, written, *(Accepted(e.seq, "r") for e in written.entries))


async def dump_tables(store: SqlStore) -> str:
    """Every value of every row, as text."""

    def work(c: Connection) -> str:
        rows = [row for table in metadata.tables.values() for row in c.execute(table.select())]
        return repr([[_as_text(value) for value in row] for row in rows])

    return (await store.database.read(work)).lower()


def _as_text(value: object) -> str:
    # The repr of random bytes can spell a name by chance: `\xad` and `a` make "ada".
    return value.decode(errors="replace") if isinstance(value, bytes) else repr(value)


async def test_erasure_covers_lists_and_actions_and_a_repeated_request_is_still_deduplicated(
    store: SqlStore,
) -> None:
    await append_events(store, "adeline", "bo")
    lane = await store.lanes.ensure("acme", "klaviyo", "membership")
    action_lane = await store.lanes.ensure("acme", "jericommerce", "action")

    def plant(c: Connection) -> None:
        group = {"connection": "acme", "kind": "audience", "name": "vip", "lane": lane.id}
        made = insert(groups).values(group | {"account": "x"}).returning(groups.c.id)
        source = c.execute(made).scalar_one()
        for name in ("adeline", "bo"):
            email = f"{name}@example.com"
            listed = {"source": source, "email": email, "scan": 1, "at": 1, "platform_id": name}
            c.execute(insert(source_members).values(listed))
            member = {"lane": lane.id, "target": source, "email": email, "address": b"x"}
            more = {"wanted": 1, "state": State.READY, "due": 0, "since": 0}
            c.execute(insert(memberships).values(member | more))
            for n, sent_at in enumerate((None, 5)):
                action = {
                    "lane": action_lane.id,
                    "digest": f"{n}{name[0]}".encode(),
                    "content": b"c",
                }
                action |= {
                    "origin": "o",
                    "route": "r",
                    "name": "n",
                    "ref": "r",
                    "received_at": 1,
                    "counted_at": 1,
                }
                action |= {"person_key": b"w", "email": email, "amount": 5, "data": email.encode()}
                c.execute(insert(actions).values(action | {"due": 0, "sent_at": sent_at}))

    await store.database.write(plant)
    await store.erasure.forget("acme", "adeline", now=NOW)
    assert "adeline" not in await dump_tables(store)

    def left(c: Connection) -> list[tuple[bytes, int, bytes]]:
        action = select(actions.c.digest, actions.c.state, actions.c.data).order_by(
            actions.c.digest
        )
        assert c.execute(select(source_members.c.email)).scalars().all() == ["bo@example.com"]
        assert c.execute(select(memberships.c.email)).scalars().all() == ["bo@example.com"]
        return [(bytes(digest), state, bytes(data)) for digest, state, data in c.execute(action)]

    assert await store.database.read(left) == [
        (b"0a", State.DISCARDED, b"{}"),
        (b"0b", State.READY, b"bo@example.com"),
        (b"1a", State.READY, b"{}"),  # it was sent, and its outcome is still looked up
        (b"1b", State.READY, b"bo@example.com"),
    ]


async def test_a_person_that_only_actions_name_is_erased_by_that_id(store: SqlStore) -> None:
    lane = await store.lanes.ensure("acme", "jericommerce", "action")

    async def submit(name: str) -> object:
        action = Action("push", customer=name, message=f"Hello {name}")
        request = ActionRequest(action, route="push", key="k")
        batch = ActionBatch(lane, "flow", [request], received_at=NOW, caps=Caps(None, None))
        return (await store.action_intake.add([batch]))[0]

    await submit("adeline")
    await submit("bo")
    assert await store.erasure.find("other", "adeline") == ErasureResult(0)
    assert await store.erasure.forget("acme", "adeline", now=NOW) == ErasureResult(1, (), 1)
    assert await submit("adeline") == ActionReceipt(0, 1, 0)
    dump = await dump_tables(store)
    assert "adeline" not in dump
    assert "hello bo" in dump


async def test_an_audience_scan_does_not_restore_an_erased_person(store: SqlStore) -> None:
    await append_events(store, "adeline", "bo")
    lane = await store.lanes.ensure("acme", "klaviyo", "membership")
    await store.member_groups.set_links(lane, [Link("vip", "VIP")], account="x")
    await store.erasure.forget("acme", "adeline", now=NOW)
    fence = await acquire_lease(store)
    target, source = await store.member_groups.all()
    await store.group_scans.begin(source.id, fence, now=NOW)
    members = [
        Member("other", "adeline@example.com"),
        Member("adeline", "new@example.com"),
        Member("bo", "bo@example.com"),
    ]
    page = MembersPage(members, None, more=False)
    await store.group_scans.save_source_page(source.id, page, fence, requested_at=NOW, now=NOW)
    assert (await store.target_members.counts(target.id)).wanted == 1


async def test_the_files_of_an_open_store_contain_no_trace_of_an_erased_person(
    tmp_path: Path,
) -> None:
    """After a long history: rows that grew, moved between pages and were deleted by retention."""
    store = await open_store(f"sqlite:///{tmp_path}/s.db")
    rng = random.Random(4)
    names = [f"person{n:03}" for n in range(120)]
    for round in range(12):
        some = rng.sample(names, 40)
        await append_events(store, *some, size=rng.randrange(2_000), at=NOW + round)
        if round == 0:
            await _read(store, *some)
    keep = dict.fromkeys(State, 0)
    await store.maintenance.prune_records(now=LATER, keep=keep, limit=100)
    await store.maintenance.clear_bodies(before=LATER, after=0, limit=100)
    erased = rng.sample(names, 10)
    traces = _bytes_of(tmp_path)
    assert [traces.count(name.encode()) > 3 for name in erased] == [True] * 10
    for name in erased:
        await store.erasure.forget("acme", name, now=LATER)
        assert _bytes_of(tmp_path).count(name.encode()) == 0, name
    assert {name for name in names if name.encode() in _bytes_of(tmp_path)} == {*names} - {*erased}
    await store.aclose()


async def test_an_erasure_whose_traces_are_held_by_another_program_says_so_and_can_be_repeated(
    tmp_path: Path,
) -> None:
    store = await open_store(f"sqlite:///{tmp_path}/s.db")
    await append_events(store, "adeline", "bo")
    with closing(sqlite3.connect(tmp_path / "s.db", isolation_level=None)) as other:
        other.execute("BEGIN")
        other.execute("SELECT count(*) FROM people").fetchall()
        with pytest.raises(StoreError, match="repeat the command"):
            await store.erasure.forget("acme", "adeline", now=NOW)
        assert await store.erasure.erased_at("acme", "ADELINE@example.com") == NOW
    await store.commands.submit(
        "forget", {"connection": "acme", "person": "adeline"}, by="x", now=NOW
    )
    assert await store.erasure.forget("acme", "adeline", now=LATER) == ErasureResult(0)
    assert b"adeline" not in _bytes_of(tmp_path)
    assert await store.erasure.erased_at("acme", "adeline") == NOW
    await store.aclose()


async def test_the_time_of_an_erasure_is_known_until_the_tombstone_is_removed(
    store: SqlStore,
) -> None:
    await append_events(store, "adeline")
    assert await store.erasure.erased_at("acme", "adeline") is None
    await store.erasure.forget("acme", "adeline", now=NOW)
    assert await store.erasure.erased_at("acme", " Adeline@example.com") == NOW
    assert await store.erasure.erased_at("other", "adeline") is None
    await store.erasure.remove_tombstone("acme", "adeline")
    assert await store.erasure.erased_at("acme", "adeline") is None


def _bytes_of(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.iterdir())


def test_every_table_with_an_address_has_a_connection() -> None:
    """Else the rows of one connection could not be distinguished from those of another."""
    holders = {t.name: set(t.c.keys()) for t in metadata.sorted_tables if "email" in t.c}
    assert {"outbox", "people", "source_members", "memberships", "actions"} <= set(holders)
    assert [
        name for name, columns in holders.items() if not columns & {"connection", "source", "lane"}
    ] == []
