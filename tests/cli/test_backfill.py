"""`connector backfill`, beside a daemon and without one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from .conftest import Call, Folder, until


def people(folder: Folder, count: int, name: str = "people.csv") -> Path:
    members = folder.platforms.jericommerce.people[:count]
    path = folder.path / name
    path.write_text("email\n" + "".join(f"{person.email}\n" for person in members))
    return path


def summary(text: str) -> dict[str, Any]:
    run: dict[str, Any] = json.loads(text)
    return {word: count for word, count in run["people"].items() if count}


def test_without_a_daemon_the_command_does_the_work(call: Call, folder: Folder) -> None:
    file = people(folder, 3)
    dry = call("backfill", "acme", "--emails", str(file), "--dry-run", at=folder)
    assert dry.code == 0, dry.err
    assert "dry run 1 done: 3 looked at" in dry.out
    assert "would send" in dry.out
    told = call("backfill", "acme", "--emails", file.name, "--json", at=folder)
    assert told.code == 0, told.err
    assert sum(summary(told.out).values()) == 3
    assert "backfill 2" in told.err
    klaviyo = folder.platforms.klaviyo
    for person in folder.platforms.jericommerce.people[:3]:
        assert klaviyo.profile(person.email)["properties"]["balance"] == person.balance
    again = call("backfill", "acme", "--emails", file.name, "--json", at=folder)
    assert summary(again.out) == {"unchanged": 3}


def test_beside_a_daemon_it_is_started_followed_and_stopped(call: Call, daemon: Folder) -> None:
    klaviyo = daemon.platforms.klaviyo
    flow = klaviyo.flows.add(
        "Now gold", "live", "Added to List", klaviyo.make_segment("Gold of the command line")
    )
    file = people(daemon, 4)
    said = call("backfill", "acme", "--emails", str(file), "--detach", at=daemon)
    assert (said.code, "backfill 1 is waiting" in said.out) == (0, True)

    def asked() -> bool:
        return bool(json.loads(call("approvals", "list", "--json", at=daemon).out))

    until("a person is asked", asked)
    [waits] = json.loads(call("status", "--json", at=daemon).out)["backfills"]
    assert (waits["id"], waits["state"]) == (1, "waiting")
    stopped = call("backfill", "acme", "--stop", at=daemon)
    assert (stopped.code, stopped.out) == (0, "stopped: backfill 1\n")
    assert not asked()
    none = call("backfill", "acme", "--stop", at=daemon)
    assert (none.code, "no backfill of acme is running" in none.err) == (1, True)
    klaviyo.flows.all.remove(flow)
    done = call("backfill", "acme", "--emails", str(file), "--json", at=daemon)
    assert done.code == 0, done.err
    assert (json.loads(done.out)["id"], sum(summary(done.out).values())) == (1, 4)
    assert json.loads(call("status", "--json", at=daemon).out)["backfills"] == []


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (("other",), 2, "there is no connection `other`"),
        (("acme", "--emails", "nowhere.csv"), 2, "cannot be read here"),
        (("acme", "--emails", "a.csv", "--klaviyo-list", "L"), 2, "one of them"),
        (("acme", "--klaviyo-list", "Nobody's"), 1, "Klaviyo has no list"),
        (("acme", "--stop"), 1, "no backfill of acme is running"),
    ],
)
def test_an_impossible_backfill_is_reported(
    call: Call, folder: Folder, args: tuple[str, ...], code: int, said: str
) -> None:
    answer = call("backfill", *args, at=folder)
    assert answer.code == code
    assert said in " ".join(answer.err.replace("│", " ").split())
