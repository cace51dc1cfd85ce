"""`connector store`, and what commands do where there is no store."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import insert

from connector.app.configuration import read_config
from connector.app.daemon import App
from connector.domain.actions import Step
from connector.domain.errors import StoreError
from connector.store import schema
from connector.store.admin import integrity
from connector.store.sqlite_file import damaged
from connector.store.tables import actions

from .conftest import Call, Folder

READ_ONLY = [
    "status",
    "status --json",
    "explain acme ana@example.com",
    "dead-letters list",
    "dead-letters show 1",
    "actions list",
    "approvals list",
    "audiences list",
    "segments list",
    "store check",
    "store backup copy.db",
    "check --offline",
    "support-bundle bundle.zip",
]


@pytest.mark.parametrize("words", [*READ_ONLY, "pause acme", "dead-letters retry --all", "reload"])
def test_a_command_creates_no_store_and_says_that_there_is_none(
    call: Call, folder: Folder, words: str
) -> None:
    result = call(*words.split(), at=folder)
    assert not folder.store.parent.exists()
    if words.startswith(("check", "support-bundle")):
        return
    assert result.code == 1
    assert "there is no store at" in result.out + result.err
    assert "`connector run` creates it" in result.out + result.err


def test_what_the_program_writes_is_readable_by_its_owner_only(call: Call, folder: Folder) -> None:
    folder.ingest("ana@example.com")
    for command in (["store", "backup", "copy.db"], ["support-bundle", "bundle.zip"]):
        assert call(*command, at=folder).code == 0
    written = [*folder.store.parent.iterdir(), folder.path / "copy.db", folder.path / "bundle.zip"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in written} == {0o600}
    assert stat.S_IMODE(folder.store.parent.stat().st_mode) == 0o700


# ── restore ──────────────────────────────────────────────────────────────────────────────────────


def damage(file: Path) -> None:
    with closing(sqlite3.connect(file)) as store:
        store.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        page = store.execute("PRAGMA page_size").fetchone()[0]
        [root] = store.execute("SELECT rootpage FROM sqlite_master WHERE name = 'outbox'")
    with file.open("r+b") as raw:
        raw.seek((root[0] - 1) * page)
        raw.write(b"\xff" * 64)


def noted(file: Path) -> list[tuple[str]]:
    """The keys of the notices that were sent, as far as the store knows."""
    with closing(sqlite3.connect(file)) as store:
        return store.execute("SELECT key FROM notifications").fetchall()


def test_a_damaged_store_is_replaced_by_its_backup_and_kept(call: Call, folder: Folder) -> None:
    folder.config.write_text(
        folder.config.read_text() + '\n[[notify]]\nurl = "https://h.example"\n'
    )
    folder.ingest("ana@example.com")
    assert call("store", "backup", "copy.db", at=folder).code == 0
    assert call("store", "restore", "copy.db", "--yes").code == 0
    assert noted(folder.store) == []
    for kept in folder.store.parent.glob("cli.db.replaced-*"):
        kept.unlink()
    damage(folder.store)
    checked = call("store", "check")
    assert checked.code == 1
    assert "connector store restore" in checked.out
    refused = call("store", "restore", "copy.db")
    assert refused.code == 1
    assert "Replace the store by copy.db?" in refused.err
    restored = call("store", "restore", "copy.db", "--yes")
    assert (restored.code, restored.err) == (0, "")
    assert "integrity checked" in restored.out
    assert call("store", "check").out == "the store is ok\n"
    assert noted(folder.store) == [("store",)]
    [kept] = folder.store.parent.glob("cli.db.replaced-*")
    assert str(kept.name) in restored.out
    assert integrity.check(f"sqlite:///{kept}") != []
    assert stat.S_IMODE(folder.store.stat().st_mode) == 0o600
    assert call("explain", "acme", "ana@example.com").code == 0


async def test_damage_that_only_the_daemon_has_met_shows_in_the_status(
    call: Call, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever reads other pages finds nothing wrong, and no daemon that asks for a password says
    more to the command line."""
    app = App(read_config(folder.config))
    await app.start(serve=False)
    try:
        fault = damaged(folder.store, "a page is malformed")
        monkeypatch.setattr(app.store.maintenance, "fault", lambda: fault)
        with pytest.raises(StoreError):
            await app.maintenance.heartbeat(app.health, app.config.store)
        shown = await asyncio.to_thread(call, "status", at=folder)
    finally:
        await app.stop()
    assert shown.out.startswith("1 thing needs you")
    assert f"S50 {folder.store} is damaged (a page is malformed)" in " ".join(shown.out.split())


def test_a_store_in_use_is_not_replaced(call: Call, folder: Folder) -> None:
    folder.start()
    assert call("store", "backup", "copy.db", at=folder).code == 0
    refused = call("store", "restore", "copy.db", "--yes")
    assert refused.code == 1
    assert "stop the daemon first" in refused.err
    assert folder.request("GET", "/readyz")[0] == 200


def test_a_damaged_or_missing_backup_changes_nothing(call: Call, folder: Folder) -> None:
    folder.ingest("ana@example.com")
    assert call("store", "backup", "copy.db", at=folder).code == 0
    damage(folder.path / "copy.db")
    for file, code in (("copy.db", 1), ("missing.db", 2), ("connector.toml", 1)):
        refused = call("store", "restore", file, "--yes")
        assert refused.code == code, refused
        assert file in refused.err
    assert [path.name for path in folder.store.parent.iterdir()] == ["cli.db"]
    assert call("explain", "acme", "ana@example.com").code == 0


def test_an_action_that_waits_in_the_backup_is_looked_up_before_it_is_sent(
    call: Call, folder: Folder
) -> None:
    """It may have been sent after the backup was made (guarantee 4)."""
    folder.ingest("ana@example.com")
    names = {"origin": "flow", "route": "r", "name": "increase", "ref": "lc0", "data": b"{}"}
    digests = {"digest": b"1", "content": b"2", "person_key": b"3"}
    waiting = names | digests | {"lane": 1, "received_at": 1, "counted_at": 1}
    waiting |= {"amount": 5, "due": 0}
    schema.with_connection(
        f"sqlite:///{folder.store}", lambda c: c.execute(insert(actions).values(waiting)).rowcount
    )
    assert call("store", "backup", "copy.db", at=folder).code == 0
    restored = call("store", "restore", "copy.db", "--yes")
    assert "1 waiting action is looked up before being sent" in restored.out
    with closing(sqlite3.connect(folder.store)) as store:
        [(step, sent_at)] = store.execute("SELECT step, sent_at FROM actions")
    assert step == Step.LOOK_UP
    assert sent_at is not None


def test_a_file_with_its_log_that_was_rescued_from_a_daemon_can_be_restored(
    call: Call, folder: Folder
) -> None:
    folder.ingest("ana@example.com")
    with closing(sqlite3.connect(folder.store)) as store:
        store.execute("UPDATE outbox SET name = 'in the log'")
        store.commit()
        for suffix in ("", "-wal"):
            shutil.copy(f"{folder.store}{suffix}", folder.path / f"rescued.db{suffix}")
    assert call("store", "restore", "rescued.db", "--yes", at=folder).code == 0
    with closing(sqlite3.connect(folder.store)) as store:
        assert store.execute("SELECT name FROM outbox").fetchall() == [("in the log",)]


# ── check ────────────────────────────────────────────────────────────────────────────────────────


def test_check_warns_of_files_that_others_may_read_and_of_short_secrets(
    call: Call, folder: Folder
) -> None:
    folder.ingest("ana@example.com")
    text = folder.config.read_text()
    folder.config.write_text(text.replace("jeri_webhook_secret", "${HOOK}"))
    env = folder.path / ".env"
    env.write_text("HOOK=short\n")
    env.chmod(0o644)
    checked = call("check", "--offline", at=folder)
    assert f"warning {env}: other users may read it; chmod 600 {env}" in checked.out
    short = "warning connections.acme.settings.webhook_secret: shorter than 16 characters"
    assert short in checked.out
    assert "warning acme" not in checked.out
    env.write_text("HOOK=long-enough-for-anyone\n")
    env.chmod(0o600)
    checked = call("check", "--offline")
    assert "chmod" not in checked.out
    assert "shorter" not in checked.out
