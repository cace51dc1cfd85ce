"""The file of a store: who may read it, whether it is still there, and who may create it."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import stat
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import inspect
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import create_async_engine

from connector.domain.errors import Problem, StoreError, StoreLocked, StoreOutage
from connector.domain.lanes import Millis
from connector.domain.records import Appended, Page, Record
from connector.store import file_users, schema
from connector.store.admin import integrity
from connector.store.sql import SqlStore, open_store

pytestmark = pytest.mark.usefixtures("migrations")
NOW = Millis(1_790_000_000_000)


@pytest.fixture
def umask_of_a_shell() -> AsyncIterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "state" / "s.db"


@pytest.fixture
async def store(file: Path, umask_of_a_shell: None) -> AsyncIterator[SqlStore]:
    made = await open_store(f"sqlite:///{file}")
    await append(made, "first")
    yield made
    await made.aclose()


async def append(store: SqlStore, key: str) -> Appended:
    lane = await store.lanes.ensure("acme", "klaviyo", "event")
    record = Record(key, f"t:{key}", "Added", NOW, b"{}", key, f"{key}@example.com")
    [result] = await store.outbox.append([Page(lane, "webhook", [record], NOW)])
    return result


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def size(path: Path) -> int:
    return path.stat().st_size


# ── who may read it ───────────────────────────────────────────────────────────────────────────────


async def test_the_store_and_the_files_beside_it_are_readable_by_their_owner_only(
    store: SqlStore, file: Path
) -> None:
    assert {path.name for path in file.parent.iterdir()} == {"s.db", "s.db-wal", "s.db-shm"}
    assert {mode(path) for path in file.parent.iterdir()} == {0o600}
    assert mode(file.parent) == 0o700


async def test_a_store_that_others_may_read_is_restricted_when_it_is_opened(
    store: SqlStore, file: Path
) -> None:
    await store.aclose()
    copy = file.with_name("s.db.before-upgrade-from-0")
    shutil.copy(file, copy)
    for path, readable in ((file, 0o644), (copy, 0o644), (file.parent, 0o755)):
        os.chmod(path, readable)
    again = await open_store(f"sqlite:///{file}", migrate="manual")
    await again.aclose()
    assert (mode(file), mode(copy), mode(file.parent)) == (0o600, 0o600, 0o700)


async def test_a_folder_that_holds_other_files_keeps_its_mode(store: SqlStore, file: Path) -> None:
    await store.aclose()
    shutil.copy(file, file.parent / "connector.toml")
    os.chmod(file.parent, 0o755)
    again = await open_store(f"sqlite:///{file}")
    await again.aclose()
    assert mode(file.parent) == 0o755


def test_the_copy_before_an_upgrade_is_readable_by_its_owner_only(
    file: Path, umask_of_a_shell: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema.prepare(f"sqlite:///{file}", "auto")
    monkeypatch.setattr(schema, "HEAD", "9999")
    copy = schema.prepare(f"sqlite:///{file}", "auto")
    assert copy
    assert mode(Path(copy)) == 0o600


# ── who may create it ─────────────────────────────────────────────────────────────────────────────


async def test_opening_without_create_leaves_no_file(file: Path) -> None:
    with pytest.raises(StoreError, match=r"there is no store at .*s\.db: `connector run` creates"):
        await open_store(f"sqlite:///{file}", migrate="manual", create=False)
    [line] = integrity.check(f"sqlite:///{file}")
    assert "there is no store" in line
    assert not file.parent.exists()


async def test_opening_a_database_without_tables_creates_none(postgres_url: str) -> None:
    url = make_url(postgres_url)
    server = create_async_engine(
        url.set(drivername="postgresql+asyncpg"), isolation_level="AUTOCOMMIT"
    )
    async with server.connect() as connection:
        await connection.exec_driver_sql("CREATE DATABASE without_tables")
    await server.dispose()
    empty = url.set(database="without_tables").render_as_string(hide_password=False)
    with pytest.raises(StoreError, match="no tables of the connector yet"):
        await open_store(empty, create=False)
    assert (
        await asyncio.to_thread(
            schema.with_connection, empty, lambda c: inspect(c).get_table_names()
        )
        == []
    )


async def test_no_store_is_created_beside_the_log_of_a_missing_one(
    store: SqlStore, file: Path
) -> None:
    deleted(file)
    with pytest.raises(StoreError, match="belongs to a store whose file"):
        await open_store(f"sqlite:///{file}")
    file.with_suffix(".aside").rename(file)
    replaced_by_an_empty_file(file)
    for create in (True, False):
        with pytest.raises(StoreError, match="belongs to a store whose file"):
            await open_store(f"sqlite:///{file}", create=create)


# ── whether it is still the one that was opened ───────────────────────────────────────────────────


def deleted(file: Path) -> None:
    file.rename(file.with_suffix(".aside"))


def replaced_by_an_empty_file(file: Path) -> None:
    deleted(file)
    file.touch()


def replaced_by_a_copy(file: Path) -> None:
    deleted(file)
    shutil.copy(file.with_suffix(".aside"), file)


@pytest.mark.parametrize("name", ["s.db", "s.db-wal"])
@pytest.mark.parametrize("plant", [deleted, replaced_by_an_empty_file, replaced_by_a_copy])
async def test_nothing_is_acknowledged_while_a_file_is_not_the_one_that_was_opened(
    store: SqlStore, file: Path, name: str, plant: Callable[[Path], None]
) -> None:
    file = file.with_name(name)
    plant(file)
    with pytest.raises(StoreOutage, match="move the same file back") as caught:
        await append(store, "second")
    assert caught.value.problem is Problem.STORE_REPLACED
    assert str(file) in caught.value.detail
    fault = store.maintenance.fault()
    assert fault
    assert fault.detail == caught.value.detail
    file.with_suffix(".aside").rename(file)
    assert store.maintenance.fault() is None
    assert (await append(store, "second")).accepted == 1


async def test_a_stop_saves_what_was_in_a_deleted_log(store: SqlStore, file: Path) -> None:
    deleted(file.with_name("s.db-wal"))
    assert store.maintenance.fault()
    await store.aclose()
    again = await open_store(f"sqlite:///{file}")
    assert (await append(again, "first")).duplicates == 1
    await again.aclose()


async def test_a_commit_during_which_the_file_is_deleted_is_not_acknowledged(
    store: SqlStore, file: Path
) -> None:
    with pytest.raises(StoreOutage):
        await store.database.write(lambda c: deleted(file))


async def test_no_connection_is_opened_to_another_file(store: SqlStore, file: Path) -> None:
    store.database.engine.pool.dispose()  # what is in use is returned to it
    replaced_by_a_copy(file)
    with pytest.raises(StoreOutage):
        await store.lanes.all()


async def test_a_file_that_is_replaced_while_it_is_opened_is_not_written_to(
    store: SqlStore, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.database.engine.pool.dispose()  # what is in use is returned to it
    opened = sqlite3.connect

    def replaced_just_before(*args: Any, **options: Any) -> sqlite3.Connection:
        replaced_by_an_empty_file(file)
        monkeypatch.undo()
        return opened(*args, **options)

    monkeypatch.setattr(sqlite3, "connect", replaced_just_before)
    with pytest.raises(StoreOutage):
        await store.lanes.all()
    assert size(file) == 0


# ── a lock of another program ─────────────────────────────────────────────────────────────────────


_HOLD = """
import pathlib, sqlite3, sys
pathlib.Path("/proc/self/comm").write_bytes(sys.argv[2].encode("latin-1"))
other = sqlite3.connect(sys.argv[1], isolation_level=None)
other.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize(
    ("name", "shown"), [("backup", "backup"), ("donn\xe9", "donn\ufffd"), ("a\x1b[2J", "a\\x1b[2J")]
)
async def test_the_program_that_has_locked_the_file_is_named_whatever_its_name(
    store: SqlStore, file: Path, name: str, shown: str
) -> None:
    pipe = asyncio.subprocess.PIPE
    command = (sys.executable, "-c", _HOLD, str(file), name)
    other = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
    assert other.stdin
    assert other.stdout
    await other.stdout.readline()
    assert await asyncio.to_thread(store.database.locked_by) == f"process {other.pid} ({shown})"
    with pytest.raises(StoreLocked, match=f"process {other.pid} "):
        await append(store, "k")
    other.stdin.close()
    await other.wait()
    await append(store, "k")


_EXCLUSIVE = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("PRAGMA locking_mode = EXCLUSIVE")
database.execute("BEGIN IMMEDIATE")
print(flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="only Linux says who has a lock")
async def test_a_program_that_keeps_the_file_for_itself_is_named(
    store: SqlStore, file: Path
) -> None:
    """It shares no index of the log, so that there is no -shm file."""
    await store.aclose()
    pipe = asyncio.subprocess.PIPE
    command = (sys.executable, "-c", _EXCLUSIVE, str(file))
    other = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
    assert other.stdin
    assert other.stdout
    await other.stdout.readline()
    assert not file.with_name(f"{file.name}-shm").exists()
    assert file_users.locking(file).startswith(f"process {other.pid} ")
    other.stdin.close()
    await other.wait()
    assert file_users.locking(file) == "another program"


async def test_a_lock_of_another_program_fails_all_that_waits_at_once_and_reads_continue(
    store: SqlStore, file: Path
) -> None:
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        results = await asyncio.gather(
            *(append(store, f"k{n}") for n in range(50)), return_exceptions=True
        )
        assert {type(result) for result in results} == {StoreLocked}
        assert f"another program has locked its file {file}" in str(results[0])
        assert [lane.connection for lane, _ in await store.lanes.all()] == ["acme"]
        [waited] = await store.database.read(
            lambda c: c.exec_driver_sql("SELECT count(*) FROM outbox").one()
        )
        assert waited == 1
    assert (await append(store, "second")).accepted == 1
