"""An audience that is synced to a list: the cost of a first sync and a change, against the minimum.

The audience is generated page by page and never in memory; store, scans, lane, sink and job tracker
are the daemon's, on an SQLite file, in this process. Klaviyo is the sandbox in another process
without limits, so that the peak memory is the connector's only.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import resource
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from bench.processes import free_port, running
from connector.domain.lanes import LaneState
from connector.domain.memberships import Link
from connector.klaviyo.api import KlaviyoApi, headers, private_key
from connector.klaviyo.groups import KlaviyoGroups
from connector.klaviyo.limits import (
    BULK_PROFILES,
    BULK_PROFILES_MAX,
    CREATE_LIST,
    GET_LIST_PROFILES,
    GET_PROFILES,
    LIMITS,
    MEMBERS_MAX,
    REMOVE_MEMBERS,
)
from connector.klaviyo.sink.jobs import ImportJobs
from connector.klaviyo.sink.members import MemberSink
from connector.net.http import Http, get
from connector.net.rate_limit import Limit, RateLimiter
from connector.pipeline.dispatch import Dispatcher, Policy
from connector.pipeline.import_jobs import ImportJobTracker
from connector.pipeline.rendering import MembershipRenderer
from connector.ports import Fence, Member, MembershipCounts, MembersPage
from connector.runtime.clock import SystemClock
from connector.runtime.metrics import Metrics
from connector.runtime.supervisor import SupervisedWorker
from connector.store.sql import SqlStore, open_store
from connector.sync.approval_requests import ApprovalRequests
from connector.sync.memberships.remote_groups import KlaviyoLists, PlatformAudiences
from connector.sync.memberships.removals import RemovalGuard, RemovalLimit
from connector.sync.memberships.scans import GroupScan, ScanServices, SourceScan, TargetReadBack
from connector.sync.memberships.target_sync import TargetPolicy, TargetSync
from connector.testing.fakes.lease import FakeLease

PAGE = 200
"""Members per page of the platform."""
_CHURN_EVERY = 200
"""One of this many members leaves and one is new: a change of 1 %."""


@dataclass(frozen=True, slots=True)
class Step:
    """The cost of a step. `writes`, `look_ups`: requests to Klaviyo; `minimum`: for both. `pages`:
    pages of the platform; `read_back`: pages of Klaviyo; `jobs`: requests to follow the imports.
    `wrong`: people who are on the list and should not be, or the other way round."""

    what: str
    changed: int
    writes: int
    look_ups: int
    minimum: int
    pages: int
    read_back: int
    jobs: int
    seconds: float
    peak: float
    wrong: int


class Audience:
    """`size` people. After the change every 200th has left, and as many are new."""

    def __init__(self, size: int) -> None:
        self._size = size
        self.changed = False
        self.pages = 0

    async def names(self) -> Mapping[str, str]:
        return {"A1": "vip"}

    async def members(self, audience: str, cursor: str | None) -> MembersPage:
        self.pages += 1
        start = int(cursor or 0)
        end = start + PAGE
        last = self._size + (self._size // _CHURN_EVERY if self.changed else 0)
        shown = range(start, min(end, last))
        people = [
            n for n in shown if not (self.changed and n < self._size and n % _CHURN_EVERY == 0)
        ]
        found = [Member(f"id-{n}", f"person{n}@example.com") for n in people]
        return MembersPage(found, str(end), end < last)


@dataclass
class Environment:
    """A store, an audience, a list, and the lane between them."""

    store: SqlStore
    audience: Audience
    scan: SourceScan
    list: TargetReadBack
    dispatcher: Dispatcher[Any]
    receipts: ImportJobTracker
    url: str
    target: int

    async def read(self, group_scan: GroupScan) -> None:
        """Run one full scan."""
        group_scan.trigger()
        while True:
            await asyncio.sleep(0.01)
            if await group_scan.idle() and await group_scan.idle():
                break
        if attention := await group_scan.attention():
            raise RuntimeError(attention[0].text)

    async def deliver(self) -> None:
        """Until Klaviyo has confirmed every change."""
        self.dispatcher.wake()
        while True:
            await asyncio.sleep(0.05)
            if await self.dispatcher.idle(60) and not await self.receipts.poll():
                return

    async def requests(self) -> dict[str, int]:
        _, text = await get(f"{self.url}/_sandbox/state")
        found: dict[str, dict[str, int]] = json.loads(text)["requests"]
        return {label: sum(by.values()) for label, by in found.items()}

    async def counts(self) -> MembershipCounts:
        return await self.store.target_members.counts(self.target)


async def measure(size: int, folder: Path) -> list[Step]:
    """The first sync, the list read back, and a change of 1 %."""
    port = free_port()
    serve = ("-m", "bench.audience", str(port))
    with running(serve, folder=folder, port=port):
        async with _make_env(size, folder, f"http://127.0.0.1:{port}") as env:
            steps = [await _first(env, size), await _read_back(env)]
            env.audience.changed = True
            steps.append(await _change(env, size))
            return steps


async def _first(env: Environment, size: int) -> Step:
    async def work() -> None:
        await env.read(env.list)
        await env.read(env.scan)
        await env.deliver()

    return await _step(env, "first sync", size, 1 + math.ceil(size / BULK_PROFILES_MAX), work)


async def _read_back(env: Environment) -> Step:
    return await _step(env, "read back", 0, 0, lambda: env.read(env.list))


async def _change(env: Environment, size: int) -> Step:
    some = size // _CHURN_EVERY
    least = math.ceil(some / BULK_PROFILES_MAX) + math.ceil(some / MEMBERS_MAX)

    async def work() -> None:
        await env.read(env.scan)
        await env.deliver()

    return await _step(env, "1 % change", 2 * some, least, work)


async def _step(env: Environment, what: str, changed: int, minimum: int, work: Any) -> Step:
    before, pages, began = await env.requests(), env.audience.pages, time.monotonic()
    await work()
    seconds = time.monotonic() - began
    after = await env.requests()
    new = {label: count - before.get(label, 0) for label, count in after.items()}
    counts = await env.counts()
    return Step(
        what,
        changed,
        writes=sum(new.get(label, 0) for label in (BULK_PROFILES, REMOVE_MEMBERS, CREATE_LIST)),
        look_ups=new.get(GET_PROFILES, 0),
        minimum=minimum,
        pages=env.audience.pages - pages,
        read_back=new.get(GET_LIST_PROFILES, 0),
        jobs=sum(n for label, n in new.items() if label.startswith(f"GET {_JOBS}")),
        seconds=seconds,
        peak=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        wrong=counts.wanted + counts.actual - 2 * counts.matching,
    )


_JOBS = BULK_PROFILES.partition(" ")[2]


@contextlib.asynccontextmanager
async def _make_env(size: int, folder: Path, url: str) -> AsyncIterator[Environment]:
    clock = SystemClock()
    store = await open_store(f"sqlite:///{folder}/connector.db")
    memberships = store.memberships
    fence = await store.leases.acquire("store", "bench", now=clock.now(), ttl=10**9)
    assert isinstance(fence, Fence)
    lane = await store.lanes.ensure("bench", "klaviyo", "membership")
    await store.member_groups.set_links(lane, [Link("vip", "VIP")], account="bench")
    target, source = await store.member_groups.all()
    limiter = RateLimiter(
        "bench", dict.fromkeys(LIMITS, Limit(10**6, 10**7)), clock=clock, share=1.0
    )
    key = private_key(SecretStr("pk_sandbox"))
    http = Http(url, vendor="klaviyo", clock=clock, credential=key, headers=headers("2026-10-15"))
    api = KlaviyoApi(http, limiter, clock, store.facts.save_usage)
    groups, audience, lease = KlaviyoGroups(api), Audience(size), FakeLease(fence)
    dispatcher: Dispatcher[Any] = Dispatcher(
        lane,
        LaneState(),
        queue=memberships,
        lanes=store.lanes,
        sink=MemberSink(api, trust_ids=True),
        renderer=MembershipRenderer(),
        lease=lease,
        clock=clock,
        metrics=Metrics("bench"),
        policy=Policy(bulk_threshold=0),
    )
    receipts = ImportJobTracker(
        lane,
        store.membership_receipts,
        ImportJobs(api),
        lease,
        clock,
        Metrics("bench"),
        on_settled=dispatcher.wake,
    )
    target_sync = TargetSync(
        target.id,
        TargetPolicy({"vip": RemovalLimit()}),
        groups=store.member_groups,
        scans=store.group_scans,
        members=store.target_members,
        removals=RemovalGuard(ApprovalRequests("bench", store.approvals, clock)),
        first_sync_guard=None,
        clock=clock,
        notify_lane=dispatcher.wake,
    )
    services = ScanServices(
        store.member_groups, store.group_scans, lease, clock, is_blocked=lambda: False
    )
    lists, audiences = KlaviyoLists(groups, creates=True), PlatformAudiences(audience)
    # They scan when they are triggered, and not by themselves.
    every = 10.0**9
    read_back = TargetReadBack(target, lists, target_sync, services, every=every)
    source_scan = SourceScan(source, audiences, target_sync, services, every=every)
    dispatcher.start()
    workers = [
        SupervisedWorker("scan", scan, subject="bench", clock=clock, metrics=Metrics("bench"))
        for scan in (read_back, source_scan)
    ]
    for worker in workers:
        worker.start()
    try:
        yield Environment(
            store, audience, source_scan, read_back, dispatcher, receipts, url, target.id
        )
    finally:
        await dispatcher.stop(5.0)
        await asyncio.gather(*(worker.stop(1.0) for worker in workers))
        await api.aclose()
        await store.aclose()


def text(steps: Sequence[Step]) -> str:
    """The result as text."""
    lines = []
    for step in steps:
        spent = f"{step.writes:,} write, {step.look_ups:,} look up ids (minimum {step.minimum:,})"
        lines.append(
            f"{step.what}: {step.changed:,} people, {spent}, {step.wrong} people wrong, "
            f"{step.seconds:.1f} s, peak {step.peak:.0f} MB"
        )
        lines.append(
            f"    pages of the platform {step.pages:,}, of the list {step.read_back:,}; "
            f"following jobs {step.jobs:,}"
        )
    return "\n".join(lines)


def serve(port: int) -> None:
    """Serve the Klaviyo sandbox in a separate process."""
    import uvicorn

    from connector.sandbox import KlaviyoSandbox

    sandbox = KlaviyoSandbox(limits=False, job_delay=0.2)
    uvicorn.run(sandbox.app, host="127.0.0.1", port=port, log_level="warning")


if __name__ == "__main__":
    serve(int(sys.argv[1]))
