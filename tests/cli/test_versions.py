"""Commands on a store whose schema is newer than this version, or older."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from connector.store import schema
from tests.store.releases import NEXT, OVERHAUL, release

from .conftest import Call, Folder

READ = ["status", "explain acme ana@example.com", "dead-letters list", "store check"]


def become(folder: Folder, revision: str) -> None:
    """The store is of that revision."""
    with closing(sqlite3.connect(folder.store)) as store:
        store.execute("UPDATE alembic_version SET version_num = ?", (revision,))
        store.commit()


@pytest.fixture
def newer(folder: Folder, tmp_path: Path) -> Folder:
    """A store that a newer version with additions has migrated."""
    folder.ingest("ana@example.com")
    with release(tmp_path, NEXT):
        schema.prepare(f"sqlite:///{folder.store}", "auto")
    return folder


def test_commands_work_on_a_newer_store_that_this_version_works_with(
    call: Call, newer: Folder
) -> None:
    for words in READ:
        result = call(*words.split(), at=newer)
        assert result.code == 0, result
    checked = call("check", "--offline")
    assert "S30" not in checked.out + checked.err
    upgraded = call("store", "upgrade")
    detail = "the store is at revision 0003_since_0001, newer than 0001 of this version\n"
    assert (upgraded.code, upgraded.out) == (0, detail)


@pytest.mark.parametrize("words", [*READ, "check --offline", "store upgrade", "run"])
def test_commands_refuse_a_newer_store_that_this_version_does_not_work_with(
    call: Call, newer: Folder, words: str
) -> None:
    become(newer, [*OVERHAUL][-1])
    result = call(*words.split(), at=newer)
    assert result.code == (1 if "check" in words else 2), result
    assert "S30" in result.out + result.err
    assert (
        "the store is at revision 0004_since_0004, with which this version (0001) does not work"
        in result.out + result.err
    )


@pytest.mark.parametrize(
    ("migrate", "words", "code"),
    [
        ("auto", "check --offline", 0),
        ("manual", "check --offline", 1),
        ("manual", "run", 2),
        ("auto", "status", 2),
    ],
)
def test_the_command_that_upgrades_an_older_store_is_named(
    call: Call, newer: Folder, tmp_path: Path, migrate: str, words: str, code: int
) -> None:
    text = newer.config.read_text()
    newer.config.write_text(text.replace("[store]\n", f'[store]\nmigrate = "{migrate}"\n'))
    with release(tmp_path, OVERHAUL):
        result = call(*words.split(), at=newer)
    assert result.code == code, result
    detail = "the store is at revision 0003_since_0001, this version needs 0004_since_0004"
    assert f"{detail}: run `connector store upgrade`" in result.out + result.err
