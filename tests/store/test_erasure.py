"""Forgetting people, on both engines: nothing of them is left, and they do not come back."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, insert, select, update

from connector.domain.lanes import (
    Millis,
)
from connector.domain.outcomes import (
    Accepted,
    Observed,
)
from connector.domain.records import (
    Appended,
    Page,
    State,
)
from connector.ports import Forgotten, Member
from connector.store.people import erasure
from connector.store.people import groups as staging
from connector.store.sql import SqlStore, open_store
from connector.store.tables import actions, groups, memberships, metadata, sightings
from connector.testing.contracts.profiles import claim_reads, claim_writes, lanes, seen, settle
from connector.testing.contracts.store import HORIZON, NOW, hold, record

LATER = Millis(NOW + 60_000)


async def tell(store: SqlStore, *who: str, email: str = "", at: int = NOW) -> Appended:
    """An event of each of these platform ids; its address is the id's unless one is given."""
    events, reads, _ = await lanes(store)
    records = [
        record(person=name, email=email or f"{name}@example.com", refresh=True) for name in who
    ]
    [result] = await store.append([Page(events, "webhook", records, Millis(at), reads=reads.id)])
    return result


async def test_whom_a_name_stands_for_is_said_before(store: SqlStore) -> None:
    await tell(store, "ada", "bo")
    found = await store.erasure.find("acme", " ADA@example.com ")
    assert found == Forgotten(1, ("ada@example.com",))
    assert await store.erasure.find("acme", "bo") == Forgotten(1, ("bo@example.com",))
    assert await store.erasure.find("acme", "nobody") == Forgotten(0)
    assert await store.erasure.find("other", "ada") == Forgotten(0)


async def test_a_forgotten_person_is_in_no_table_and_others_are(store: SqlStore) -> None:
    await tell(store, "ada", "bo")
    await _read(store, "ada", "bo")
    await store.orders.place(
        "refresh", {"connection": "acme", "person": "Ada@example.com"}, by="x", now=NOW
    )
    gone = await store.erasure.forget("acme", "ada@example.com", now=NOW)
    assert (gone.people, gone.emails) == (1, ("ada@example.com",))
    assert gone.rows > 3
    text = await everything(store)
    assert "ada" not in text
    assert "bo@example.com" in text
    assert len(await store.insight.people("acme", "bo")) == 1


async def test_he_is_not_made_again_by_id_or_address(store: SqlStore) -> None:
    await tell(store, "ada", "bo")
    await store.erasure.forget("acme", "ada", now=NOW)
    assert await tell(store, "ada", email="new@example.com") == Appended(0, 0, forgotten=1)
    assert await tell(store, "other-id", email="ada@example.com") == Appended(0, 0, forgotten=1)
    assert (await tell(store, "ada", "bo", "cy")) == Appended(2, 0, forgotten=1)
    assert "ada" not in await everything(store)


async def test_another_connection_does_not_forget_him(store: SqlStore) -> None:
    await tell(store, "ada")
    other = await store.lanes.ensure("other", "klaviyo", "event")
    again = record(person="ada", email="ada@example.com")
    await store.append([Page(other, "webhook", [again], NOW)])
    await store.erasure.forget("acme", "ada", now=NOW)
    assert len(await store.insight.people("other", "ada@example.com")) == 1
    more = record(person="ada", email="ada@example.com")
    assert await store.append([Page(other, "webhook", [more], NOW)]) == [Appended(1, 0)]


async def test_lifting_lets_him_come_back(store: SqlStore) -> None:
    await tell(store, "ada")
    await store.erasure.forget("acme", "ada", now=NOW)
    assert await store.erasure.lift("acme", "nobody") is False
    assert await store.erasure.lift("acme", "ADA@example.com ") is True
    assert await store.erasure.lift("acme", "ada") is False  # it went with the address
    assert await tell(store, "ada") == Appended(1, 0)
    assert len(await store.insight.people("acme", "ada")) == 1


async def test_one_address_is_one_human(store: SqlStore) -> None:
    """Two ids that share an address go together, with the addresses of both."""
    await tell(store, "ada", email="shared@example.com")
    await tell(store, "ada-2", email="second@example.com")
    await tell(store, "ada-2", email="shared@example.com")
    gone = await store.erasure.forget("acme", "ada", now=NOW)
    assert gone.people == 2
    assert "shared@" not in await everything(store)
    assert (await tell(store, "ada-2", email="fresh@example.com")).forgotten == 1


async def test_a_read_that_was_under_way_brings_nobody_back(store: SqlStore) -> None:
    fence = await hold(store)
    await tell(store, "ada")
    claim = await claim_reads(store, fence)
    assert claim
    await store.erasure.forget("acme", "ada", now=NOW)
    [entry] = claim.entries
    _, _, profiles = await lanes(store)
    observed = Observed(entry.seq, seen(entry.seq, "ada", LATER, profiles.id))
    await store.reads.settle(claim, [observed], now=LATER, horizon=HORIZON)
    assert "ada" not in await everything(store)


async def test_who_was_never_seen_leaves_no_stone(store: SqlStore) -> None:
    assert await store.erasure.forget("acme", "ada", now=NOW) == Forgotten(0)
    assert await tell(store, "ada") == Appended(1, 0)


async def _read(store: SqlStore, *who: str) -> None:
    """Everybody who waits to be read is, and his profile is written."""
    fence = await hold(store)
    claim = await claim_reads(store, fence)
    assert claim
    assert len(claim.entries) == len(who)
    _, _, profiles = await lanes(store)
    outcomes = [
        Observed(e.seq, seen(e.seq, e.unique_id, NOW, profiles.id, balance=1))
        for e in claim.entries
    ]
    await store.reads.settle(claim, outcomes, now=NOW, horizon=HORIZON)
    written = await claim_writes(store, fence)
    assert written
    assert len(written.entries) == len(who)
    await settle(store, written, *(Accepted(e.seq, "r") for e in written.entries))


async def everything(store: SqlStore) -> str:
    """Every value of every row, as text."""

    def work(c: Connection) -> str:
        return repr([list(c.execute(table.select())) for table in metadata.tables.values()])

    return (await store._database.read(work)).lower()


async def test_lists_and_actions_hold_nobody_either_and_a_repeated_call_is_still_known(
    store: SqlStore,
) -> None:
    await tell(store, "ada", "bo")
    lane = await store.lanes.ensure("acme", "klaviyo", "membership")
    deeds = await store.lanes.ensure("acme", "jericommerce", "action")

    def plant(c: Connection) -> None:
        group = {"connection": "acme", "kind": "audience", "name": "vip", "lane": lane.id}
        made = insert(groups).values(group | {"account": "x"}).returning(groups.c.id)
        source = c.execute(made).scalar_one()
        for name in ("ada", "bo"):
            email = f"{name}@example.com"
            seen = {"source": source, "email": email, "scan": 1, "at": 1, "platform_id": name}
            c.execute(insert(sightings).values(seen))
            member = {"lane": lane.id, "target": source, "email": email, "address": b"x"}
            more = {"wanted": 1, "state": State.READY, "due": 0, "since": 0}
            c.execute(insert(memberships).values(member | more))
            for n, sent_at in enumerate((None, 5)):
                deed = {"lane": deeds.id, "digest": f"{n}{name[0]}".encode(), "content": b"c"}
                deed |= {"origin": "o", "route": "r", "name": "n", "ref": "r", "received_at": 1}
                deed |= {"who": b"w", "email": email, "amount": 5, "data": email.encode()}
                c.execute(insert(actions).values(deed | {"due": 0, "sent_at": sent_at}))

    await store._database.write(plant)
    await store.erasure.forget("acme", "ada", now=NOW)
    assert "ada" not in await everything(store)

    def left(c: Connection) -> list[tuple[bytes, int, bytes]]:
        deed = select(actions.c.digest, actions.c.state, actions.c.data).order_by(actions.c.digest)
        assert c.execute(select(sightings.c.email)).scalars().all() == ["bo@example.com"]
        assert c.execute(select(memberships.c.email)).scalars().all() == ["bo@example.com"]
        return [(bytes(digest), state, bytes(data)) for digest, state, data in c.execute(deed)]

    assert await store._database.read(left) == [
        (b"0a", State.DISCARDED, b"{}"),
        (b"0b", State.READY, b"bo@example.com"),
        (b"1a", State.READY, b"{}"),  # it was sent: what became of it is still to be found out
        (b"1b", State.READY, b"bo@example.com"),
    ]


async def test_a_scan_of_an_audience_does_not_bring_him_back(store: SqlStore) -> None:
    await tell(store, "ada", "bo")
    lane = await store.lanes.ensure("acme", "klaviyo", "membership")
    await store.erasure.forget("acme", "ada", now=NOW)

    def scan(c: Connection) -> list[str]:
        group = {"connection": "acme", "kind": "audience", "name": "vip", "lane": lane.id}
        made = insert(groups).values(group | {"account": "x"}).returning(groups.c.id)
        id = c.execute(made).scalar_one()
        c.execute(update(groups).where(groups.c.id == id).values(target=id))
        members = [
            Member("other", "ada@example.com"),
            Member("ada", "new@example.com"),
            Member("bo", "bo@example.com"),
        ]
        row = staging.row_of(c, id)
        staging.stage(c, row, members, asked_at=NOW, now=NOW, greets=False)
        return list(c.execute(select(sightings.c.email)).scalars())

    assert await store._database.write(scan) == ["bo@example.com"]


async def test_an_sqlite_file_holds_no_trace_of_him(tmp_path: Path) -> None:
    store = await open_store(f"sqlite:///{tmp_path}/s.db")
    await tell(store, "ada", "bo")
    await _read(store, "ada", "bo")
    await store.erasure.forget("acme", "ada", now=NOW)
    await store.aclose()
    left = _bytes_of(tmp_path)
    assert b"bo@example.com" in left
    assert b"ada@example.com" not in left


def _bytes_of(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.iterdir())


def test_every_table_that_may_hold_somebody_is_known_to_be_of_a_connection() -> None:
    whom = erasure._Whom("acme", {1}, {"ada"}, {"ada@example.com"})
    asked = {t.name for t in metadata.sorted_tables if erasure._about(t, whom) is not None}
    assert asked >= {"outbox", "people", "reads", "profiles", "journal"}
