"""Guarantees 1 and 3 with the real process: kills at any time lose and duplicate nothing."""

from __future__ import annotations

import json
import os
import random
import sqlite3
import time
from contextlib import closing

import pytest

from connector.sandbox import Traffic
from tests.waiting import until

from .conftest import Daemon, Platforms
from .posting import Posting

_PER_SECOND = 60


class WebhookPosting(Posting):
    """A platform's webhooks: each again until it is acknowledged or given up, some twice."""

    def __init__(self, daemon: Daemon, traffic: Traffic, seed: int) -> None:
        super().__init__(seed)
        self._daemon, self._traffic = daemon, traffic

    def run(self) -> None:
        unanswered: list[tuple[str, dict[str, str], bytes]] = []
        while not self.stopped.wait(self.random.expovariate(_PER_SECOND)):
            if unanswered and self.random.random() < 0.4:
                id, headers, body = unanswered.pop(0)
            else:
                headers, body = self._traffic.make_event()
                id = f"jericommerce:{json.loads(body)['id']}"
                self.issued.add(id)
            if self._daemon.post(headers, body) == 202:
                self.acknowledged.add(id)
                if self.random.random() < 0.05:
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
    posting = WebhookPosting(daemon, traffic, seed)
    inject_faults(platforms)
    daemon.start()
    daemon.wait_until_ready()
    with posting.in_progress():
        for number in range(kills):
            # Some kills while it starts, most while it works.
            if number == 0 or rng.random() < 0.8:
                daemon.wait_until_ready()
                count = len(posting.acknowledged) + rng.randint(5, 50)
                until("more webhooks are acknowledged", posting.has_acknowledged(count))
            else:
                time.sleep(rng.uniform(0.05, 1.2))
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
    # The test is only meaningful if the sandbox has failed.
    observed = {status for statuses in state["requests"].values() for status in statuses}
    assert {"reset", "500"} & observed


def test_random_kills_deliver_every_acknowledged_event_exactly_once(
    daemon: Daemon, platforms: Platforms, traffic: Traffic
) -> None:
    run_with_kills(daemon, platforms, traffic, kills=8, seed=int(os.environ.get("CRASH_SEED", "1")))


@pytest.mark.campaign
@pytest.mark.timeout(7200)
def test_a_long_series_of_kills_loses_and_duplicates_nothing(
    daemon: Daemon, platforms: Platforms, traffic: Traffic
) -> None:
    kills = int(os.environ.get("CRASH_KILLS", "100"))
    run_with_kills(daemon, platforms, traffic, kills, int(os.environ.get("CRASH_SEED", "1")))
