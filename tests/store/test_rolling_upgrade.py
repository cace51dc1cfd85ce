"""Two versions on one store: the schemas each works with, and migrations beside processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from connector.domain.errors import Problem, StoreError, StoreInUse, StoreOutage
from connector.domain.lanes import Millis
from connector.pipeline.store_outage import until_available
from connector.ports import ProcessState
from connector.store import schema
from connector.store.admin import integrity
from connector.store.sql import SqlStore, open_store
from connector.testing.contracts.store import NOW, events, page, record
from connector.testing.fakes.clock import FakeClock
from tests.paths import ROOT
from tests.processes import Finished, run
from tests.waiting import PATIENCE

from .pooler import pooler
from .releases import COLUMN_AND_TABLE, INDEX, NEXT, OVERHAUL, release
from .test_first_start import on_server

pytestmark = pytest.mark.usefixtures("migrations")
DATABASE = "rolling"


@pytest.fixture
async def server(postgres_url: str) -> AsyncIterator[str]:
    """A PostgreSQL database without a table."""
    await on_server(postgres_url, f"CREATE DATABASE {DATABASE}")
    yield make_url(postgres_url).set(database=DATABASE).render_as_string(hide_password=False)
    await on_server(postgres_url, f"DROP DATABASE {DATABASE} WITH (FORCE)")


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database without a table, on each engine in turn."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/s.db"
    found: str = request.getfixturevalue("server")
    return found


@pytest.fixture(autouse=True)
def _short_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "STATEMENT_LIMIT", 0.2)


async def prepare(url: str, migrate: Any = "auto") -> None:
    await asyncio.to_thread(schema.prepare, url, migrate)


OPEN = """\
import asyncio, pathlib
from connector.pipeline.store_outage import until_available
from connector.runtime.clock import SystemClock
from connector.store import schema
from connector.store.sql import open_store

schema.MIGRATIONS, schema.HEAD = pathlib.Path({migrations!r}), {head!r}
schema.STATEMENT_LIMIT = {limit}
work = until_available(
    lambda: open_store({url!r}), SystemClock(), timeout={timeout}, every=0.05
)
asyncio.run(work)
"""


def process(url: str, *, timeout: float) -> Finished:
    """Open the store in a process of its own, which is of this process's version: Alembic runs once
    at a time in each. It repeats that for `timeout` seconds."""
    code = OPEN.format(
        migrations=str(schema.MIGRATIONS),
        head=schema.HEAD,
        limit=schema.STATEMENT_LIMIT,
        url=url,
        timeout=timeout,
    )
    return run([], cwd=schema.MIGRATIONS, env={"PYTHONPATH": str(ROOT)}, main=("-c", code))


async def look(url: str, work: Any) -> Any:
    return await asyncio.to_thread(schema.with_connection, url, work)


async def revision(url: str) -> str | None:
    found: str | None = await look(url, schema.revision_of)
    return found


async def check(url: str) -> list[str]:
    return await asyncio.to_thread(integrity.check, url)


async def save_report(store: SqlStore, *, age: int = 0) -> None:
    """As a process of this version does, `age` ms ago."""
    now = await store.leases.database_time() or NOW
    await store.process_reports.save(ProcessState("old/1", Millis(now - age), frozenset(), "{}"))


async def receive(store: SqlStore, id: str) -> None:
    lane = await events(store)
    await store.outbox.append([page(lane, record(id))])


@asynccontextmanager
async def session(url: str, *statements: str) -> AsyncIterator[AsyncConnection]:
    """A transaction of someone else, who has run these statements."""
    engine = create_async_engine(make_url(url).set(drivername="postgresql+asyncpg"))
    async with engine.connect() as connection:
        for statement in statements:
            await connection.execute(text(statement))
        yield connection
        await connection.rollback()
    await engine.dispose()


async def ask(url: str, query: str) -> Any:
    async with session(url) as connection:
        return await connection.scalar(text(query))


def shape(c: Connection) -> tuple[bool, bool, bool]:
    """Whether the column, the table and the index of the next release are there."""
    found = inspect(c)
    return (
        "note" in {column["name"] for column in found.get_columns("outbox")},
        found.has_table("notes"),
        "outbox_noted" in {index["name"] for index in found.get_indexes("outbox")},
    )


# ── which schema a version works with ────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("found", "head", "works"),
    [
        ("0001", "0001", True),
        ("0002_since_0001", "0001", True),
        ("0009_since_0001", "0001", True),
        ("0002_since_0002", "0001", False),
        ("0003_since_0002", "0001", False),
        ("0003_since_0002", "0002_since_0001", True),
        ("0003_since_0002", "0002_since_0002", True),
        ("0001", "0002_since_0001", False),  # it is older: migrated
        ("0002_since_0001", "0002_since_0002", False),  # not the same history
        (None, "0001", False),
        ("9999_from_the_future", "0001", False),
        ("0005_memberships", "0001", False),
        ("0002_since_0001x", "0001", False),
    ],
)
def test_a_version_works_with_newer_schemas_that_say_so(
    monkeypatch: pytest.MonkeyPatch, found: str | None, head: str, works: bool
) -> None:
    monkeypatch.setattr(schema, "HEAD", head)
    assert schema.works_with(found) is works


async def test_an_older_version_works_on_a_schema_with_additions(url: str, tmp_path: Path) -> None:
    await prepare(url)
    with release(tmp_path, NEXT):
        await prepare(url)
        assert await check(url) == []
    assert await look(url, shape) == (True, True, True)
    for migrate in ("auto", "manual"):
        await prepare(url, migrate)
    assert await check(url) == []
    assert await revision(url) == "0003_since_0001"
    store = await open_store(url, migrate="manual", create=False)
    await receive(store, "by the older version")
    await store.aclose()
    assert await check(url) == []


async def test_an_older_version_refuses_a_schema_that_it_does_not_work_with(
    url: str, tmp_path: Path
) -> None:
    await prepare(url)
    with release(tmp_path, OVERHAUL):
        await prepare(url)
        assert await check(url) == []
    detail = "revision 0004_since_0004, with which this version (0001) does not work"
    for migrate in ("auto", "manual"):
        with pytest.raises(StoreError) as caught:
            await prepare(url, migrate)
        assert caught.value.problem is Problem.STORE_SCHEMA
        assert detail in caught.value.detail
    [fault] = await check(url)
    assert fault.startswith("S30: ")
    assert detail in fault


async def test_with_manual_migrations_the_command_is_named(url: str, tmp_path: Path) -> None:
    await prepare(url)
    with release(tmp_path, NEXT):
        with pytest.raises(StoreError, match="0003_since_0001: run `connector store upgrade`"):
            await prepare(url, "manual")
        [fault] = await check(url)
        assert fault.startswith("S30: ")
        assert "run `connector store upgrade`" in fault


# ── beside running processes ─────────────────────────────────────────────────────────────────────


async def test_a_migration_with_additions_runs_beside_an_older_process(
    server: str, tmp_path: Path
) -> None:
    store = await open_store(server)
    await save_report(store)
    await receive(store, "before")
    with release(tmp_path, NEXT):
        await prepare(server)
    await receive(store, "after")
    await store.aclose()
    assert await check(server) == []  # what the triggers count


async def test_of_replicas_that_start_at_once_one_migrates_and_all_open_the_store(
    server: str, tmp_path: Path
) -> None:
    await prepare(server)
    with release(tmp_path, NEXT):
        ended = await asyncio.gather(
            *(asyncio.to_thread(process, server, timeout=PATIENCE) for _ in range(3))
        )
        assert [each.returncode for each in ended] == [0] * 3, ended
        assert await check(server) == []
    assert await revision(server) == "0003_since_0001"
    assert await look(server, shape) == (True, True, True)


async def test_a_migration_waits_until_processes_that_it_would_break_have_ended(
    server: str, tmp_path: Path
) -> None:
    store = await open_store(server)
    await save_report(store)
    with release(tmp_path, OVERHAUL), pytest.raises(StoreInUse, match=r"\(old/1\)") as caught:
        await prepare(server)
    assert caught.value.problem is Problem.STORE_SCHEMA
    assert await revision(server) == "0001"
    await receive(store, "meanwhile")

    class Clock(FakeClock):
        async def sleep(self, seconds: float) -> None:
            await save_report(store, age=16_000)

    with release(tmp_path, OVERHAUL):
        opened = await until_available(lambda: open_store(server), Clock())
        await opened.aclose()
    assert await revision(server) == "0004_since_0004"
    await store.aclose()


async def test_a_migration_waits_for_the_version_before_the_last(
    server: str, tmp_path: Path
) -> None:
    """Versions of 0001 work with 0002, and those of 0002 with 0003."""
    store = await open_store(server)
    await save_report(store)
    two = {"0002_since_0001": COLUMN_AND_TABLE}
    with release(tmp_path, two):
        await prepare(server)
    with release(tmp_path, {**two, "0003_since_0002": INDEX}):
        with pytest.raises(StoreInUse):
            await prepare(server)
        await save_report(store, age=16_000)
        await prepare(server)
    await store.aclose()


async def test_a_table_that_another_session_has_locked_delays_no_one_else(
    server: str, tmp_path: Path
) -> None:
    store = await open_store(server)
    waits = list[float]()
    async with session(server, "SELECT count(*) FROM outbox") as other:

        class Clock(FakeClock):
            async def sleep(self, seconds: float) -> None:
                waits.append(seconds)
                # It would wait for the migration, which would wait for the session.
                await receive(store, f"after {sum(waits)} s")
                if sum(waits) >= 30:
                    await other.rollback()

        with release(tmp_path, NEXT):
            opened = await until_available(lambda: open_store(server), Clock(), every=5.0)
            await opened.aclose()
    assert waits == [5.0] * 6
    assert await look(server, shape) == (True, True, True)
    await store.aclose()


async def test_a_migration_waits_for_no_table_but_its_own(server: str, tmp_path: Path) -> None:
    await prepare(server)
    # Their triggers stay, which count what the session has written.
    async with session(server, "UPDATE profiles SET lane = lane", "UPDATE counts SET rows = rows"):
        with release(tmp_path, NEXT):
            await prepare(server)
    assert await look(server, shape) == (True, True, True)


async def test_the_lock_that_a_migration_did_not_get_is_named(server: str, tmp_path: Path) -> None:
    await prepare(server)
    async with session(server, "SELECT count(*) FROM outbox"):
        with release(tmp_path, NEXT), pytest.raises(StoreOutage, match="another session") as caught:
            await prepare(server)
    assert caught.value.problem is Problem.STORE_UNAVAILABLE
    assert "after revision 0001" in caught.value.detail


# ── killed half way ──────────────────────────────────────────────────────────────────────────────

KILLED = '    op.execute("SELECT pg_terminate_backend(pg_backend_pid())")\n'


async def test_a_migration_that_is_killed_leaves_the_schema_as_it_was(
    server: str, tmp_path: Path
) -> None:
    store = await open_store(server)
    with release(tmp_path, {"0002_since_0001": COLUMN_AND_TABLE + KILLED}):
        with pytest.raises(StoreError) as caught:
            await prepare(server)
        assert caught.value.problem is Problem.STORE_UNAVAILABLE
    assert await revision(server) == "0001"
    assert await look(server, shape) == (False, False, False)
    await receive(store, "meanwhile")
    await store.aclose()
    with release(tmp_path, NEXT):
        await prepare(server)
    assert await look(server, shape) == (True, True, True)


CREATING = "FROM pg_stat_activity WHERE query LIKE 'CREATE INDEX CONCURRENTLY%'"
VALID = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('outbox_noted')"


async def test_an_index_whose_creation_was_killed_is_created_again(
    server: str, tmp_path: Path
) -> None:
    store = await open_store(server)
    with release(tmp_path, {"0002_since_0001": COLUMN_AND_TABLE}):
        await prepare(server)
    # The index waits for this one, which wrote to the table.
    async with session(server, "UPDATE outbox SET name = name"):
        with release(tmp_path, NEXT):
            killed = asyncio.create_task(prepare(server))

            async with asyncio.timeout(PATIENCE):
                while not await ask(server, f"SELECT count(*) {CREATING}"):
                    pass
            await receive(store, "meanwhile")
            # Another one finds that and changes nothing.
            another = await asyncio.to_thread(process, server, timeout=0.0)
            assert "S10: the migration after revision 0002_since_0001 was not" in another.stderr
            assert await ask(server, VALID) is False
            await ask(server, f"SELECT pg_terminate_backend(pid) {CREATING}")
            with pytest.raises(StoreError):
                await killed
    assert await ask(server, VALID) is False
    assert await revision(server) == "0002_since_0001"
    with release(tmp_path, NEXT):
        await prepare(server)
    assert await ask(server, VALID) is True
    assert await revision(server) == "0003_since_0001"
    await store.aclose()


async def test_a_process_that_was_overtaken_while_it_created_an_index_continues(
    server: str, tmp_path: Path
) -> None:
    await prepare(server)
    overtaken = INDEX + (
        "    c = op.get_bind()\n"
        "    c.execute(sa.text(\"UPDATE alembic_version SET version_num = '0003_since_0001'\"))\n"
        "    c.commit()\n"
    )
    with release(tmp_path, {**NEXT, "0003_since_0001": overtaken, "0004_since_0001": "    pass\n"}):
        await prepare(server)
    assert await revision(server) == "0004_since_0001"


# ── behind a pooler ──────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def pooled(tmp_path: Path, server: str) -> Iterator[str]:
    with pooler(tmp_path, server) as found:
        yield found.url


async def test_a_migration_runs_behind_a_pooler(pooled: str, tmp_path: Path) -> None:
    await prepare(pooled)
    with release(tmp_path, NEXT):
        await prepare(pooled)
        assert await check(pooled) == []
    assert await look(pooled, shape) == (True, True, True)
