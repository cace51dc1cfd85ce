"""What grows with rows, people, connections and a busy day: seconds, and what waits meanwhile.

Each step has a store of its own, filled by SQL, and a process of its own for its peak memory.
Beside a step a commit is made every few milliseconds, and the event loop is asked as often
whether it still turns: the longest of both is shown.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

from bench.processes import environment
from connector.app.collector import freeze_heap
from connector.app.maintenance import Maintenance
from connector.app.wiring.limiters import RateLimiters
from connector.config import Retention
from connector.domain.errors import Problem
from connector.domain.lanes import DeliveryMode, Lane, LaneId, Millis
from connector.domain.outcomes import Pending
from connector.domain.profile_state import address_hash
from connector.domain.profiles import Observation
from connector.domain.records import Page, Record, State
from connector.klaviyo.limits import LIMITS
from connector.net.http import client
from connector.ports import BackfillPage, Fence, ListedPerson, RetryPolicy
from connector.runtime.clock import SystemClock
from connector.runtime.metrics import Metrics, account_label
from connector.service.dead_letters import change
from connector.service.queries import Queries
from connector.store.sql import SqlStore, open_store

_TICK = 0.005
_LONG = 50.0
"""ms."""
_DAY = 86_400_000
_CONNECTIONS = 50
_BUSY_SECONDS = 250
"""Seconds of a day in which an account was called, for each of four endpoints."""
_ACCOUNTS_MEASURED = 3


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much there is of what. `clients` are connections to remote APIs."""

    rows: int
    people: int
    clients: int
    accounts: int


@dataclass(frozen=True, slots=True)
class Run:
    """One step. `commit`: the longest commit beside it, `freeze`: the longest standstill of the
    event loop, both in ms. `work`: CPU of the longest piece of work in the writer in ms, `longest`:
    its function, `long`: how many took more than 50 ms, of `pieces`. `memory`: MiB that the peak
    grew by."""

    step: str
    seconds: float
    cpu: float
    commit: float
    freeze: float
    work: float
    longest: str
    long: int
    pieces: int
    memory: float


class _Pieces:
    """The longest and the long pieces of work in the writer of a store, in seconds of CPU."""

    def __init__(self, store: SqlStore) -> None:
        self.count = self.long = 0
        self.longest, self.name = 0.0, ""
        database: Any = store.database
        database.write = partial(self._write, database.write)

    async def _write(self, write: Callable[..., Awaitable[Any]], work: Any, **options: Any) -> Any:
        def timed(c: Any) -> Any:
            began = time.thread_time()
            try:
                return work(c)
            finally:
                self._add(time.thread_time() - began, work.__qualname__)

        return await write(timed, **options)

    def _add(self, seconds: float, name: str) -> None:
        self.count += 1
        self.long += seconds * 1000 > _LONG
        if seconds > self.longest:
            self.longest, self.name = seconds, name.partition(".<")[0]


class _Hurry(SystemClock):
    """Sleeps only as long as others have something to do: pauses between parts are not measured."""

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)


# ── what there is ────────────────────────────────────────────────────────────────────────────────

_NUMBERS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count}) "
_RECORD = (
    "INSERT INTO outbox (lane, state, priority, due, attempts, detail, delivery_mode, digest, "
    "unique_id, name, occurred_at, received_at, via, data, settled_at, problem) "
)


def records_sql(count: int, lane: str, state: State, at: int, problem: str = "NULL") -> str:
    """`lane` is an SQL expression of `i`, the number of the row."""
    return (
        _RECORD + _NUMBERS.format(count=count) + f"SELECT {lane}, {int(state)}, 0, {at}, 0, '', 0, "
        f"randomblob(16), 'u' || i, 'Balance changed', {at}, {at}, 'webhook', "
        f"randomblob(300), {at}, {problem} FROM n"
    )


def _memberships(count: int, lane: int, target: int, state: State, problem: str) -> str:
    return (
        "INSERT INTO memberships (lane, state, priority, due, attempts, detail, change, target, "
        "email, address, wanted, added_by_us, unconfirmed, last_seen_scan, lost_jobs, "
        "ambiguous_until, since, settled_at, problem) " + _NUMBERS.format(count=count) + "SELECT "
        f"{lane}, {int(state)}, 1, 1, 0, '', 0, {target}, 'person' || i || '@example.com', "
        f"randomblob(20), 1, 0, 0, 0, 0, 0, 1, 0, {problem} FROM n"
    )


def people_sql(count: int, connections: int = _CONNECTIONS) -> str:
    return (
        "INSERT INTO people (connection, platform_id, email, seen_at) "
        + _NUMBERS.format(count=count)
        + f"SELECT 'c' || (i % {connections}), 'p' || i, 'person' || i || '@example.com', 1 FROM n"
    )


async def _lanes(store: SqlStore) -> list[Lane]:
    """The lanes of the connections: of events, reads, profiles, lists and actions in turn."""
    kinds = [("klaviyo", "event"), ("yotpo", "profile"), ("klaviyo", "profile")]
    kinds += [("klaviyo", "membership"), ("yotpo", "action")]
    return [
        await store.lanes.ensure(f"c{n}", side, cast(Any, kind))
        for n in range(_CONNECTIONS)
        for side, kind in kinds
    ]


_EVENT_LANES = f"1 + 5 * (i % {_CONNECTIONS})"


async def _target(
    store: SqlStore, sizes: Sizes, state: State, problem: str
) -> tuple[int, list[str]]:
    """A list, and the statements that put everyone on it."""
    lanes = await _lanes(store)
    lane = lanes[3].id
    insert = (
        "INSERT INTO groups (id, connection, kind, name, target, active, title, lane, account, "
        "remove_foreign, writes_enabled, scan, completed_scan, scan_ms, applied_scan, members, "
        f"without_address, detail) VALUES (1, 'c0', 'list', 'VIP', 0, 1, '', {lane}, 'A', 0, 0, 0, "
        "0, 0, 0, 0, 0, '')"
    )
    return lane, [insert, _memberships(sizes.people, lane, 1, state, problem)]


# ── the steps ────────────────────────────────────────────────────────────────────────────────────

Act = Callable[[SqlStore, Sizes], Awaitable[None]]
Fill = Callable[[SqlStore, Sizes], Awaitable[Iterable[str]]]


async def _old_records(store: SqlStore, sizes: Sizes) -> list[str]:
    await _lanes(store)
    at = SystemClock().now() - 200 * _DAY
    return [
        records_sql(sizes.rows // 10, _EVENT_LANES, State.DEAD, at + 195 * _DAY, "'K400'"),
        records_sql(sizes.rows, _EVENT_LANES, State.ACCEPTED, at),
    ]


async def _retention(store: SqlStore, sizes: Sizes) -> None:
    unused = cast(Any, None)
    clock, metrics = _Hurry(), Metrics("bench")
    parts = (store, unused, unused, unused, unused, unused)
    await Maintenance(*parts, clock, metrics).apply_retention(Retention())


async def _busy_day(store: SqlStore, sizes: Sizes) -> list[str]:
    now = SystemClock().now() // 1000
    labels = [account_label(f"account-{n}") for n in range(sizes.accounts)]
    return [
        "INSERT INTO quota_usage (account, endpoint, second, count) "
        + _NUMBERS.format(count=_BUSY_SECONDS)
        + f"SELECT '{label}', '{endpoint}', {now} - i * 300, 2 FROM n"
        for label in labels
        for endpoint in list(LIMITS)[:4]
    ]


async def _spend(store: SqlStore, sizes: Sizes) -> None:
    limiters = RateLimiters(store, SystemClock(), Metrics("bench"))
    for n in range(min(sizes.accounts, _ACCOUNTS_MEASURED)):
        await limiters.of(f"account-{n}", LIMITS, connection=f"c{n}")


async def _held_list(store: SqlStore, sizes: Sizes) -> list[str]:
    problem = f"'{Problem.FIRST_SYNC.value}'"
    return (await _target(store, sizes, State.HELD, problem))[1]


async def _first_sync(store: SqlStore, sizes: Sizes) -> None:
    await store.target_members.enable_writes(1, now=Millis(2))


async def _synced_list(store: SqlStore, sizes: Sizes) -> list[str]:
    return (await _target(store, sizes, State.ACCEPTED, "NULL"))[1]


async def _resume(store: SqlStore, sizes: Sizes) -> None:
    await store.memberships.requeue(LaneId(4), [State.SKIPPED], now=Millis(2))


async def _crowd(store: SqlStore, sizes: Sizes) -> list[str]:
    await _lanes(store)
    at = SystemClock().now()
    return [people_sql(sizes.people), records_sql(sizes.rows, _EVENT_LANES, State.READY, at)]


async def _scrape(store: SqlStore, sizes: Sizes) -> None:
    await store.reports.people_by_state()
    await store.reports.backlog()


async def _overview_of(store: SqlStore, sizes: Sizes) -> list[str]:
    _, of_list = await _target(store, sizes, State.ACCEPTED, "NULL")
    source = (
        "INSERT INTO groups SELECT 2, connection, 'audience', 'vip', 1, active, remote_id, title, "
        "lane, account, 0, 0, 0, cursor, scan_started_at, saved_at, 0, completed_at, 0, 0, 0, 0, "
        "problem, detail FROM groups WHERE id = 1"
    )
    dead = records_sql(sizes.rows // 10, _EVENT_LANES, State.DEAD, SystemClock().now(), "'K400'")
    return [*of_list, source, *(await _crowd(store, sizes)), dead]


async def _overview(store: SqlStore, sizes: Sizes) -> None:
    await Queries(store, SystemClock()).status()


async def _dead_letters(store: SqlStore, sizes: Sizes) -> None:
    await store.dead_letters.groups()
    await store.dead_letters.find()


async def _retry_all(store: SqlStore, sizes: Sizes) -> None:
    async def report(progress: object) -> None:
        await asyncio.sleep(0)

    await change(store.dead_letters, "retry", {"all": True}, clock=SystemClock(), report=report)


async def _resume_lane(store: SqlStore, sizes: Sizes) -> None:
    for lane in range(1, 5 * _CONNECTIONS, 5):
        await store.outbox.extend_horizon(LaneId(lane), 1_000)


async def _nothing(store: SqlStore, sizes: Sizes) -> list[str]:
    await _lanes(store)
    return []


async def _clients(store: SqlStore, sizes: Sizes) -> None:
    made = []
    for _ in range(sizes.clients):
        made.append(client())
        await asyncio.sleep(0)
    for each in made:
        await each.aclose()


async def _import(store: SqlStore, sizes: Sizes) -> None:
    """Ten thousand people from listing to confirmed, with one import job."""
    lanes = await _lanes(store)
    reads, profiles = lanes[1], lanes[2]
    now, fence = SystemClock().now(), await _fence(store)
    run = await store.backfills.begin("c0", "platform", {}, now=now)
    await store.backfills.start(run.id, now=now, total=None, notes=())
    for start in range(0, 10_000, 1_000):
        listed = [_listed(n, profiles.id, now) for n in range(start, start + 1_000)]
        page = BackfillPage(str(start), more=True, listed=listed)
        await store.backfills.append_page(run.id, reads, page, now=now)
    claim = await store.profiles.claim(
        profiles, fence, now=now, limit=10_000, mode=DeliveryMode.BATCH, mapping="v1"
    )
    assert claim
    assert len(claim.entries) == 10_000, "not all were claimed"
    outcomes = [Pending(e.seq, "job", n, "r") for n, e in enumerate(claim.entries)]
    await store.profiles.settle(claim, outcomes, now=now, policy=RetryPolicy(_DAY))
    await store.profile_receipts.close_receipt(profiles.id, "job", now=now, failed={})


def _listed(n: int, lane: LaneId, at: Millis) -> ListedPerson:
    email = f"person{n}@example.com"
    observation = Observation(
        person=0,
        view={"balance": n},
        changes={f"field{k}": n + k for k in range(10)},
        identity={"email": email},
        at=at,
        mapping="v1",
        lane=lane,
        address=address_hash("A", email),
        backfill=True,
    )
    return ListedPerson(f"p{n}", email, observation, covers=frozenset({"balance"}))


async def _poll(store: SqlStore, sizes: Sizes) -> None:
    """Ten pages of a thousand records each, as a poll brings them."""
    lane, now = (await _lanes(store))[0], SystemClock().now()
    for start in range(0, 10_000, 1_000):
        records = [
            Record(
                key=f"k{n}",
                unique_id=f"u{n}",
                name="Balance changed",
                occurred_at=now,
                data=b"{}",
                email=f"person{n}@example.com",
            )
            for n in range(start, start + 1_000)
        ]
        await store.outbox.append([Page(lane, "poll", records, now)])


async def _fence(store: SqlStore) -> Fence:
    found = await store.leases.acquire("store", "bench", now=SystemClock().now(), ttl=_DAY)
    assert isinstance(found, Fence)
    return found


_STEPS: dict[str, tuple[Fill, Act]] = {
    "retention": (_old_records, _retention),
    "spend of 3 accounts": (_busy_day, _spend),
    "first sync of a list": (_held_list, _first_sync),
    "resume after shadow": (_synced_list, _resume),
    "scrape": (_crowd, _scrape),
    "overview": (_overview_of, _overview),
    "dead letters": (_overview_of, _dead_letters),
    "retry all dead letters": (_overview_of, _retry_all),
    "resume 50 lanes": (_crowd, _resume_lane),
    "clients": (_nothing, _clients),
    "import of 10,000": (_nothing, _import),
    "poll of 10,000": (_nothing, _poll),
}


# ── measuring ────────────────────────────────────────────────────────────────────────────────────


def measure(sizes: Sizes, folder: Path) -> list[Run]:
    """Every step, each in a process of its own."""
    runs = []
    for step in _STEPS:
        with tempfile.TemporaryDirectory(prefix="bench-growth-", dir=folder) as place:
            command = ["-m", "bench.growth", step, place, json.dumps(asdict(sizes))]
            output = subprocess.run(
                [sys.executable, *command],
                check=True,
                stdout=subprocess.PIPE,
                env=environment(Path(place)),
            ).stdout
        runs.append(Run(**json.loads(output.splitlines()[-1])))
        print(_line(runs[-1]), file=sys.stderr, flush=True)
    return runs


async def run(step: str, folder: Path, sizes: Sizes) -> Run:
    """Fill a store and take one step beside commits."""
    path = folder / "connector.db"
    url = f"sqlite:///{path}"
    fill, act = _STEPS[step]
    store = await open_store(url)
    statements = await fill(store, sizes)
    await store.aclose()
    with contextlib.closing(sqlite3.connect(path)) as db:
        for statement in statements:
            with db:
                db.execute(statement)
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    store = await open_store(url)
    beside = asyncio.create_task(_longest(lambda: store.facts.save_usage(())))
    turning = asyncio.create_task(_longest(lambda: asyncio.sleep(0)))
    await asyncio.sleep(0.1)
    pieces = _Pieces(store)
    freeze_heap()  # as the daemon does: a whole search for garbage takes 0.1 s
    memory, used, started_at = _peak(), _cpu(), time.monotonic()
    await act(store, sizes)
    seconds, cpu = time.monotonic() - started_at, _cpu() - used
    beside.cancel()
    turning.cancel()
    commit, freeze = await beside, await turning
    await store.aclose()
    return Run(
        step,
        seconds,
        cpu,
        commit * 1000,
        freeze * 1000,
        pieces.longest * 1000,
        pieces.name,
        pieces.long,
        pieces.count,
        _peak() - memory,
    )


async def _longest(call: Callable[[], Awaitable[Any]]) -> float:
    """Seconds of the longest of many calls, until cancelled; a call that has not ended counts."""
    longest, started_at = 0.0, time.monotonic()
    with contextlib.suppress(asyncio.CancelledError):
        while True:
            started_at = time.monotonic()
            await call()
            longest = max(longest, time.monotonic() - started_at)
            started_at = time.monotonic()
            await asyncio.sleep(_TICK)
            longest = max(longest, time.monotonic() - started_at - _TICK)
    return max(longest, time.monotonic() - started_at)


def text(runs: Sequence[Run]) -> str:
    """A table."""
    heads = [("s", 9), ("CPU s", 9), ("commit ms", 11), ("freeze ms", 11), ("work ms", 9)]
    heads += [("> 50 ms", 14), ("MiB", 6), ("  longest work", 14)]
    lines = [" " * 22 + "".join(f"{head:>{width}}" for head, width in heads)]
    lines += map(_line, runs)
    return "\n".join(lines)


def _line(run: Run) -> str:
    return (
        f"{run.step:<22}{run.seconds:>9.2f}{run.cpu:>9.2f}{run.commit:>11,.0f}{run.freeze:>11,.0f}"
        f"{run.work:>9.0f}{f'{run.long} of {run.pieces:,}':>14}{run.memory:>6.0f}  {run.longest}"
    )


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    from connector.cli import session

    name, where, numbers = sys.argv[1:]
    found = session.run(run(name, Path(where), Sizes(**json.loads(numbers))))
    print(json.dumps(asdict(found)))
