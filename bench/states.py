"""Profiles as state: the number of requests for a backfill, a change and a repeated observation,
against the minimum.

Everyone is observed once, then one in a hundred changes, then everyone is observed again and
nothing has changed. Store, lane, sink and job tracker are the daemon's, on an SQLite file; Klaviyo
is the sandbox in this process without limits. Reads are left out: there is one per person.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
from pydantic import SecretStr
from sqlalchemy import insert

from connector.domain import profile_state
from connector.domain.lanes import DeliveryMode, Lane, LaneState, Millis, QuotaUsage
from connector.domain.outcomes import Observed
from connector.domain.profiles import Observation, ProfileWrite
from connector.klaviyo.api import KlaviyoApi, headers, private_key
from connector.klaviyo.limits import BULK_PROFILES_MAX, LIMITS
from connector.klaviyo.sink import profile_body
from connector.klaviyo.sink.jobs import ImportJobs
from connector.klaviyo.sink.profiles import ProfileSink
from connector.mapping import load
from connector.net.http import Http
from connector.net.rate_limit import Limit, RateLimiter
from connector.pipeline.dispatch import Dispatcher, Policy
from connector.pipeline.import_jobs import ImportJobTracker
from connector.pipeline.profile_reads import ProfileReadSink
from connector.pipeline.rendering import ProfileRenderer
from connector.platforms.jericommerce.view import person_covers, person_view
from connector.ports import Fence, PersonSnapshot, Reader, RetryPolicy
from connector.runtime.clock import SystemClock
from connector.runtime.metrics import Metrics
from connector.sandbox import KlaviyoSandbox
from connector.sandbox.jericommerce.people import Person, make_people
from connector.store import schema
from connector.store.database import open_database
from connector.store.sql import SqlStore, store_on
from connector.store.tables import people
from connector.testing.fakes.lease import FakeLease

ROOT = Path(__file__).parent.parent
_HORIZON = 3 * 86_400_000
_AT_ONCE = 1_000
_BULK_THRESHOLD = 50
_WRITES = ("POST /api/profile-import", "POST /api/profile-bulk-import-jobs")


@dataclass(frozen=True, slots=True)
class Step:
    """The cost of a step: requests by endpoint, and the minimum number of write requests."""

    name: str
    changed: int
    minimum: int
    requests: dict[str, int]
    seconds: float
    wrong: int = 0

    @property
    def writes(self) -> int:
        return sum(count for label, count in self.requests.items() if label in _WRITES)


@dataclass
class Environment:
    """A store, a profile lane and Klaviyo."""

    store: SqlStore
    lane: Lane
    reads: Lane
    lease: FakeLease
    klaviyo: KlaviyoSandbox
    api: KlaviyoApi
    profile_reads: ProfileReadSink
    dispatcher: Dispatcher[ProfileWrite]
    jobs: ImportJobTracker
    clock: SystemClock = field(default_factory=SystemClock)

    async def observe(self, everyone: Sequence[Person]) -> None:
        """Observe these people as reads would return them now."""
        now = self.clock.now()
        await self.store.reads.request(
            self.reads.id, dict.fromkeys(range(1, len(everyone) + 1), now)
        )
        while claim := await self.store.reads.claim(
            self.reads,
            self.lease.fence,
            now=self.clock.now(),
            limit=_AT_ONCE,
            mode=DeliveryMode.BATCH,
            mapping="",
        ):
            outcomes = [
                Observed(e.seq, self.observation(e.seq, everyone[e.seq - 1], Millis(e.occurred_at)))
                for e in claim.entries
            ]
            await self.store.reads.settle(
                claim, outcomes, now=self.clock.now(), policy=RetryPolicy(_HORIZON)
            )

    def observation(self, number: int, person: Person, at: Millis) -> Observation:
        customer = person.view("demo")
        link = f"https://jeri.link/demo/download?token={'and0Lj' * 8}{number}"
        view, covers = person_view(customer, {"pass_url": link}), person_covers(customer)
        snapshot = PersonSnapshot(view, covers | {"pass_url"})
        return self.profile_reads.observation(number, snapshot, at=at, since=at)

    async def deliver(self) -> None:
        """Wait until Klaviyo has confirmed everything."""
        self.dispatcher.wake()
        while True:
            await asyncio.sleep(0.01)
            if await self.dispatcher.idle(60) and not await self.jobs.poll():
                return

    def requests(self) -> dict[str, int]:
        found = cast(dict[str, dict[str, int]], self.klaviyo.state()["requests"])
        return {label: sum(by.values()) for label, by in found.items()}

    def wrong(self, everyone: Sequence[Person]) -> int:
        """The number of people whose fields at Klaviyo differ from the platform's."""
        count = 0
        for number, person in enumerate(everyone, 1):
            changes = self.observation(number, person, Millis(0)).changes
            wanted = {name: value for name, value in changes.items() if value is not None}
            profile = self.klaviyo.profile(person.email)
            count += profile is None or profile["properties"] != wanted
        return count


async def measure(count: int, folder: Path, *, share: float = 0.01) -> list[Step]:
    """The three steps for `count` people; `share` of them change."""
    everyone = make_people(count, time.time())
    env = await _make_env(folder, everyone)
    env.dispatcher.start()
    steps = []
    changing = everyone[:: round(1 / share)]
    try:
        steps.append(await _step(env, "backfill", everyone, everyone))
        for person in changing:
            person.balance += 1
        steps.append(await _step(env, f"{share:.0%} change", everyone, changing))
        steps.append(await _step(env, "unchanged", everyone, []))
    finally:
        await env.dispatcher.stop(5.0)
        await env.api.aclose()
        await env.store.aclose()
    return steps


async def _step(env: Environment, name: str, everyone: list[Person], changed: list[Person]) -> Step:
    before, started_at = env.requests(), time.monotonic()
    await env.observe(everyone)
    await env.deliver()
    seconds = time.monotonic() - started_at
    after = env.requests()
    return Step(
        name,
        len(changed),
        _minimum(env, changed, whole=changed is everyone),
        {label: n - before.get(label, 0) for label, n in after.items() if n > before.get(label, 0)},
        seconds,
        env.wrong(everyone),
    )


def _minimum(env: Environment, changed: Sequence[Person], *, whole: bool) -> int:
    """One request each for few people, else the import jobs required by count or bytes."""
    if len(changed) <= _BULK_THRESHOLD:
        return len(changed)
    max_bytes = sum(len(body) + 1 for body in _bodies(env, changed, whole))
    by_bytes = math.ceil(max_bytes / profile_body.ENVELOPE.max_bytes)
    return max(math.ceil(len(changed) / BULK_PROFILES_MAX), by_bytes)


def _bodies(env: Environment, changed: Sequence[Person], whole: bool) -> Iterator[bytes]:
    for number, person in enumerate(changed, 1):
        fields = env.observation(number, person, Millis(0)).changes
        written = fields if whole else {"balance": fields["balance"]}
        sets, _ = profile_state.split_unsets(written)
        yield profile_body.item(ProfileWrite({"email": person.email}, sets))


async def _make_env(folder: Path, everyone: Sequence[Person]) -> Environment:
    clock = SystemClock()
    url = f"sqlite:///{folder}/connector.db"
    schema.prepare(url, "auto")
    database = open_database(url)
    store = store_on(database, url)
    lane = await store.lanes.ensure("bench", "klaviyo", "profile")
    reads = await store.lanes.ensure("bench", "jericommerce", "profile")
    rows = [
        {
            "id": number,
            "connection": "bench",
            "platform_id": person.id,
            "email": person.email,
            "seen_at": clock.now(),
        }
        for number, person in enumerate(everyone, 1)
    ]
    await database.write(lambda c: c.execute(insert(people), rows))
    fence = await store.leases.acquire("store", "bench", now=clock.now(), ttl=10**9)
    assert isinstance(fence, Fence)
    klaviyo = KlaviyoSandbox(limits=False, job_delay=0.2)
    limiter = RateLimiter(
        "bench", dict.fromkeys(LIMITS, Limit(10**6, 10**7)), clock=clock, share=1.0
    )
    http = Http(
        "http://127.0.0.1",
        vendor="klaviyo",
        clock=clock,
        credential=private_key(SecretStr("pk_sandbox")),
        headers=headers("2026-10-15"),
        transport=httpx.ASGITransport(klaviyo.app),
    )

    async def record_usage(usage: Sequence[QuotaUsage]) -> None:
        await store.facts.save_usage(usage)

    api = KlaviyoApi(http, limiter, clock, record_usage)
    lease = FakeLease(fence)
    dispatcher: Dispatcher[Any] = Dispatcher(
        lane,
        LaneState(),
        queue=store.profiles,
        lanes=store.lanes,
        sink=ProfileSink(api),
        renderer=ProfileRenderer(),
        lease=lease,
        clock=clock,
        metrics=Metrics("bench"),
        policy=Policy(bulk_threshold=_BULK_THRESHOLD),
    )
    jobs = ImportJobTracker(
        lane,
        store.profile_receipts,
        ImportJobs(api),
        lease,
        clock,
        Metrics("bench"),
        on_settled=dispatcher.wake,
    )
    profile_reads = ProfileReadSink(
        cast(Reader, SimpleNamespace(endpoint="", parallel=1, by_id=False)),
        load(ROOT / "mappings" / "jericommerce.toml").mapping,
        lane=lane.id,
        account="bench",
        email_change="new",
        on_leave="keep",
    )
    return Environment(
        store, lane, reads, lease, klaviyo, api, profile_reads, dispatcher, jobs, clock
    )


def text(steps: Sequence[Step]) -> str:
    """The result as text."""
    lines = []
    for step in steps:
        lines.append(
            f"{step.name}: {step.changed:,} people to write, {step.writes:,} write requests "
            f"(minimum {step.minimum:,}), {step.wrong} people wrong, {step.seconds:.1f} s"
        )
        lines += [f"    {label}: {count:,}" for label, count in sorted(step.requests.items())]
    return "\n".join(lines)
