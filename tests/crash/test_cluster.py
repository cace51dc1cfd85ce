"""Guarantee 12 with real processes: replicas on one PostgreSQL behind a pooler, of which one after
another is killed, frozen or stopped, lose nothing, send nothing twice and exceed no quota.

`CLUSTER_FAULTS` faults and `CLUSTER_SEED`. It prints how long accounts were without a holder.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from connector.runtime.metrics import account_label
from connector.sandbox import KlaviyoSandbox, Traffic, serve
from connector.store.database import open_database
from connector.store.tables import metadata
from tests.app.start import CONNECTION
from tests.store.pooler import pooler
from tests.waiting import PATIENCE, until

from .conftest import Daemon, Platforms
from .posting import Posting

ACCOUNTS = {f"shop{n}": f"ACCT{n:02}" for n in range(12)}
"""Connection → Klaviyo account."""
REPLICAS = 3
_PER_SECOND = 40
_TAKEN_OVER_WITHIN = 60.0
"""Far more than it may take on a quiet machine: what is measured is printed, not asserted."""

CONFIG = """\
[store]
url = "{pooled}"
listen_url = "{database}"

[server]
port = {port}
shutdown_timeout = "10s"

[delivery]
retry_base = "50ms"
retry_max = "400ms"
probe_every = "1s"
"""


class Accounts(Platforms):
    """One platform, and a Klaviyo account for each connection."""

    def __init__(self) -> None:
        self.accounts = {
            name: KlaviyoSandbox(account_id=account, key=f"pk_{name}")
            for name, account in ACCOUNTS.items()
        }
        super().__init__()

    async def _run(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        apps = {name: (sandbox.app, 0) for name, sandbox in self.accounts.items()}
        servers = await serve({"jericommerce": (self.jericommerce.app, 0), **apps})
        self.urls = {name: servers.url(name) for name in servers.ports}
        self._started.set()
        await self._stop.wait()
        await servers.aclose()

    def connections(self, mapping: Path) -> str:
        return "".join(
            CONNECTION.format(
                name=name,
                mapping=mapping,
                platform=self.urls["jericommerce"],
                klaviyo=self.urls[name],
                key=f"pk_{name}",
            )
            for name in self.accounts
        )


class SpreadPosting(Posting):
    """Webhooks of all connections to any replica: each again until one acknowledges it."""

    def __init__(self, replicas: list[Daemon], traffic: Traffic, seed: int) -> None:
        super().__init__(seed)
        self._replicas, self._traffic = replicas, traffic
        self.names = list(ACCOUNTS)
        self.frozen: set[Daemon] = set()
        self.of: dict[str, str] = {}

    def run(self) -> None:
        unanswered: list[tuple[str, dict[str, str], bytes]] = []
        while unanswered or not self.stopped.wait(self.random.expovariate(_PER_SECOND)):
            if unanswered and (self.stopped.is_set() or self.random.random() < 0.5):
                id, headers, body = unanswered.pop(0)
            else:
                headers, body = self._traffic.make_event()
                id = f"jericommerce:{json.loads(body)['id']}"
                self.issued.add(id)
                self.of[id] = self.random.choice(self.names)
            up = [replica for replica in self._replicas if replica not in self.frozen]
            if self.random.choice(up).post(headers, body, self.of[id]) == 202:
                self.acknowledged.add(id)
            else:
                unanswered.append((id, headers, body))


class HolderWatch:
    """How long each account was held by no replica that can work, as the sandboxes see it: the time
    between a fault and the next request of the account."""

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts
        self.seconds: list[float] = []

    def after_fault(self, at: float, before: dict[str, int]) -> None:
        threads = [
            threading.Thread(target=self._until_request, args=(name, at, count), daemon=True)
            for name, count in before.items()
        ]
        for thread in threads:
            thread.start()

    def requests(self) -> dict[str, int]:
        return {name: len(s.unique_ids()) for name, s in self._accounts.accounts.items()}

    def _until_request(self, name: str, at: float, count: int) -> None:
        while time.monotonic() - at < _TAKEN_OVER_WITHIN:
            if len(self._accounts.accounts[name].unique_ids()) > count:
                self.seconds.append(time.monotonic() - at)
                return
            time.sleep(0.05)


async def _clear(url: str) -> None:
    database = open_database(url)
    await database.write(
        lambda c: [c.execute(table.delete()) for table in metadata.tables.values()]
    )
    await database.aclose()


@pytest.fixture
def accounts() -> Iterator[Accounts]:
    running = Accounts()
    yield running
    running.stop()


def held_connections(replica: Daemon) -> set[str]:
    """The connections whose account's lease a replica says that it holds."""
    lines = replica.get("/metrics")[1].splitlines()
    held = [line for line in lines if "lease_held{" in line and line.endswith(" 1.0")]
    labels = {line.split('account="')[1].split('"')[0] for line in held}
    return {name for name, account in ACCOUNTS.items() if account_label(account) in labels}


@pytest.mark.campaign
def test_replicas_that_are_killed_frozen_and_stopped_lose_and_repeat_nothing(
    accounts: Accounts, tmp_path: Path, root: Path, postgres_url: str
) -> None:
    faults = int(os.environ.get("CLUSTER_FAULTS", "200"))
    seed = int(os.environ.get("CLUSTER_SEED", "1"))
    rng = random.Random(seed)
    with ExitStack() as stack:
        stack.callback(lambda: asyncio.run(_clear(postgres_url)))
        (folder := tmp_path / "pooler").mkdir()
        pooled = stack.enter_context(pooler(folder, postgres_url))
        replicas = []
        for n in range(REPLICAS):
            (folder := tmp_path / f"replica{n}").mkdir()
            replica = Daemon(folder, accounts, root / "mappings", config="")
            mapping = folder / "mappings" / "jericommerce.toml"
            text = CONFIG.format(pooled=pooled, database=postgres_url, port=replica.port)
            replica.config.write_text(text + accounts.connections(mapping))
            stack.callback(replica.clean)
            replica.start()
            replicas.append(replica)
        for replica in replicas:
            replica.wait_until_ready()
        traffic = Traffic(accounts.jericommerce, "unused", seed=seed)
        posting, watch = SpreadPosting(replicas, traffic, seed), HolderWatch(accounts)
        with posting.in_progress():
            for _ in range(faults):
                count = len(posting.acknowledged) + rng.randint(20, 80)
                until("more webhooks are acknowledged", posting.has_acknowledged(count))
                disturb(rng, rng.choice(replicas), posting, watch)
        for replica in replicas:
            replica.wait_until_ready()
        until(
            "all is delivered",
            lambda: all(
                accounts.accounts[posting.of[id]].recorded(id) for id in posting.acknowledged
            ),
            PATIENCE,
        )

        counts = {name: s.unique_ids() for name, s in accounts.accounts.items()}
        assert {n for of in counts.values() for n in of.values()} == {1}
        assert {id for of in counts.values() for id in of} <= posting.issued
        states = [sandbox.state() for sandbox in accounts.accounts.values()]
        assert [state["violations"] for state in states] == [{}] * len(ACCOUNTS)
        assert sum(int(str(state["throttled"])) for state in states) == 0
        until(
            "every account is held",
            lambda: {name for r in replicas for name in held_connections(r)} == set(ACCOUNTS),
            PATIENCE,
        )
    waits = sorted(watch.seconds)
    print(
        f"{faults} faults, {len(posting.acknowledged)} webhooks, seconds until the next delivery: "
        f"median {statistics.median(waits):.1f}, p95 {waits[int(len(waits) * 0.95)]:.1f}, "
        f"longest {waits[-1]:.1f}"
    )


def disturb(
    rng: random.Random, replica: Daemon, posting: SpreadPosting, watch: HolderWatch
) -> None:
    """Kill, freeze or stop a replica, and let it come back."""
    before, kind = watch.requests(), rng.choice(["kill", "kill", "freeze", "stop"])
    hit = held_connections(replica)
    at = time.monotonic()
    if kind == "freeze":
        posting.frozen.add(replica)
        replica.send(signal.SIGSTOP)
        watch.after_fault(at, {name: before[name] for name in hit})
        time.sleep(rng.uniform(2.0, 16.0))
        replica.send(signal.SIGCONT)
        posting.frozen.discard(replica)
        return
    if kind == "kill":
        replica.kill()
    else:
        replica.send(signal.SIGTERM)
        replica.end()
    watch.after_fault(at, {name: before[name] for name in hit})
    time.sleep(rng.uniform(0.0, 3.0))
    replica.start()
