"""`connector backfill`, with and without a daemon."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import until

from .conftest import Call, Folder


def people_file(folder: Folder, count: int, name: str = "people.csv") -> Path:
    members = folder.platforms.jericommerce.people[:count]
    path = folder.path / name
    path.write_text("email\n" + "".join(f"{person.email}\n" for person in members))
    return path


def summary(text: str) -> dict[str, Any]:
    run: dict[str, Any] = json.loads(text)
    return {word: count for word, count in run["people"].items() if count}


def test_without_a_daemon_the_command_does_the_work(call: Call, folder: Folder) -> None:
    file = people_file(folder, 3)
    dry = call("backfill", "acme", "--emails", str(file), "--dry-run", at=folder)
    assert dry.code == 0, dry.err
    assert "dry run 1 done: 3 rows read" in dry.out
    assert "would send" in dry.out
    done = call("backfill", "acme", "--emails", file.name, "--json", at=folder)
    assert done.code == 0, done.err
    assert sum(summary(done.out).values()) == 3
    assert "backfill 2" in done.err
    assert "waits for approval" not in done.err, "no one was asked"
    klaviyo = folder.platforms.klaviyo
    for person in folder.platforms.jericommerce.people[:3]:
        assert klaviyo.profile(person.email)["properties"]["balance"] == person.balance
    again = call("backfill", "acme", "--emails", file.name, "--json", at=folder)
    assert summary(again.out) == {"unchanged": 3}


def test_with_a_daemon_it_is_started_followed_and_stopped(call: Call, daemon: Folder) -> None:
    klaviyo = daemon.platforms.klaviyo
    flow = klaviyo.flows.add(
        "Now gold", "live", "Added to List", klaviyo.make_segment("Gold of the command line")
    )
    file = people_file(daemon, 4)
    started = call("backfill", "acme", "--emails", str(file), "--detach", at=daemon)
    assert (started.code, "backfill 1 is waiting" in started.out) == (0, True)

    def awaits_approval() -> bool:
        return bool(json.loads(call("approvals", "list", "--json", at=daemon).out))

    until("it waits for approval", awaits_approval)
    listed = call("approvals", "list", at=daemon).out
    for scope in (
        "account: SANDBX",
        "target: profile fields",
        "people: 4",
        "valid for people: 3 to 5",
        "live flows: Now gold",
    ):
        assert scope in listed
    [waiting] = json.loads(call("status", "--json", at=daemon).out)["backfills"]
    assert (waiting["id"], waiting["state"]) == (1, "waiting")
    stopped = call("backfill", "acme", "--stop", at=daemon)
    assert (stopped.code, stopped.out) == (0, "stopped: backfill 1\n")
    assert not awaits_approval()
    none = call("backfill", "acme", "--stop", at=daemon)
    assert (none.code, "no backfill of acme is running" in none.err) == (1, True)
    klaviyo.flows.all.remove(flow)
    done = call("backfill", "acme", "--emails", str(file), "--json", at=daemon)
    assert done.code == 0, done.err
    assert (json.loads(done.out)["id"], sum(summary(done.out).values())) == (1, 4)
    assert json.loads(call("status", "--json", at=daemon).out)["backfills"] == []


@pytest.mark.parametrize(
    ("args", "code", "error"),
    [
        (("other",), 2, "no connection 'other'; available: acme"),
        (("acme", "--emails", "nowhere.csv"), 2, "cannot be read here"),
        (("acme", "--emails", "a.csv", "--klaviyo-list", "L"), 2, "use only one of --emails"),
        (("acme", "--klaviyo-list", "Unknown"), 1, "Klaviyo has no list"),
        (("acme", "--stop"), 1, "no backfill of acme is running"),
    ],
)
def test_an_impossible_backfill_is_reported(
    call: Call, folder: Folder, args: tuple[str, ...], code: int, error: str
) -> None:
    result = call("backfill", *args, at=folder)
    assert result.code == code
    assert error in " ".join(result.err.replace("│", " ").split())
