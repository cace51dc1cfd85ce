"""A store is looked after: damage is found, copies are whole, space is given back."""

from __future__ import annotations

import asyncio
import sqlite3
import stat
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, func, insert, select, update

from connector.domain.errors import ConfigError, Problem, StoreError
from connector.domain.lanes import Millis
from connector.domain.records import Page, Record, State
from connector.store import schema
from connector.store.admin import integrity
from connector.store.sql import SqlStore, open_store
from connector.store.tables import lanes, metadata, outbox, profiles, reads

NOW = Millis(1_790_000_000_000)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/s.db"


async def fill(store: SqlStore, count: int, *, start: int = 0, size: int = 2) -> None:
    lane = await store.lanes.ensure("acme", "klaviyo", "event")
    body = b'"' + b"x" * size + b'"'
    records = [
        Record(f"k{i}", f"t:k{i}", "Added", NOW, body, f"p{i}", f"p{i}@example.com", refresh=True)
        for i in range(start, start + count)
    ]
    reading = await store.lanes.ensure("acme", "jericommerce", "profile")
    await store.outbox.append([Page(lane, "webhook", records, NOW, read_lane=reading.id)])


def filled(url: str, count: int = 10, **how: int) -> None:
    async def work() -> None:
        store = await open_store(url)
        await fill(store, count, **how)
        await store.aclose()

    asyncio.run(work())


def change(url: str, *statements: Any) -> None:
    def work(c: Connection) -> None:
        c.exec_driver_sql("BEGIN" if c.dialect.name == "sqlite" else "SELECT 1")
        for statement in statements:
            c.execute(statement)
        c.commit()

    schema.with_connection(url, work)


# ── damage ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("what", ["outbox_by_digest", "outbox", "people"])
def test_an_overwritten_page_is_found(url: str, tmp_path: Path, what: str) -> None:
    filled(url, 500)
    assert integrity.check(url) == []
    path = tmp_path / "s.db"
    with closing(sqlite3.connect(path)) as file:
        file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        page = file.execute("PRAGMA page_size").fetchone()[0]
        [root] = file.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (what,))
    whole = bytearray(path.read_bytes())
    start = (root[0] - 1) * page
    whole[start : start + 64] = b"\xff" * 64
    path.write_bytes(whole)
    found = integrity.check(url)
    assert found
    assert all(line.startswith(Problem.STORE_DAMAGED) for line in found)


def test_a_file_that_is_not_a_database_is_reported_as_damaged(url: str, tmp_path: Path) -> None:
    (tmp_path / "s.db").write_bytes(b"this is no database " * 400)
    [fault] = integrity.check(url)
    assert fault.startswith(Problem.STORE_DAMAGED)
    with pytest.raises(StoreError) as caught:
        asyncio.run(open_store(url))
    assert caught.value.problem is Problem.STORE_DAMAGED


@pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
def test_impossible_rows_are_found(engine: str, url: str, request: pytest.FixtureRequest) -> None:
    if engine == "postgresql":
        url = request.getfixturevalue("postgres_url")
    filled(url)
    assert integrity.check(url) == []
    first = outbox.c.unique_id == "t:k0"
    lane = select(func.min(lanes.c.id)).scalar_subquery()
    profile = {"person": 999_999, "lane": lane, "state": 2, "due": 0}
    text = {"identity": "{}", "wanted": "{}", "confirmed": "{}"}
    try:
        change(
            url,
            update(outbox).where(first).values(state=17),
            update(outbox).where(outbox.c.unique_id == "t:k1").values(state=State.CLAIMED),
            update(reads).values(claim=5),
            update(outbox).where(outbox.c.unique_id == "t:k2").values(lane=77),
            insert(profiles).values(profile | text),
        )
        assert [line.partition(": ")[2] for line in integrity.check(url)] == [
            "outbox: 1 rows in a state that does not exist",
            "outbox: 1 rows claimed without an owner",
            "outbox: 1 rows of a lane that does not exist",
            "reads: 10 rows not claimed but with a claim owner",
            "profiles: 1 rows of a person who does not exist",
        ]
    finally:
        change(url, *(table.delete() for table in metadata.tables.values()))


# ── a copy ───────────────────────────────────────────────────────────────────────────────────────


async def test_a_backup_is_consistent_while_the_store_is_written_to(
    url: str, tmp_path: Path
) -> None:
    store = await open_store(url)
    await fill(store, 200)
    done = asyncio.Event()

    async def keep_writing() -> None:
        start = 200
        while not done.is_set():
            await fill(store, 20, start=start)
            start += 20
            await asyncio.sleep(0)

    writing = asyncio.create_task(keep_writing())
    copy = tmp_path / "copy.db"
    size = await asyncio.to_thread(integrity.backup, url, copy)
    done.set()
    await writing
    await store.aclose()
    assert size == copy.stat().st_size
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert integrity.check(f"sqlite:///{copy}") == []
    rows = integrity.counts(f"sqlite:///{copy}")
    # Each page is one transaction: events, people and reads are all in, or none of them.
    assert rows["outbox"] == rows["people"] == rows["reads"] >= 200
    assert rows["outbox"] % 20 == 0
    again = await open_store(f"sqlite:///{copy}", migrate="manual")
    await fill(again, 20, start=10_000)
    await again.aclose()


def test_a_backup_overwrites_nothing_and_leaves_no_partial_file(url: str, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    with pytest.raises(StoreError, match="no store"):
        integrity.backup(url, copy)
    filled(url)
    copy.write_text("precious")
    with pytest.raises(ConfigError, match="found a file"):
        integrity.backup(url, copy)
    assert copy.read_text() == "precious"
    with pytest.raises(ConfigError, match="cannot be written"):
        integrity.backup(url, tmp_path / "nowhere" / "copy.db")
    (tmp_path / "s.db-wal").unlink(missing_ok=True)
    (tmp_path / "s.db").write_bytes(b"this is no database " * 400)
    with pytest.raises(StoreError) as caught:
        integrity.backup(url, tmp_path / "other.db")
    assert caught.value.problem is Problem.STORE_DAMAGED
    assert not (tmp_path / "other.db").exists()


def test_for_postgresql_the_message_names_pg_dump(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="pg_dump") as caught:
        integrity.backup("postgresql://user:s3cr3t@host/db", tmp_path / "copy.db")
    assert "s3cr3t" not in str(caught.value)


# ── space ────────────────────────────────────────────────────────────────────────────────────────


async def test_vacuum_returns_space_in_steps_and_keeps_some(url: str, tmp_path: Path) -> None:
    store = await open_store(url)
    await fill(store, 2_000, size=4_000)
    full = _size(tmp_path)
    assert await store.maintenance.free_pages(100) == 0
    keep = dict.fromkeys(State, 0)
    await store.database.write(lambda c: c.execute(update(outbox).values(state=State.SKIPPED)))
    after: int | None = 0
    while after is not None:
        part = await store.maintenance.prune_records(
            now=Millis(NOW + 1), keep=keep, limit=1_000, after=after
        )
        after = part.after
    steps = []
    while pages := await store.maintenance.free_pages(100):
        steps.append(pages)
    assert len(steps) > 5
    assert max(steps) <= 150
    await store.aclose()
    assert _size(tmp_path) < full / 2
    assert integrity.check(url) == []


def _size(folder: Path) -> int:
    with closing(sqlite3.connect(folder / "s.db")) as file:
        file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return (folder / "s.db").stat().st_size


async def test_postgresql_needs_no_vacuum(postgres_url: str) -> None:
    store = await open_store(postgres_url)
    assert await store.maintenance.free_pages(100) == 0
    await store.aclose()


async def test_settings_that_lose_commits_are_named(postgres_url: str) -> None:
    """The server of the tests waits for no disk."""
    named = await asyncio.to_thread(integrity.undurable_settings, postgres_url)
    assert named == ["fsync", "synchronous_commit"]


def test_a_file_and_a_database_that_is_away_have_none(url: str) -> None:
    assert integrity.undurable_settings(url) == []
    assert integrity.undurable_settings("postgresql://nobody@127.0.0.1:1/none") == []
