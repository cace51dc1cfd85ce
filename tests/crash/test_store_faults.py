"""Faults of the store under a real daemon: nothing is acknowledged that is not kept, readiness
answers the same as intake, and the words name the file and what to do."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from connector.sandbox import Traffic
from tests.processes import Finished, run
from tests.stores import write_lock
from tests.waiting import until

from .conftest import ENVIRONMENT, Daemon, Platforms


def store_of(daemon: Daemon) -> Path:
    return daemon.folder / "state" / "crash.db"


def post_new(daemon: Daemon, traffic: Traffic) -> tuple[int, str]:
    """(status, unique id) of a webhook that was not sent before."""
    headers, body = traffic.make_event()
    return daemon.post(headers, body), f"jericommerce:{json.loads(body)['id']}"


def connector(daemon: Daemon, *words: str) -> Finished:
    """A command beside the daemon."""
    env = ENVIRONMENT | {"COLUMNS": "200"}
    return run(["--config", str(daemon.config), *words], cwd=daemon.folder, env=env)


def refusals(daemon: Daemon, traffic: Traffic, *, count: int = 5) -> set[tuple[int, int]]:
    """What intake and readiness answer, asked in turn."""
    return {(post_new(daemon, traffic)[0], daemon.get("/readyz")[0]) for _ in range(count)}


def until_shown(daemon: Daemon, code: str) -> list[str]:
    """The lines of /healthz that begin with this code, once there are any."""
    found: list[str] = []

    def shown() -> bool:
        found[:] = [x for x in daemon.get("/healthz")[1].splitlines() if x.startswith(code)]
        return bool(found)

    until(f"{code} is shown", shown)
    return found


# ── the file is deleted or replaced ──────────────────────────────────────────────────────────────


def deleted(file: Path) -> None:
    file.rename(file.with_suffix(".aside"))


def replaced_by_an_empty_file(file: Path) -> None:
    deleted(file)
    file.touch()


def test_a_deleted_store_is_reported_with_the_process_that_still_has_it(daemon: Daemon) -> None:
    daemon.start()
    daemon.wait_until_ready()
    assert daemon.process
    for file in (store_of(daemon), store_of(daemon).with_name("crash.db-wal")):
        file.unlink()
    found = connector(daemon, "store", "check")
    assert found.returncode == 1
    assert f"S70: {store_of(daemon)} was deleted while process {daemon.process.pid}" in found.stdout
    assert "`connector problem S70`" in found.stdout


@pytest.mark.parametrize("plant", [deleted, replaced_by_an_empty_file])
def test_a_store_file_that_is_gone_takes_no_webhook_until_the_same_file_is_back(
    daemon: Daemon, platforms: Platforms, traffic: Traffic, plant: Callable[[Path], None]
) -> None:
    daemon.start()
    daemon.wait_until_ready()
    status, before = post_new(daemon, traffic)
    assert status == 202
    file = store_of(daemon)
    plant(file)
    assert refusals(daemon, traffic) == {(503, 503)}
    [line] = until_shown(daemon, "S70")
    assert "state/crash.db was" in line
    assert line.count("move the same file back") == 1
    assert "before you stop it (`connector problem S70`)" in line
    assert "stop the daemon, restore a backup" not in line
    assert daemon.get("/livez")[0] == 200
    second = connector(daemon, "run")
    assert second.returncode == 1
    assert "belongs to a store whose file" in second.stderr
    file.with_suffix(".aside").rename(file)
    status, after = post_new(daemon, traffic)
    assert status == 202
    until("it is ready again", daemon.ready)
    until(
        "both are delivered",
        lambda: platforms.klaviyo.recorded(before) == platforms.klaviyo.recorded(after) == 1,
    )


# ── damage ───────────────────────────────────────────────────────────────────────────────────────


def damage(file: Path, what: str) -> None:
    """Overwrite the first page of a table or index."""
    with closing(sqlite3.connect(file)) as store:
        page = store.execute("PRAGMA page_size").fetchone()[0]
        [root] = store.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (what,))
    with file.open("r+b") as raw:
        raw.seek((root[0] - 1) * page)
        raw.write(b"\xff" * 64)


def test_a_damaged_store_refuses_steadily_and_a_restore_brings_it_back(
    daemon: Daemon, traffic: Traffic
) -> None:
    daemon.start()
    daemon.wait_until_ready()
    assert post_new(daemon, traffic)[0] == 202
    assert connector(daemon, "store", "backup", "copy.db").returncode == 0
    daemon.send(signal.SIGTERM)
    assert daemon.end() == 0
    damage(store_of(daemon), "outbox_by_digest")
    daemon.start()
    daemon.wait_until_ready()
    assert post_new(daemon, traffic)[0] == 503
    assert refusals(daemon, traffic) == {(503, 503)}
    [line] = until_shown(daemon, "S50")
    assert refusals(daemon, traffic) == {(503, 503)}
    assert "state/crash.db is damaged (DatabaseError database disk image is malformed)" in line
    assert "connector store restore" in line
    daemon.send(signal.SIGTERM)
    daemon.end()
    restored = connector(daemon, "store", "restore", "copy.db", "--yes")
    assert restored.returncode == 0, restored.stderr
    daemon.start()
    daemon.wait_until_ready()
    assert post_new(daemon, traffic)[0] == 202


def test_a_start_on_a_damaged_store_names_the_file_and_the_way_back(
    daemon: Daemon, traffic: Traffic
) -> None:
    daemon.start()
    daemon.wait_until_ready()
    daemon.send(signal.SIGTERM)
    daemon.end()
    store_of(daemon).write_bytes(b"this is no database " * 400)
    daemon.start()
    assert daemon.end() == 1
    assert "state/crash.db is damaged" in daemon.stderr_text
    assert "connector store restore" in daemon.stderr_text


# ── a lock of another program ────────────────────────────────────────────────────────────────────


def test_while_another_program_holds_the_write_lock_webhooks_are_refused_and_status_answers(
    daemon: Daemon, platforms: Platforms, traffic: Traffic
) -> None:
    daemon.start()
    daemon.wait_until_ready()
    who = f"process {os.getpid()} ({Path('/proc/self/comm').read_text().strip()})"
    with write_lock(store_of(daemon)):
        assert [post_new(daemon, traffic)[0] for _ in range(5)] == [503] * 5
        status = connector(daemon, "status")
        assert (status.returncode, status.stderr) == (0, "")
        assert "demo" in status.stdout
        named = f"{who} has locked"
        until("status names the lock", lambda: named in connector(daemon, "status").stdout, 60.0)
        assert "no process runs" not in connector(daemon, "status").stdout
        line = f"S10 the store is unavailable: {who} has locked its file {store_of(daemon)}; what"
        assert line in daemon.get("/healthz")[1]
    taken: list[str] = []

    def accepted() -> bool:
        status, id = post_new(daemon, traffic)
        taken.extend([id] if status == 202 else [])
        return status == 202

    until("webhooks are taken again", accepted)
    until("it is delivered", lambda: platforms.klaviyo.recorded(taken[0]) == 1)
