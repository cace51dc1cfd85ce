"""A backfill by the real process: killed twice, it resumes at its cursor and loses no one."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from connector.sandbox import JeriCommerceSandbox
from tests.processes import Process
from tests.waiting import until

from .conftest import ENVIRONMENT, Daemon, Platforms

PEOPLE = 300
_MAIN = """
from connector import cli
from connector.pipeline import import_jobs
import_jobs._LOST_REQUEST_GRACE_MS = 500  # instead of a minute: writes cut off by a kill are resent
cli.main()
"""


@pytest.fixture
def platforms() -> Iterator[Platforms]:
    running = Platforms(PEOPLE)
    yield running
    running.stop()


def command(daemon: Daemon, *args: str) -> Process:
    return Process(
        ["--config", str(daemon.config), *args],
        cwd=daemon.folder,
        stdout=subprocess.PIPE,
        env=ENVIRONMENT,
        main=("-c", _MAIN),
    )


def finished(daemon: Daemon, *args: str) -> tuple[int, dict[str, Any]]:
    process = command(daemon, *args, "--json")
    out, _ = process.communicate(timeout=90)
    return process.returncode, json.loads(out)


def has_read(jericommerce: JeriCommerceSandbox, count: int) -> Callable[[], bool]:
    """Whether at least `count` people were read, as a condition."""
    return lambda: len(jericommerce.read_log) >= count


def test_a_backfill_killed_twice_sends_everyone_and_a_second_run_sends_nothing(
    daemon: Daemon, platforms: Platforms
) -> None:
    klaviyo, jericommerce = platforms.klaviyo, platforms.jericommerce
    text = daemon.config.read_text()
    daemon.config.write_text(text.replace("program =", "rate_per_second = 2000\nprogram ="))
    people = jericommerce.people
    file = daemon.folder / "people.csv"
    file.write_text("name;email\n" + "".join(f"x;{p.email}\n" for p in people) + "y;nowhere\n")
    args = ("backfill", "demo", "--emails", "people.csv")
    for share in (0.2, 0.6):
        working = command(daemon, *args)
        until("some are read", has_read(jericommerce, round(share * PEOPLE)), 60)
        working.send_signal(signal.SIGKILL)
        working.communicate(timeout=90)
    code, run = finished(daemon, *args)
    assert (code, run["state"], run["id"]) == (0, "done", 1)
    assert run["people"] == {
        "sent": PEOPLE,
        "unchanged": 0,
        "held": 0,
        "invalid": 1,
        "unknown": 0,
        "dead": 0,
        "pending": 0,
    }
    for person in people:
        profile = klaviyo.profile(person.email)
        assert profile is not None, person.email
        assert profile["properties"]["balance"] == person.balance
    assert len(jericommerce.read_log) <= PEOPLE + 2 * 8
    assert klaviyo.state()["violations"] == {}
    assert klaviyo.state()["throttled"] == 0
    assert klaviyo.overlapping_writes == 0

    writes = klaviyo.state()["requests"]
    code, again = finished(daemon, *args)
    assert (code, again["id"], again["people"]["unchanged"]) == (0, 2, PEOPLE)
    after = klaviyo.state()["requests"]
    posts = {label for label in after if label.startswith(("POST", "PATCH"))}
    assert {label: writes[label] for label in posts} == {label: after[label] for label in posts}
