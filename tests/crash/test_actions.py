"""Guarantee 4 with the real process: kills at any time apply no points twice and lose no call."""

from __future__ import annotations

import json
import os
import random
import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing

import pytest

from connector.sandbox import Traffic
from tests.processes import Finished, run
from tests.waiting import until

from .conftest import ENVIRONMENT, Daemon, Platforms
from .posting import Posting

_SECRET = "flow-secret"
_TABLE = f"""
[connections.actions]
secret = "{_SECRET}"
daily_per_person = 100000
"""


class FlowPosting(Posting):
    """Calls of a Klaviyo flow: each again until it is acknowledged, some once more after that."""

    def __init__(self, daemon: Daemon, seed: int) -> None:
        super().__init__(seed)
        self._daemon = daemon

    def run(self) -> None:
        unanswered: list[str] = []
        number = 0
        while not self.stopped.wait(self.random.expovariate(60)):
            if unanswered and self.random.random() < 0.5:
                reason = unanswered.pop(0)
            else:
                number += 1
                reason = f"call-{number}"
                self.issued.add(reason)
            if self._call(reason) == 202:
                self.acknowledged.add(reason)
                if self.random.random() < 0.1:
                    self._call(reason)
            else:
                unanswered.append(reason)

    def _call(self, reason: str) -> int:
        email = f"person{int(reason[5:]) % 20}@example.com"
        return call(self._daemon, email, reason)


def call(daemon: Daemon, email: str, reason: str, amount: int = 5) -> int:
    body = json.dumps([{"email": email, "amount": amount, "reason": reason}]).encode()
    headers = {"api-key": _SECRET, "x-klaviyo-flow-id": "F1"}
    return daemon.request("POST", "/flows/demo/balance/increase", body, headers)[0]


def stored(daemon: Daemon) -> list[tuple[bytes, int, str | None]]:
    """(data, state, problem) of every action, in order."""
    with closing(sqlite3.connect(daemon.folder / "state" / "crash.db")) as store:
        return store.execute("SELECT data, state, problem FROM actions ORDER BY seq").fetchall()


def states(daemon: Daemon) -> list[tuple[int, str | None]]:
    return [(state, problem) for _, state, problem in stored(daemon)]


def rows(daemon: Daemon) -> dict[str, tuple[int, str | None]]:
    """Reason → (state, problem)."""
    return {json.loads(data)["reason"]: (state, problem) for data, state, problem in stored(daemon)}


def busy(daemon: Daemon) -> int:
    return sum(state in (0, 1) for state, _ in rows(daemon).values())


@pytest.fixture
def action_daemon(daemon: Daemon, platforms: Platforms) -> Daemon:
    """A daemon with actions, and twenty people at the platform."""
    text = daemon.config.read_text()
    fast = text.replace('program = "demo"', 'program = "demo"\nrate_per_second = 500')
    daemon.config.write_text(fast + _TABLE)
    for number in range(20):
        platforms.jericommerce.add(f"person{number}@example.com")
    return daemon


def run_with_kills(daemon: Daemon, platforms: Platforms, kills: int, seed: int) -> int:
    """Returns the number of parked actions."""
    rng = random.Random(seed)
    posting = FlowPosting(daemon, seed)
    faults = platforms.jericommerce.faults
    for kind in ("reset_before", "reset_after", "truncate"):
        faults.add("balance/increase", kind, probability=0.05)
    for status, applied in ((500, True), (502, False), (503, False), (429, False), (423, False)):
        faults.add("balance/increase", "status", status=status, applied=applied, probability=0.05)
    daemon.start()
    daemon.wait_until_ready()
    with posting.in_progress():
        for _ in range(kills):
            count = len(posting.acknowledged) + rng.randint(5, 30)
            until("more calls are acknowledged", posting.has_acknowledged(count))
            daemon.kill()
            daemon.start()
            daemon.wait_until_ready()
        # Of the few calls that a busy machine sends before it is killed, none may have failed.
        until("a call is parked", lambda: (4, "A10") in states(daemon))
    faults.clear()
    until("all is sent or parked", lambda: busy(daemon) == 0, 30.0 + kills)
    found = rows(daemon)
    applied = {reason: platforms.jericommerce.adjusted(reason) for reason in posting.issued}
    assert posting.acknowledged <= set(found) <= posting.issued
    assert {reason: n for reason, n in applied.items() if n > 1} == {}
    assert {reason for reason in posting.issued - set(found) if applied[reason]} == set()
    wrong = {
        reason: (state, problem, applied[reason])
        for reason, (state, problem) in found.items()
        if (state, problem) not in ((2, None), (4, "A10")) or (state == 2 and applied[reason] != 1)
    }
    assert wrong == {}
    assert len(posting.acknowledged) > 10
    return Counter(problem for _, problem in found.values())["A10"]


def test_random_kills_apply_no_points_twice(action_daemon: Daemon, platforms: Platforms) -> None:
    assert (
        run_with_kills(
            action_daemon, platforms, kills=2, seed=int(os.environ.get("CRASH_SEED", "1"))
        )
        > 0
    )


@pytest.mark.campaign
@pytest.mark.timeout(7200)
def test_a_long_series_of_kills_applies_no_points_twice(
    action_daemon: Daemon, platforms: Platforms, capsys: pytest.CaptureFixture[str]
) -> None:
    kills = int(os.environ.get("CRASH_KILLS", "100"))
    parked = run_with_kills(action_daemon, platforms, kills, int(os.environ.get("CRASH_SEED", "1")))
    with capsys.disabled():
        total = len(rows(action_daemon))
        print(
            f"\n{kills} kills of the daemon: {total} adjustments, {parked} parked, 0 applied twice"
        )


def connector(daemon: Daemon, *words: str) -> Finished:
    return run(["--config", str(daemon.config), *words], cwd=daemon.folder, env=ENVIRONMENT)


def has_state(daemon: Daemon, reason: str, state: tuple[int, str | None]) -> Callable[[], bool]:
    """Whether the action with this reason has this (state, problem), as a condition."""
    return lambda: rows(daemon).get(reason) == state


def test_an_operator_resolves_an_ambiguous_action_beside_the_daemon(
    action_daemon: Daemon, platforms: Platforms
) -> None:
    platforms.jericommerce.faults.add("balance/increase", "reset_after", count=1)
    platforms.jericommerce.faults.add("balance/increase", "reset_before", count=1)
    action_daemon.start()
    action_daemon.wait_until_ready()
    for reason in ("lost-after", "lost-before"):
        assert call(action_daemon, "person1@example.com", reason) == 202
        until("it is parked", has_state(action_daemon, reason, (4, "A10")))
    assert "A10" in action_daemon.get("/healthz")[1]
    assert 'connector_actions_uncertain{connection="demo"} 2.0' in action_daemon.get("/metrics")[1]
    listed = json.loads(connector(action_daemon, "actions", "list", "--stuck", "--json").stdout)
    ids = {action["reason"]: str(action["id"]) for action in listed}
    assert connector(action_daemon, "actions", "applied", ids["lost-after"]).returncode == 0
    assert connector(action_daemon, "actions", "again", ids["lost-before"]).returncode == 0
    until("it is applied", lambda: rows(action_daemon)["lost-before"] == (2, None))
    assert [platforms.jericommerce.adjusted(reason) for reason in ids] == [1, 1]
    timeline = connector(action_daemon, "explain", "demo", "person1@example.com").stdout
    assert timeline.count("increase +5") == 2


def test_every_route_reaches_the_platform(
    action_daemon: Daemon, platforms: Platforms, traffic: Traffic
) -> None:
    action_daemon.start()
    action_daemon.wait_until_ready()
    headers, event = traffic.make_event()
    email = json.loads(event)["email"]
    assert action_daemon.post(headers, event) == 202
    until("Klaviyo knows the person", lambda: platforms.klaviyo.profile_id(email) is not None)

    def flow(route: str, content: object) -> tuple[int, str]:
        body = json.dumps(content).encode()
        return action_daemon.request("POST", f"/flows/demo/{route}", body, {"api-key": _SECRET})

    points = {"customer_email": email, "point_adjustment_amount": 3}
    given = points | {"history_title": "given", "use_case": "reward"}
    taken = {"email": email, "amount": 2, "reason": "taken"}
    message = {"message": "Hi", "customer_id": platforms.klaviyo.profile_id(email)}
    responses = [
        flow("points/adjust", given),
        flow("balance/decrease", taken),
        flow("push", message),
    ]
    assert responses == [(202, '{"accepted":1,"duplicates":0,"held":0}')] * 3
    until("all are applied", lambda: [s for s, _ in states(action_daemon)] == [2, 2, 2])
    ledger = {a.reason: a.amount for a in platforms.jericommerce.ledger}
    assert (ledger["given"], ledger["taken"]) == (3, -2)
    person = platforms.jericommerce.person(email)
    assert person
    assert [push.person for push in platforms.jericommerce.pushes] == [person.id]
    status, offered = flow("points/double", {})
    assert (status, "/flows/demo/push" in offered) == (404, True)
