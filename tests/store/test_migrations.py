"""The schema's versions: a migrated store equals a fresh one, and an old one is kept."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from sqlalchemy import Connection, inspect, text

from connector.domain.errors import Problem, StoreError
from connector.store import schema
from connector.store.admin import integrity
from connector.store.tables import metadata

pytestmark = pytest.mark.usefixtures("migrations")
OLDER = "0000_older"


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/s.db"


def shape(c: Connection) -> dict[str, Any]:
    """Everything that the engine reports about the tables, in a form that compares."""
    look = inspect(c)
    return {
        table: {
            "columns": [
                (x["name"], str(x["type"]), x["nullable"], x.get("autoincrement"))
                for x in look.get_columns(table)
            ],
            "key": look.get_pk_constraint(table)["constrained_columns"],
            "unique": look.get_unique_constraints(table),
            "foreign": look.get_foreign_keys(table),
            "indexes": sorted(
                (
                    str(x["name"]),
                    x["column_names"],
                    bool(x["unique"]),
                    sorted((k, str(v)) for k, v in x.get("dialect_options", {}).items()),
                )
                for x in look.get_indexes(table)
            ),
        }
        for table in sorted(look.get_table_names())
        if table != "alembic_version"
    }


def stamp(url: str, revision: str) -> None:
    def work(c: Connection) -> None:
        c.execute(text("UPDATE alembic_version SET version_num = :v"), {"v": revision})
        c.commit()

    schema.with_connection(url, work)


@pytest.fixture
def with_an_older_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A history in which the shipped one comes after a revision of ours that makes nothing."""
    copy = tmp_path / "migrations"
    shutil.copytree(schema.MIGRATIONS, copy)
    versions = copy / "versions"
    root = "down_revision = None"
    [first] = [file for file in versions.glob("*.py") if root in file.read_text()]
    first.write_text(first.read_text().replace(root, f"down_revision = {OLDER!r}"))
    (versions / "0000_older.py").write_text(
        f"revision = {OLDER!r}\n{root}\nbranch_labels = None\ndepends_on = None\n\n\n"
        "def upgrade():\n    pass\n"
    )
    monkeypatch.setattr(schema, "MIGRATIONS", copy)


def compare_with_a_fresh_one(url: str) -> None:
    def migrated(c: Connection) -> dict[str, Any]:
        return shape(c)

    def fresh(c: Connection) -> dict[str, Any]:
        for table in inspect(c).get_table_names():
            c.execute(text(f'DROP TABLE "{table}"'))
        metadata.create_all(c)
        found = shape(c)
        c.rollback()
        return found

    schema.prepare(url, "auto")
    after = schema.with_connection(url, migrated)
    assert set(after) == set(metadata.tables)
    other = url if url.startswith("postgresql") else url.replace("s.db", "fresh.db")
    assert after == schema.with_connection(other, fresh, create=True)


def test_a_migrated_sqlite_store_equals_a_fresh_one(url: str) -> None:
    compare_with_a_fresh_one(url)


def test_a_migrated_postgresql_store_equals_a_fresh_one(postgres_url: str) -> None:
    compare_with_a_fresh_one(postgres_url)


def test_a_current_store_is_not_changed(url: str, tmp_path: Path) -> None:
    assert schema.prepare(url, "auto") is None
    assert schema.prepare(url, "auto") is None
    assert schema.prepare(url, "manual") is None
    assert [f.name for f in tmp_path.iterdir() if "before" in f.name] == []
    assert integrity.check(url) == []


def test_a_new_store_is_created_even_with_manual_migrations(url: str) -> None:
    assert schema.prepare(url, "manual") is None
    assert integrity.check(url) == []


def an_older_store(path: Path) -> None:
    """A file as the older revision left it, with something in it."""
    with closing(sqlite3.connect(path)) as file:
        file.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
        file.execute("INSERT INTO alembic_version VALUES (?)", (OLDER,))
        file.execute("CREATE TABLE kept (word TEXT)")
        file.execute("INSERT INTO kept VALUES ('before')")
        file.commit()


@pytest.mark.usefixtures("with_an_older_revision")
def test_an_older_store_is_copied_before_it_is_upgraded(url: str, tmp_path: Path) -> None:
    an_older_store(tmp_path / "s.db")
    copy = schema.prepare(url, "auto")
    assert copy is not None
    assert OLDER in copy
    with closing(sqlite3.connect(copy)) as old:
        assert old.execute("SELECT word FROM kept").fetchall() == [("before",)]
        assert old.execute("SELECT version_num FROM alembic_version").fetchall() == [(OLDER,)]
        tables = {name for (name,) in old.execute("SELECT name FROM sqlite_master")}
        assert "outbox" not in tables
    assert integrity.check(url) == []
    with closing(sqlite3.connect(tmp_path / "s.db")) as new:
        assert new.execute("SELECT word FROM kept").fetchall() == [("before",)]


@pytest.mark.usefixtures("with_an_older_revision")
def test_with_manual_migrations_the_command_is_named(url: str, tmp_path: Path) -> None:
    an_older_store(tmp_path / "s.db")
    with pytest.raises(StoreError, match="connector store upgrade") as caught:
        schema.prepare(url, "manual")
    assert caught.value.problem == Problem.STORE_SCHEMA
    assert OLDER in caught.value.detail
    assert not list(tmp_path.glob("*before-upgrade*"))
    [fault] = integrity.check(url)
    assert OLDER in fault


def test_a_store_of_a_newer_version_is_refused_with_its_version(url: str) -> None:
    schema.prepare(url, "auto")
    stamp(url, "9999_from_the_future")
    for migrate in ("auto", "manual"):
        with pytest.raises(StoreError, match="9999_from_the_future") as caught:
            schema.prepare(url, migrate)  # type: ignore[arg-type]
        assert caught.value.problem == Problem.STORE_SCHEMA
    assert "9999_from_the_future" in integrity.check(url)[0]


def test_a_migration_that_fails_leaves_the_store_as_it_was(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(command, "upgrade", fail)
    with pytest.raises(StoreError) as caught:
        schema.prepare(url, "auto")
    assert caught.value.problem == Problem.STORE_UNAVAILABLE
    monkeypatch.undo()
    assert schema.prepare(url, "auto") is None
    assert integrity.check(url) == []


def test_the_newest_revision_is_the_one_that_stores_are_compared_with() -> None:
    assert schema.scripts().get_current_head() == schema.HEAD
