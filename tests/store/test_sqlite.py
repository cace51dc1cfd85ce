"""What only real engines show: durability settings, groups, plans, and eight who want the same."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, event, insert, text

from connector.domain.errors import Problem, StoreError
from connector.domain.lanes import DeliveryMode, Lane, LaneId, Millis
from connector.domain.records import Page, Record
from connector.ports import Fence
from connector.store import sqlite
from connector.store.admin import leases
from connector.store.database import SqliteDatabase, open_database
from connector.store.sql import SqlStore, open_store
from connector.store.tables import metadata
from tests.stores import delete_all
from tests.waiting import PATIENCE

NOW = Millis(1_790_000_000_000)
LANE = Lane(LaneId(1), "acme", "klaviyo", "event")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqlStore]:
    store = await open_store(f"sqlite:///{tmp_path}/s.db")
    yield store
    await store.aclose()


@pytest.fixture
async def on_postgres(postgres_url: str) -> AsyncIterator[SqlStore]:
    store = await open_store(postgres_url)
    yield store
    await store.database.write(delete_all)
    await store.aclose()


def records(count: int) -> list[Record]:
    return [
        Record(f"k{i}", f"test:k{i}", "Added", NOW, b"{}", f"p{i % 50}", f"p{i % 50}@example.com")
        for i in range(count)
    ]


# ── what a commit is worth ───────────────────────────────────────────────────────────────────────


async def test_the_writer_commits_to_a_log_with_full_synchronous(store: SqlStore) -> None:
    def settings(c: Connection) -> list[Any]:
        return [
            c.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "busy_timeout", "secure_delete")
        ]

    assert await store.database.write(settings) == ["wal", 2, 1_000, 1]
    assert await store.database.read(settings) == ["wal", 2, 10_000, 1]


async def test_jobs_queued_during_a_commit_share_the_next_one(store: SqlStore) -> None:
    database = store.database
    assert isinstance(database, SqliteDatabase)
    commits: list[int] = []
    event.listen(database.engine, "commit", lambda c: commits.append(1))
    gate = threading.Event()
    first = asyncio.create_task(database.write(lambda c: gate.wait(5)))
    rest = [asyncio.create_task(database.write(lambda c, i=i: i)) for i in range(100)]
    await asyncio.sleep(0)
    gate.set()
    await first
    assert await asyncio.gather(*rest) == list(range(100))
    assert len(commits) <= 3


async def test_patient_work_shares_the_next_commit(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = store.database
    monkeypatch.setattr(sqlite, "_PATIENCE", PATIENCE)
    commits: list[int] = []
    event.listen(database.engine, "commit", lambda c: commits.append(1))
    patient = asyncio.create_task(database.write(lambda c: "patient", patient=True))
    await asyncio.sleep(0)
    assert await database.write(lambda c: "next") == "next"
    assert await patient == "patient"
    assert len(commits) == 1


async def test_a_close_does_not_wait_for_patient_work(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "_PATIENCE", PATIENCE)
    patient = asyncio.create_task(store.database.write(lambda c: "patient", patient=True))
    await asyncio.sleep(0)
    await asyncio.wait_for(store.aclose(), PATIENCE / 2)
    assert await patient == "patient"


async def test_a_failing_job_fails_alone_and_leaves_nothing(store: SqlStore) -> None:
    database = store.database
    gate = threading.Event()
    mapping = metadata.tables["mappings"]

    def add(version: str, fails: bool = False) -> Any:
        def work(c: Connection) -> str:
            c.execute(insert(mapping).values(version=version, text="t", first_used=0))
            if fails:
                raise ValueError("ours")
            return version

        return work

    first = asyncio.create_task(database.write(lambda c: gate.wait(5)))
    jobs = [asyncio.create_task(database.write(add(f"v{i}", i == 3))) for i in range(8)]
    await asyncio.sleep(0)
    gate.set()
    await first
    results = await asyncio.gather(*jobs, return_exceptions=True)
    assert [r for r in results if isinstance(r, str)] == [f"v{i}" for i in range(8) if i != 3]
    assert isinstance(results[3], ValueError)
    stored = await database.read(lambda c: set(c.execute(text("SELECT version FROM mappings"))))
    assert {version for (version,) in stored} == {f"v{i}" for i in range(8) if i != 3}


async def test_an_engine_error_contains_no_data(store: SqlStore) -> None:
    mapping = metadata.tables["mappings"]
    same = {"version": "ada@example.com", "text": "secret", "first_used": 0}

    def twice(c: Connection) -> None:
        c.execute(insert(mapping).values(same))
        c.execute(insert(mapping).values(same))

    with pytest.raises(StoreError) as caught:
        await store.database.write(twice)
    assert caught.value.problem == Problem.STORE_UNAVAILABLE
    assert "ada" not in str(caught.value)
    assert "secret" not in str(caught.value)


async def test_a_value_that_no_engine_accepts_is_not_an_outage(store: SqlStore) -> None:
    lane = await store.lanes.ensure("acme", "klaviyo", "event")
    huge = Record("k", "test:k", "Added", Millis(2**70), b"{}", email="ada@example.com")
    with pytest.raises(OverflowError):
        await store.outbox.append([Page(lane, "webhook", [huge], NOW)])
    assert (await store.outbox.append([Page(lane, "webhook", records(1), NOW)]))[0].accepted == 1


async def test_postgresql_rejects_bad_values_permanently_and_keeps_working(
    on_postgres: SqlStore,
) -> None:
    lane = await on_postgres.lanes.ensure("acme", "klaviyo", "event")
    for bad in (
        Record("k", "test:k", "nul \x00", NOW, b"{}", email="ada@example.com"),
        Record("k", "test:k", "Added", Millis(2**70), b"{}", email="ada@example.com"),
    ):
        with pytest.raises(StoreError) as caught:
            await on_postgres.outbox.append([Page(lane, "webhook", [bad], NOW)])
        assert caught.value.problem is Problem.STORE_REFUSED
        assert "ada" not in str(caught.value)
    assert (await on_postgres.outbox.append([Page(lane, "webhook", records(1), NOW)]))[
        0
    ].accepted == 1


async def test_a_closed_store_raises_instead_of_hanging(tmp_path: Path) -> None:
    store = await open_store(f"sqlite:///{tmp_path}/closed.db")
    await store.aclose()
    with pytest.raises(StoreError):
        await asyncio.wait_for(store.outbox.append([Page(LANE, "webhook", records(1), NOW)]), 5)


# ── many at once ─────────────────────────────────────────────────────────────────────────────────


async def race(stores: list[SqlStore], entries: int) -> Counter[str]:
    """All claim until nothing is left; how often each entry was handed out."""
    first = stores[0]
    lane = await first.lanes.ensure("acme", "klaviyo", "event")
    await first.outbox.append([Page(lane, "webhook", records(entries), NOW)])
    fence = await first.leases.acquire("store", "one", now=NOW, ttl=60_000)
    assert isinstance(fence, Fence)
    handed: Counter[str] = Counter()

    async def claim_all(store: SqlStore) -> None:
        empty = 0
        while empty < 3:
            claim = await store.outbox.claim(
                lane, fence, now=NOW, limit=7, mode=DeliveryMode.BATCH, mapping="v1"
            )
            if claim is None:
                empty += 1
                continue
            assert len(claim.entries) <= 7
            handed.update(entry.unique_id for entry in claim.entries)

    await asyncio.gather(*(claim_all(store) for store in stores))
    return handed


async def test_eight_claimers_on_postgresql_get_each_entry_once(
    on_postgres: SqlStore, postgres_url: str
) -> None:
    stores = [on_postgres, *[await open_store(postgres_url) for _ in range(7)]]
    try:
        handed = await race(stores, 400)
    finally:
        for store in stores[1:]:
            await store.aclose()
    assert set(handed.values()) == {1}
    assert len(handed) == 400


async def test_eight_claimers_on_sqlite_get_each_entry_once(store: SqlStore) -> None:
    handed = await race([store] * 8, 400)
    assert set(handed.values()) == {1}
    assert len(handed) == 400


async def test_no_one_can_take_a_lease_while_its_holder_claims(
    on_postgres: SqlStore, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the entries would be claimed after the other has recovered what was claimed."""
    as_given = leases.LeaseStatements(time=lambda dialect, now: now)
    monkeypatch.setattr(leases, "_STATEMENTS", as_given)
    fence = await on_postgres.leases.acquire("store", "one", now=NOW, ttl=1_000)
    assert isinstance(fence, Fence)
    claims, done = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def claiming(c: Connection) -> None:
        from sqlalchemy.util import await_only

        leases.require_lease(c, fence, NOW)
        loop.call_soon(claims.set)
        await_only(done.wait())

    holder = asyncio.create_task(on_postgres.database.write(claiming))
    await claims.wait()
    later = Millis(NOW + 2_000)
    other = asyncio.create_task(on_postgres.leases.acquire("store", "two", now=later, ttl=1_000))
    watch = await open_store(postgres_url)
    try:
        waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
        for _ in range(500):
            if other.done() or await watch.database.read(lambda c: c.execute(waiting).scalar_one()):
                break
            await asyncio.sleep(0.01)
        assert not other.done()
        done.set()
        await holder
        assert isinstance(await other, Fence)
    finally:
        done.set()
        await watch.aclose()


async def test_a_database_that_rejects_us_is_an_unavailable_store(
    postgres_url: str,
) -> None:
    from sqlalchemy.engine import make_url

    wrong = make_url(postgres_url).set(database="no_such_database")
    database = open_database(wrong.render_as_string(hide_password=False))
    try:
        with pytest.raises(StoreError) as caught:
            await database.read(lambda c: c.execute(text("SELECT 1")).scalar_one())
        assert caught.value.problem == Problem.STORE_UNAVAILABLE
    finally:
        await database.aclose()
