"""What a person at a terminal expects: options in either place, names that are checked, lists of
what exists, numbers in words."""

from __future__ import annotations

import os
import re
import signal
import socket
import stat
import time
from pathlib import Path
from typing import Any

import pytest

from connector.cli.format import format_time, link_lines
from connector.cli.session import result_lines
from connector.config import load
from connector.domain.errors import Problem
from connector.domain.wording import counted, format_age, format_size
from tests.waiting import until

from .conftest import Call, Folder


def flat(text: str) -> str:
    """A message without the wrapping and the frame of the terminal."""
    return " ".join(text.replace("│", " ").split())


# ── options ──────────────────────────────────────────────────────────────────────────────────────


def test_config_may_come_before_or_after_the_command(
    call: Call, folder: Folder, tmp_path: Path
) -> None:
    folder.ingest("ada@example.com")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    file = str(folder.config)
    for words in (
        ["--config", file, "status"],
        ["status", "--config", file],
        ["status", f"--config={file}", "--json"],
        ["dead-letters", "list", "--config", file],
    ):
        result = call(*words, at=elsewhere)
        assert result.code == 0, result.err
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("words", [["-h"], ["status", "-h"], ["backfill", "-h"], ["backfill"]])
def test_help_has_a_short_form(call: Call, tmp_path: Path, words: list[str]) -> None:
    result = call(*words, at=tmp_path)
    assert "Usage: " in result.out + result.err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_of_each_shell_is_printed(call: Call, tmp_path: Path, shell: str) -> None:
    result = call("completion", shell, at=tmp_path)
    assert (result.code, "_CONNECTOR_COMPLETE" in result.out) == (0, True)


# ── names ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "words",
    [
        ["pause", "acne"],
        ["resume", "acne"],
        ["explain", "acne", "ada@example.com"],
        ["refresh", "acne", "ada@example.com"],
        ["forget", "acne", "ada@example.com"],
        ["reconcile", "acne"],
        ["backfill", "acne"],
        ["backfill", "list", "--connection", "acne"],
        ["webhook-builder", "acne"],
        ["audiences", "sync", "acne", "vip"],
        ["dead-letters", "list", "--connection", "acne"],
        ["actions", "list", "--connection", "acne"],
    ],
    ids=" ".join,
)
def test_a_connection_that_does_not_exist_is_named_with_the_closest(
    call: Call, folder: Folder, words: list[str]
) -> None:
    result = call(*words, at=folder)
    assert (result.code, result.out) == (2, "")
    text = flat(result.err)
    assert "no connection 'acne', did you mean 'acme'?; available: acme" in text


def test_a_link_or_cause_that_does_not_exist_is_named_with_those_that_do(
    call: Call, folder: Folder
) -> None:
    link = '\n[[connections.segments]]\nsegment = "Gold"\ntarget = "gold-tag"\n'
    folder.config.write_text(folder.config.read_text() + link)
    result = call("segments", "sync", "acme", "Gld", at=folder)
    assert result.code == 2
    assert "no segment 'Gld', did you mean 'Gold'?; available: Gold, gold-tag" in flat(result.err)
    folder.ingest("ada@example.com")
    result = call("dead-letters", "list", "--cause", "K4O1", at=folder)
    assert result.code == 2
    assert "no problem code 'K4O1', did you mean 'K4" in flat(result.err)


def test_an_empty_list_says_that_nothing_waits(call: Call, folder: Folder) -> None:
    for words, text in (
        (["dead-letters", "list"], "nothing waits: no record is dead or held"),
        (["approvals", "list"], "nothing waits for approval"),
        (["actions", "list", "--stuck"], "nothing waits: no action is uncertain or held"),
        (["actions", "list"], "no action yet"),
        (["backfill", "list"], "no backfill yet"),
        (["audiences", "list"], "no audience is linked ([[connections.audiences]] in the config"),
    ):
        folder.ingest("ada@example.com")
        result = call(*words, at=folder)
        assert result.out.startswith(text)


# ── init and sandbox ─────────────────────────────────────────────────────────────────────────────


def test_init_refuses_a_name_that_no_connection_may_have(call: Call, tmp_path: Path) -> None:
    result = call("init", "--name", "My Shop", at=tmp_path)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("--name: found 'My Shop', allowed lower-case letters")
    assert list(tmp_path.iterdir()) == []


def test_init_repairs_what_an_interrupted_run_left(call: Call, tmp_path: Path) -> None:
    assert call("init", at=tmp_path).code == 0
    whole = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    config, env = tmp_path / "connector.toml", tmp_path / ".env"
    config.write_text("")
    (tmp_path / "mappings" / "jericommerce.toml").unlink()
    env.write_text(env.read_text() + "# mine\n")
    result = call("init", at=tmp_path)
    assert result.out.splitlines()[:3] == [
        "written  connector.toml",
        "kept     .env",
        "written  mappings/",
    ]
    assert env.read_text().endswith("# mine\n")
    assert stat.S_IMODE(env.stat().st_mode) == 0o600
    assert all(p.read_bytes() == text for p, text in whole.items() if p != env)
    assert call("init", at=tmp_path).out.splitlines()[2] == "kept     mappings/"


def test_a_sandbox_on_a_port_in_use_says_which(call: Call, tmp_path: Path) -> None:
    with socket.socket() as occupied:
        occupied.bind(("127.0.0.1", 0))
        occupied.listen()
        port = occupied.getsockname()[1]
        result = call("sandbox", "--klaviyo-port", str(port), at=tmp_path)
    assert result.code == 2
    assert result.err.startswith(f"port {port} for the sandbox of klaviyo: ")
    assert "--klaviyo-port" in result.err


# ── backfills ────────────────────────────────────────────────────────────────────────────────────


def test_backfills_are_listed_and_shown_with_rows_that_add_up(call: Call, folder: Folder) -> None:
    folder.ingest("ada@example.com")
    addresses = folder.path / "people.csv"
    addresses.write_text("email\nada@example.com\nbo@example.com\nADA@example.com\nnothing\n")
    started = call("backfill", "acme", "--emails", str(addresses), "--dry-run", at=folder)
    assert started.code == 0, started.err
    listed = call("backfill", "list", at=folder).out
    assert re.search(r"^ +1  \S+Z.*  acme  dry run from emails: done, ", listed)
    shown = call("backfill", "show", "1", at=folder).out
    assert shown.startswith("dry run 1 done: 4 rows read\n")
    counts = [int(n) for n in re.findall(r"^  (?!new)\D+?([0-9]+)$", shown, re.M)]
    assert sum(counts) == 4
    missing = call("backfill", "show", "99", at=folder)
    assert (missing.code, missing.out) == (1, "")
    assert "no backfill has the number 99" in missing.err


def test_ctrl_c_stops_following_and_says_what_continues(call: Call, folder: Folder) -> None:
    folder.start()
    addresses = folder.path / "people.csv"
    addresses.write_text("email\n" + "".join(f"p{n}@example.com\n" for n in range(3_000)))
    following = folder.spawn("backfill", "acme", "--emails", str(addresses))
    until("it has begun", lambda: "backfill 1" in folder.log)
    os.kill(following.pid, signal.SIGINT)
    following.communicate(timeout=90)
    assert following.returncode == 0
    assert "the backfill continues; see connector backfill list" in folder.log
    assert call("backfill", "acme", "--stop", at=folder).code == 0


# ── words ────────────────────────────────────────────────────────────────────────────────────────


def test_numbers_are_singular_or_plural() -> None:
    assert [counted(n, "webhook") for n in (0, 1, 1_204)] == [
        "0 webhooks",
        "1 webhook",
        "1,204 webhooks",
    ]
    assert counted(1, "person", "people") == "1 person"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (-0.04, "0.0 s"),
        (3.21, "3.2 s"),
        (59.97, "1 min"),
        (60.0, "1 min"),
        (3_599.0, "1 h"),
        (86_399.0, "1.0 d"),
        (172_800.0, "2.0 d"),
    ],
)
def test_an_age_is_rounded_to_the_next_unit(seconds: float | None, text: str) -> None:
    assert format_age(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 MB"), (312_400_000, "312 MB"), (999_999_999, "1.0 GB"), (1_500_000_000, "1.5 GB")],
)
def test_a_size_is_rounded_to_the_next_unit(size: int, text: str) -> None:
    assert format_size(size) == text


def test_the_local_time_is_beside_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    at = 1_769_860_800_000
    for zone, text in (
        ("UTC", "2026-01-31T12:00:00Z"),
        ("Europe/Madrid", "2026-01-31T12:00:00Z (13:00 CET)"),
    ):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        assert format_time(at) == text
    monkeypatch.undo()
    time.tzset()
    assert format_time(None) == "never"


def test_results_are_words_and_not_python() -> None:
    assert result_lines({"reloaded": True, "needs_restart": []}) == ["reloaded"]
    assert result_lines({"reloaded": True, "needs_restart": ["store"]}) == [
        "reloaded, needs restart: store"
    ]
    assert result_lines({"people": 1_204, "fields": {"balance": 3}, "resent": 0}) == [
        "people: 1,204, resent: 0",
        "  fields: balance 3",
    ]


LINK: dict[str, Any] = {
    **{"connection": "acme", "kind": "audience", "source": "vip", "target": "VIP"},
    **{"members": 1, "full_sync_age": 60.0, "scanning": False, "read_back_age": None},
    **dict.fromkeys(("here", "there", "both"), 1),
    **dict.fromkeys(("waiting", "unconfirmed", "foreign", "removed_by_hand"), 0),
    **{"without_address": 0, "problem": None},
}


def test_a_link_of_one_member_is_singular() -> None:
    first, second = link_lines(LINK)
    assert first == "acme  vip → VIP: 1 member, full sync 1 min ago"
    assert second.strip() == "here 1, there 1, in both 1; list never read back"


def test_a_link_that_waits_says_why_and_what_to_do() -> None:
    problem = Problem.FIRST_SYNC
    stopped = {"problem": problem.value, "meaning": problem.meaning, "detail": "1 here"}
    *_, why, todo = link_lines({**LINK, **stopped})
    assert why.strip() == "L31 the first sync waits for approval: 1 here"
    assert todo.strip().startswith("what to do: approve or reject with `connector approvals")
    assert "`connector audiences sync acme NAME`" in todo


def test_a_pipe_gets_whole_lines(call: Call, folder: Folder) -> None:
    folder.ingest(None)
    text = call("status", at=folder).out
    assert not any(line != line.rstrip() for line in text.splitlines())
    assert "usually nothing: the record is sent when the person's address is known" in text


def test_init_without_a_connection_writes_what_the_console_needs(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = call("init", "--no-connection")
    assert result.code == 0, result.err
    assert "CONNECTOR_CONSOLE_PASSWORD" in result.out
    config = load(tmp_path / "connector.toml", environ={})
    assert config.connections == ()
    assert config.console.password
    assert config.security.encryption_key
    assert "{{" not in (tmp_path / ".env").read_text() + (tmp_path / "connector.toml").read_text()
    assert not (tmp_path / "mappings").exists()
