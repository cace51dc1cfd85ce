"""Guarantee 12 with real processes: replicas on one PostgreSQL behind a pooler lose nothing, send
nothing twice and exceed no quota, whichever of them is killed, frozen or stopped, and whatever
becomes of the database meanwhile. A report holds a snapshot of it all the time.

`CLUSTER_FAULTS` faults and `CLUSTER_SEED`. It prints how long accounts were without a delivery.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import statistics
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from sqlalchemy import Connection, func, select

from connector.domain.records import State
from connector.runtime.metrics import account_label
from connector.sandbox import KlaviyoSandbox, Traffic, serve
from connector.store.database import open_database
from connector.store.tables import actions, memberships, outbox, profiles, reads
from tests.app.start import CONNECTION
from tests.store.pooler import Pooler, pooler
from tests.waiting import PATIENCE, until

from .conftest import Daemon, Platforms
from .database_faults import DatabaseFaults, PostgresServer
from .posting import Posting

ACCOUNTS = {f"shop{n}": f"ACCT{n:02}" for n in range(12)}
"""Connection → Klaviyo account."""
REPLICAS = 3
_PER_SECOND = 40
_WATCHED = 60.0
"""Seconds for which a delivery is waited for: what is measured is printed, not asserted."""

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
        """Their platform allows as much as they ask for, so that nothing waits but for a fault."""
        unlimited = CONNECTION.replace("rate_per_second = 100\n", "rate_per_second = 1000\n")
        return "".join(
            unlimited.format(
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
        while (
            not (stopped := self.stopped.wait(self.random.expovariate(_PER_SECOND))) or unanswered
        ):
            if unanswered and (stopped or self.random.random() < 0.5):
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


class DeliveryWatch:
    """How long accounts had no delivery, as the sandboxes see it."""

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts
        self._seconds: defaultdict[str, list[float]] = defaultdict(list)

    def begin(self, what: str, names: Iterable[str]) -> None:
        """Measure from now on, for the accounts of these connections."""
        at = time.monotonic()
        for name in names:
            count = self._delivered(name)
            arguments = (what, name, at, count)
            threading.Thread(target=self._until_delivery, args=arguments, daemon=True).start()

    def summary(self) -> str:
        lines = []
        for what, found in sorted(self._seconds.items()):
            waits = sorted(found)
            lines.append(
                f"  {what}: median {statistics.median(waits):.1f}, "
                f"p95 {waits[int(len(waits) * 0.95)]:.1f}, longest {waits[-1]:.1f} ({len(waits)})"
            )
        return "\n".join(lines)

    def _delivered(self, name: str) -> int:
        return len(self._accounts.accounts[name].unique_ids())

    def _until_delivery(self, what: str, name: str, at: float, count: int) -> None:
        while time.monotonic() - at < _WATCHED:
            if self._delivered(name) > count:
                self._seconds[what].append(time.monotonic() - at)
                return
            time.sleep(0.05)


async def unsettled(url: str) -> dict[str, int]:
    """Table → rows that are ready or claimed."""
    database = open_database(url)
    queues = (outbox, reads, profiles, memberships, actions)
    waiting = (State.READY, State.CLAIMED)

    def work(c: Connection) -> dict[str, int]:
        counts = {
            table.name: c.execute(
                select(func.count()).select_from(table).where(table.c.state.in_(waiting))
            ).scalar_one()
            for table in queues
        }
        return {name: count for name, count in counts.items() if count}

    try:
        return await database.read(work)
    finally:
        await database.aclose()


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    with tempfile.TemporaryDirectory(prefix="connector-pg-") as folder:
        running = PostgresServer(Path(folder) / "data")
        yield running
        running.stop()


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
def test_replicas_lose_and_repeat_nothing_whatever_fails(
    accounts: Accounts, tmp_path: Path, root: Path, server: PostgresServer
) -> None:
    faults = int(os.environ.get("CLUSTER_FAULTS", "200"))
    seed = int(os.environ.get("CLUSTER_SEED", "1"))
    rng = random.Random(seed)
    with ExitStack() as stack:
        (folder := tmp_path / "pooler").mkdir()
        pooled = stack.enter_context(pooler(folder, server.url))
        replicas = []
        for n in range(REPLICAS):
            (folder := tmp_path / f"replica{n}").mkdir()
            replica = Daemon(folder, accounts, root / "mappings", config="")
            mapping = folder / "mappings" / "jericommerce.toml"
            text = CONFIG.format(pooled=pooled.url, database=server.url, port=replica.port)
            replica.config.write_text(text + accounts.connections(mapping))
            stack.callback(replica.clean)
            replica.start()
            replicas.append(replica)
        for replica in replicas:
            replica.wait_until_ready()
        traffic = Traffic(accounts.jericommerce, "unused", seed=seed)
        posting = SpreadPosting(replicas, traffic, seed)
        disturbance = Disturbance(rng, replicas, posting, DeliveryWatch(accounts), server, pooled)
        with posting.in_progress(), ExitStack() as report:
            report.enter_context(server.snapshot_held())
            for _ in range(faults):
                count = len(posting.acknowledged) + rng.randint(20, 80)
                until("more webhooks are acknowledged", posting.has_acknowledged(count))
                if disturbance.next() in ("restart", "power cut"):
                    report.close()
                    report.enter_context(server.snapshot_held())
        for replica in replicas:
            replica.wait_until_ready()
        until(
            "all is delivered",
            lambda: all(
                accounts.accounts[posting.of[id]].recorded(id) for id in posting.acknowledged.copy()
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
        until("nothing waits", lambda: not asyncio.run(unsettled(server.url)), PATIENCE)
    print(f"{faults} faults, {len(posting.acknowledged)} webhooks")
    print(disturbance.summary())


class Disturbance:
    """One fault after the other: of a replica, of the database, or of both at once. What deliveries
    of the accounts concerned wait for is measured from a replica's fault on, and from the end of
    one of the database's."""

    def __init__(
        self,
        rng: random.Random,
        replicas: list[Daemon],
        posting: SpreadPosting,
        watch: DeliveryWatch,
        server: PostgresServer,
        pooled: Pooler,
    ) -> None:
        self._rng = rng
        self._replicas = replicas
        self._posting = posting
        self._watch = watch
        self._of_database = DatabaseFaults(server, pooled).kinds
        self._done: Counter[str] = Counter()

    def next(self) -> str:
        """The fault of the database; empty if there was none."""
        kind = self._rng.choice(["replica", "replica", "database", "both"])
        if kind == "replica":
            self._disturb_replica()
            return ""
        name = self._rng.choice(list(self._of_database))
        if kind == "both":
            # The accounts of a killed replica are taken over while the database is away.
            dead = self._rng.choice(self._replicas)
            dead.kill()
            self._disturb_database(name, delay=self._rng.uniform(0.0, 10.0))
            dead.start()
        else:
            self._disturb_database(name)
        return name

    def _disturb_database(self, name: str, *, delay: float = 0.0) -> None:
        time.sleep(delay)
        self._of_database[name](self._rng.uniform(1.0, 6.0))
        self._done[f"{name}, replica killed" if delay else name] += 1
        self._watch.begin(f"after a fault of the {_part(name)}", list(ACCOUNTS))

    def _disturb_replica(self) -> None:
        replica = self._rng.choice(self._replicas)
        kind = self._rng.choice(["kill", "kill", "freeze", "stop"])
        self._done[kind] += 1
        self._watch.begin(f"after {kind}", held_connections(replica))
        if kind == "freeze":
            self._posting.frozen.add(replica)
            replica.send(signal.SIGSTOP)
            time.sleep(self._rng.uniform(2.0, 16.0))
            replica.send(signal.SIGCONT)
            self._posting.frozen.discard(replica)
            return
        if kind == "kill":
            replica.kill()
        else:
            replica.send(signal.SIGTERM)
            replica.end()
        time.sleep(self._rng.uniform(0.0, 3.0))
        replica.start()

    def summary(self) -> str:
        counts = ", ".join(f"{count} × {name}" for name, count in sorted(self._done.items()))
        return f"{counts}\nSeconds until the next delivery of an account:\n{self._watch.summary()}"


def _part(name: str) -> str:
    return "pooler" if name in ("partition", "pool exhausted") else "database"
