"""Promises 1 and 3 with the real process: killed whenever, it loses nothing and doubles nothing."""

from __future__ import annotations

import json
import os
import random
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from connector.sandbox import Traffic

from .conftest import Daemon, Platforms, until

_PER_SECOND = 60


class Posting:
    """Posts new events until told to stop, each again until it is acknowledged or given up."""

    def __init__(self, daemon: Daemon, traffic: Traffic, seed: int) -> None:
        self.issued: set[str] = set()
        self.acknowledged: set[str] = set()
        self._daemon, self._traffic = daemon, traffic
        self._random = random.Random(seed)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @contextmanager
    def in_progress(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            self._stop.set()
            self._thread.join(10)

    def _run(self) -> None:
        unanswered: list[tuple[str, dict[str, str], bytes]] = []
        while not self._stop.wait(self._random.expovariate(_PER_SECOND)):
            if unanswered and self._random.random() < 0.4:
                id, headers, body = unanswered.pop(0)
            else:
                headers, body = self._traffic.make_event()
                id = f"jericommerce:{json.loads(body)['id']}"
                self.issued.add(id)
            if self._daemon.post(headers, body) == 202:
                self.acknowledged.add(id)
                if self._random.random() < 0.05:
                    self._daemon.post(headers, body)  # a redelivery
            elif len(unanswered) < 50:
                unanswered.append((id, headers, body))


def inject_faults(platforms: Platforms) -> None:
    faults = platforms.klaviyo.faults
    for endpoint in ("events", "event-bulk-create-jobs"):
        faults.add(endpoint, "reset_before", probability=0.03)
        faults.add(endpoint, "reset_after", probability=0.03)
        faults.add(endpoint, "truncate", probability=0.03)
        faults.add(endpoint, "status", status=500, applied=True, probability=0.03)
        faults.add(endpoint, "status", status=500, applied=False, probability=0.03)
        faults.add(endpoint, "status", status=503, probability=0.03)
        faults.add(endpoint, "status", status=429, retry_after=1, probability=0.01)
        faults.add(endpoint, "stall", applied=True, seconds=0.6, probability=0.03)


def backlog(daemon: Daemon) -> int:
    with closing(sqlite3.connect(daemon.folder / "state" / "crash.db")) as store:
        [(count,)] = store.execute("SELECT count(*) FROM outbox WHERE state IN (0, 1)")
    return int(count)


def stuck(daemon: Daemon) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(daemon.folder / "state" / "crash.db")) as store:
        return store.execute(
            "SELECT state, problem, detail FROM outbox WHERE state NOT IN (0, 1, 2)"
        ).fetchall()


def run_with_kills(
    daemon: Daemon, platforms: Platforms, traffic: Traffic, kills: int, seed: int
) -> None:
    rng = random.Random(seed)
    posting = Posting(daemon, traffic, seed)
    inject_faults(platforms)
    daemon.start()
    daemon.wait_until_ready()
    with posting.in_progress():
        for number in range(kills):
            # Some while it starts, most while it works.
            if number == 0 or rng.random() < 0.8:
                daemon.wait_until_ready()
                wanted = len(posting.acknowledged) + rng.randint(5, 50)
                until("work goes on", lambda: len(posting.acknowledged) >= wanted)  # noqa: B023
            else:
                threading.Event().wait(rng.uniform(0.05, 1.2))
            daemon.kill()
            daemon.start()
        daemon.wait_until_ready()
    platforms.klaviyo.faults.clear()
    daemon.kill()
    daemon.start()
    daemon.wait_until_ready()
    recorded = platforms.klaviyo.unique_ids
    until("all is delivered", lambda: backlog(daemon) == 0, 30.0 + kills)

    counts = recorded()
    assert len(posting.acknowledged) >= 5
    assert posting.acknowledged - set(counts) == set()
    assert set(counts) - posting.issued == set()
    assert {id: n for id, n in counts.items() if n != 1} == {}
    assert stuck(daemon) == []
    state = platforms.klaviyo.state()
    assert state["violations"] == {}
    assert state["throttled"] == 0
    # All this says something only if the far end was in trouble.
    met = {status for statuses in state["requests"].values() for status in statuses}  # type: ignore[attr-defined]
    assert {"reset", "500"} & met


def test_random_kills_deliver_every_acknowledged_event_exactly_once(
    daemon: Daemon, platforms: Platforms, traffic: Traffic
) -> None:
    run_with_kills(daemon, platforms, traffic, kills=8, seed=int(os.environ.get("CRASH_SEED", "1")))


@pytest.mark.campaign
@pytest.mark.timeout(7200)
@pytest.mark.skipif("CRASH_KILLS" not in os.environ, reason="CRASH_KILLS says how many")
def test_a_long_series_of_kills_loses_and_duplicates_nothing(
    daemon: Daemon, platforms: Platforms, traffic: Traffic
) -> None:
    kills = int(os.environ["CRASH_KILLS"])
    run_with_kills(daemon, platforms, traffic, kills, int(os.environ.get("CRASH_SEED", "1")))
