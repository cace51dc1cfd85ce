"""People as states: how many requests a backfill, a change and a second look cost, against the
least that could do.

Everybody is observed once as a read shows him, then one in a hundred changes, then everybody is
observed again and nothing has changed. The store, the lane, the sink and the receipts are the
daemon's, on an SQLite file; Klaviyo is the sandbox in this process, its limits out of the way. The
reads themselves are left out: their number is the platform's affair (one a person).
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
from connector.ports import Fence, Lease, PersonSnapshot, Reader, RetryPolicy
from connector.runtime.clock import SystemClock
from connector.runtime.metrics import Metrics
from connector.sandbox import KlaviyoSandbox
from connector.sandbox.jericommerce.people import Person, make_people
from connector.store.sql import SqlStore, open_store
from connector.store.tables import people

ROOT = Path(__file__).parent.parent
_HORIZON = 3 * 86_400_000
_AT_ONCE = 1_000
_BULK_THRESHOLD = 50
_WRITES = ("POST /api/profile-import", "POST /api/profile-bulk-import-jobs")


@dataclass(frozen=True, slots=True)
class Step:
    """What one step cost: requests by endpoint, and the least number of requests that write."""

    what: str
    changed: int
    minimum: int
    requests: dict[str, int]
    seconds: float
    wrong: int = 0

    @property
    def writes(self) -> int:
        return sum(count for label, count in self.requests.items() if label in _WRITES)


class _StaticLease(Lease):
    def __init__(self, fence: Fence) -> None:
        self._fence = fence

    @property
    def fence(self) -> Fence:
        return self._fence

    def valid(self) -> bool:
        return True


@dataclass
class Environment:
    """A store, a lane of profiles and Klaviyo."""

    store: SqlStore
    lane: Lane
    reads: Lane
    lease: _StaticLease
    klaviyo: KlaviyoSandbox
    api: KlaviyoApi
    profile_reads: ProfileReadSink
    dispatcher: Dispatcher[ProfileWrite]
    receipts: ImportJobTracker
    clock: SystemClock = field(default_factory=SystemClock)

    async def observe(self, crowd: Sequence[Person]) -> None:
        """These people as a read would show them now."""
        now = self.clock.now()
        await self.store.reads.request(self.reads.id, dict.fromkeys(range(1, len(crowd) + 1), now))
        while claim := await self.store.reads.claim(
            self.reads,
            self.lease.fence,
            now=self.clock.now(),
            limit=_AT_ONCE,
            mode=DeliveryMode.BATCH,
            mapping="",
        ):
            seen = [
                Observed(e.seq, self._observation(e.seq, crowd[e.seq - 1], Millis(e.occurred_at)))
                for e in claim.entries
            ]
            await self.store.reads.settle(
                claim, seen, now=self.clock.now(), policy=RetryPolicy(_HORIZON)
            )

    def _observation(self, number: int, person: Person, at: Millis) -> Observation:
        customer = person.view("demo")
        link = f"https://jeri.link/demo/download?token={'and0Lj' * 8}{number}"
        view, covers = person_view(customer, {"pass_url": link}), person_covers(customer)
        snapshot = PersonSnapshot(view, covers | {"pass_url"})
        return self.profile_reads.observation(number, snapshot, at=at, since=at)

    async def deliver(self) -> None:
        """Until Klaviyo has everything and said so."""
        self.dispatcher.wake()
        while True:
            await asyncio.sleep(0.01)
            if await self.dispatcher.idle_for(60) and not await self.receipts.poll():
                return

    def requests(self) -> dict[str, int]:
        found = cast(dict[str, dict[str, int]], self.klaviyo.state()["requests"])
        return {label: sum(by.values()) for label, by in found.items()}

    def wrong(self, crowd: Sequence[Person]) -> int:
        """People whose fields at Klaviyo are not the platform's."""
        count = 0
        for number, person in enumerate(crowd, 1):
            seen = self._observation(number, person, Millis(0))
            wanted = {name: value for name, value in seen.changes.items() if value is not None}
            found = self.klaviyo.profile(person.email)
            count += found is None or found["properties"] != wanted
        return count


async def measure(count: int, folder: Path, *, share: float = 0.01) -> list[Step]:
    """The three steps for so many people, of whom `share` change."""
    crowd = make_people(count, time.time())
    env = await _make_env(folder, crowd)
    loop = asyncio.create_task(env.dispatcher.run())
    steps = []
    some = crowd[:: round(1 / share)]
    try:
        steps.append(await _step(env, "backfill", crowd, crowd))
        for person in some:
            person.balance += 1
        steps.append(await _step(env, f"{share:.0%} change", crowd, some))
        steps.append(await _step(env, "second look", crowd, []))
    finally:
        await env.dispatcher.stop(5.0)
        await loop
        await env.api.aclose()
        await env.store.aclose()
    return steps


async def _step(env: Environment, what: str, crowd: list[Person], changed: list[Person]) -> Step:
    before, began = env.requests(), time.monotonic()
    await env.observe(crowd)
    await env.deliver()
    seconds = time.monotonic() - began
    after = env.requests()
    return Step(
        what,
        len(changed),
        _minimum(env, changed, whole=changed is crowd),
        {label: n - before.get(label, 0) for label, n in after.items() if n > before.get(label, 0)},
        seconds,
        env.wrong(crowd),
    )


def _minimum(env: Environment, changed: Sequence[Person], *, whole: bool) -> int:
    """One request each while they are few, else as many import jobs as count or bytes ask for."""
    if len(changed) <= _BULK_THRESHOLD:
        return len(changed)
    max_bytes = sum(len(body) + 1 for body in _bodies(env, changed, whole))
    by_bytes = math.ceil(max_bytes / profile_body.ENVELOPE.max_bytes)
    return max(math.ceil(len(changed) / BULK_PROFILES_MAX), by_bytes)


def _bodies(env: Environment, changed: Sequence[Person], whole: bool) -> Iterator[bytes]:
    for number, person in enumerate(changed, 1):
        fields = env._observation(number, person, Millis(0)).changes
        written = fields if whole else {"balance": fields["balance"]}
        sets, _ = profile_state.split_unsets(written)
        yield profile_body.item(ProfileWrite({"email": person.email}, sets))


async def _make_env(folder: Path, crowd: Sequence[Person]) -> Environment:
    clock = SystemClock()
    store = await open_store(f"sqlite:///{folder}/connector.db")
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
        for number, person in enumerate(crowd, 1)
    ]
    await store._database.write(lambda c: c.execute(insert(people), rows))
    fence = await store.leases.acquire("store", "bench", now=clock.now(), ttl=10**9)
    assert isinstance(fence, Fence)
    klaviyo = KlaviyoSandbox(limits=False, job_delay=0.2)
    governor = RateLimiter(
        "bench", dict.fromkeys(LIMITS, Limit(10**6, 10**7)), clock=clock, share=1.0
    )
    http = Http(
        "http://127.0.0.1",
        vendor="klaviyo",
        clock=clock,
        credential=private_key(SecretStr("pk_sandbox")),
        headers=headers("2026-10-15"),
        http=httpx.AsyncClient(transport=httpx.ASGITransport(klaviyo.app)),
    )

    async def record_usage(spend: Sequence[QuotaUsage]) -> None:
        await store.facts.save_usage(spend)

    api = KlaviyoApi(http, governor, clock, record_usage)
    lease = _StaticLease(fence)
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
    receipts = ImportJobTracker(
        lane,
        store.profiles,
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
        store, lane, reads, lease, klaviyo, api, profile_reads, dispatcher, receipts, clock
    )


def text(steps: Sequence[Step]) -> str:
    """A few lines for a person."""
    lines = []
    for step in steps:
        lines.append(
            f"{step.what}: {step.changed:,} people to tell, {step.writes:,} requests write "
            f"(least {step.minimum:,}), {step.wrong} people wrong, {step.seconds:.1f} s"
        )
        lines += [f"    {label}: {count:,}" for label, count in sorted(step.requests.items())]
    return "\n".join(lines)
