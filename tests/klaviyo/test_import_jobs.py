"""An import job is followed to its end. People whose result is unknown are sent again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
import structlog
from sqlalchemy import select

from connector.domain.errors import AmbiguousError, DeliveryError, Problem, RetryLater
from connector.domain.lanes import DeliveryMode, Lane, Millis
from connector.domain.outcomes import Observed
from connector.domain.profile_state import write_from_json
from connector.domain.profiles import Observation
from connector.domain.records import Page, Record, State
from connector.klaviyo.limits import LIMITS
from connector.klaviyo.sink.jobs import ImportJobs
from connector.klaviyo.sink.profiles import ProfileSink
from connector.pipeline.import_jobs import ImportJobTracker
from connector.ports import Fence, Outgoing, RetryPolicy
from connector.runtime.metrics import Metrics
from connector.sandbox import KlaviyoSandbox
from connector.store.sql import SqlStore, open_store
from connector.store.tables import journal, profiles
from connector.testing.fakes.lease import FakeLease

from .conftest import WIDE, AutoAdvancingClock, Rig
from .test_profile_sink import Watched

HORIZON = 3 * 86_400_000
JOBS = "profile-bulk-import-jobs"


class Follower:
    """People, jobs that hold their writes, and who follows them; the store is a real one."""

    def __init__(self, store: SqlStore, lane: Lane, reads: Lane, lease: FakeLease) -> None:
        self.clock = clock = AutoAdvancingClock()
        self.klaviyo = KlaviyoSandbox(now=lambda: clock.now() / 1000, limits=False, job_delay=10**9)
        wire = Watched(self.klaviyo.app)
        self.rig = Rig(transport=wire, limits=dict.fromkeys(LIMITS, WIDE), clock=clock)
        self.sink = ProfileSink(self.rig.api)
        self.store, self.lane, self.reads, self.lease = store, lane, reads, lease
        self.settled_calls = 0
        self.jobs = ImportJobs(self.rig.api)
        self.receipts = ImportJobTracker(
            lane,
            store.profile_receipts,
            self.jobs,
            lease,
            clock,
            Metrics("test"),
            on_settled=self._settled,
        )

    def _settled(self) -> None:
        self.settled_calls += 1

    async def observe(self, count: int, **changes: Any) -> list[int]:
        """People p0 to p{count-1} as a read shows them."""
        now = self.clock.now()
        records = [
            Record(
                f"{n}-{now}",
                f"x:{n}",
                "e",
                now,
                b"{}",
                person=f"p{n}",
                email=f"p{n}@example.com",
                refresh=True,
            )
            for n in range(count)
        ]
        events = await self.store.lanes.ensure("acme", "klaviyo", "event")
        await self.store.outbox.append(
            [Page(events, "webhook", records, now, read_lane=self.reads.id)]
        )
        claim = await self.store.reads.claim(
            self.reads, self.lease.fence, now=now, limit=10_000, mode=DeliveryMode.BATCH, mapping=""
        )
        assert claim
        seen = [
            Observed(
                entry.seq,
                Observation(
                    person=entry.seq,
                    view={},
                    changes={"balance": 1, **changes},
                    identity={"email": entry.email or ""},
                    at=now,
                    mapping="v1",
                    lane=self.lane.id,
                    address=(entry.email or "").encode(),
                ),
            )
            for entry in claim.entries
        ]
        await self.store.reads.settle(claim, seen, now=now, policy=RetryPolicy(HORIZON))
        return [entry.seq for entry in claim.entries]

    async def send(self, *, mode: DeliveryMode = DeliveryMode.BATCH) -> int:
        """One import job of all that is ready, or each singly; how many people."""
        now = self.clock.now()
        claim = await self.store.profiles.claim(
            self.lane, self.lease.fence, now=now, limit=10_000, mode=mode, mapping=""
        )
        if claim is None:
            return 0
        outs = [Outgoing(entry, write_from_json(entry.data)) for entry in claim.entries]
        async for delivery in self.sink.deliver(
            outs, bulk=not mode, permits=len(outs) if mode else 1
        ):
            await self.store.profiles.settle(
                claim,
                delivery.outcomes,
                now=now,
                requests=delivery.requests,
                policy=RetryPolicy(HORIZON),
            )
        return len(outs)

    async def rows(self) -> list[Any]:
        query = select(profiles).order_by(profiles.c.person)
        return await self.store.database.read(lambda c: list(c.execute(query)))

    async def states(self) -> list[State]:
        return [State(row.state) for row in await self.rows()]

    @property
    def job(self) -> str:
        [job] = self.klaviyo.jobs.open()
        return job.id


@pytest.fixture
async def follower(tmp_path: Path) -> AsyncIterator[Follower]:
    store = await open_store(f"sqlite:///{tmp_path}/s.db")
    lane = await store.lanes.ensure("acme", "klaviyo", "profile")
    reads = await store.lanes.ensure("acme", "jericommerce", "profile")
    fence = await store.leases.acquire("store", "one", now=Millis(0), ttl=10**16)
    assert isinstance(fence, Fence)
    made = Follower(store, lane, reads, FakeLease(fence))
    yield made
    await made.rig.api.aclose()
    await store.aclose()


async def test_a_complete_job_confirms_its_people(follower: Follower) -> None:
    await follower.observe(3)
    await follower.send()
    assert await follower.receipts.poll() == 1
    assert await follower.states() == [State.CLAIMED] * 3
    follower.klaviyo.jobs.run(follower.job)
    assert await follower.receipts.poll() == 0
    assert await follower.states() == [State.ACCEPTED] * 3
    assert follower.settled_calls == 1
    assert await follower.send() == 0
    assert follower.klaviyo.profile("p2@example.com") == {
        "email": "p2@example.com",
        "properties": {"balance": 1},
    }


async def test_every_page_of_errors_is_read_and_each_error_settles_its_own_person(
    follower: Follower,
) -> None:
    await follower.observe(260)
    await follower.send()
    follower.klaviyo.jobs.fail_matching("5@example.com", "invalid", "Invalid input.")
    follower.klaviyo.jobs.fail_matching("p1", "invalid_phone", "No such number.")
    follower.klaviyo.jobs.run(follower.job)
    await follower.receipts.poll()
    requests: dict[str, Any] = follower.klaviyo.state()["requests"]  # type: ignore[assignment]
    pages = requests["GET /api/profile-bulk-import-jobs/{id}/import-errors"]["200"]
    refused = [n for n in range(260) if str(n)[0] == "1" or str(n)[-1] == "5"]
    assert len(refused) > 100
    assert pages == 2
    rows = await follower.rows()
    dead = [n for n, row in enumerate(rows) if row.state == State.DEAD]
    assert dead == refused
    assert {row.problem for row in rows if row.state == State.DEAD} == {
        Problem.IMPORT_REFUSED.value
    }
    assert {row.detail for row in rows if row.state == State.DEAD} == {
        "invalid: Invalid input. at /",
        "invalid_phone: No such number. at /",
    }
    assert all(follower.klaviyo.profile(f"p{n}@example.com") is None for n in refused[:5])


async def test_a_rejected_person_is_sent_the_newer_state_that_arrived_meanwhile(
    follower: Follower,
) -> None:
    await follower.observe(2)
    await follower.send()
    follower.clock.move(1.0)
    await follower.observe(1, balance=2)
    follower.klaviyo.jobs.fail_matching("p0@", "invalid", "Invalid input.")
    follower.klaviyo.jobs.run(follower.job)
    follower.klaviyo.jobs.clear_failures()
    await follower.receipts.poll()
    assert await follower.states() == [State.READY, State.ACCEPTED]
    assert await follower.send() == 1
    follower.klaviyo.jobs.run(follower.job)
    await follower.receipts.poll()
    found = follower.klaviyo.profile("p0@example.com")
    assert found is not None
    assert found["properties"] == {"balance": 2}


@pytest.mark.parametrize("end", ["cancel", "expire"])
async def test_people_of_a_cancelled_or_expired_job_are_sent_again(
    follower: Follower, end: str
) -> None:
    await follower.observe(2)
    await follower.send()
    getattr(follower.klaviyo.jobs, end)(follower.job)
    with structlog.testing.capture_logs() as logs:
        assert await follower.receipts.poll() == 0
    problem = Problem.JOB_CANCELLED if end == "cancel" else Problem.JOB_LOST
    assert [line["problem"] for line in logs] == [problem.value]
    assert logs[0]["people"] == 2
    assert await follower.send() == 2
    follower.klaviyo.jobs.run(follower.job)
    assert await follower.receipts.poll() == 0
    assert await follower.states() == [State.ACCEPTED] * 2


async def test_a_stuck_job_is_logged_once_and_shown_while_stuck(
    follower: Follower,
) -> None:
    await follower.observe(2)
    # They waited for hours before the job was made: that is not the job's fault.
    follower.clock.move(5 * 3600)
    await follower.send()
    follower.klaviyo.jobs.stall(follower.job)
    with structlog.testing.capture_logs() as logs:
        await follower.receipts.poll()
        assert await follower.receipts.attention() == []
        follower.clock.move(3601)
        for _ in range(3):
            await follower.receipts.poll()
            follower.clock.move(60)
    assert [line["problem"] for line in logs] == [Problem.JOB_STUCK.value]
    [item] = await follower.receipts.attention()
    assert "of 2 people" in item.text
    assert await follower.states() == [State.CLAIMED] * 2
    follower.klaviyo.jobs.run(follower.job)
    await follower.receipts.poll()
    assert await follower.receipts.attention() == []
    assert await follower.states() == [State.ACCEPTED] * 2


async def test_an_error_without_a_pointer_makes_the_whole_job_be_sent_again(
    follower: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    await follower.observe(3)
    await follower.send()
    follower.klaviyo.jobs.fail_matching("p1@", "invalid", "Invalid input.")
    follower.klaviyo.jobs.run(follower.job)
    from connector.sandbox.klaviyo import views

    monkeypatch.setattr(views, "pointer_of", lambda error: "/data/attributes")
    assert await follower.receipts.poll() == 0
    assert await follower.states() == [State.READY] * 3
    assert await follower.send() == 3


async def test_a_job_of_another_client_is_ignored(follower: Follower) -> None:
    await follower.observe(1)
    await follower.send()
    held = follower.job
    other = {
        "data": {
            "type": "profile-bulk-import-job",
            "attributes": {
                "profiles": {
                    "data": [{"type": "profile", "attributes": {"email": "x@example.com"}}]
                }
            },
        }
    }
    await follower.rig.api.post("POST /api/profile-bulk-import-jobs", orjson.dumps(other))
    follower.klaviyo.jobs.run(held)
    assert await follower.receipts.poll() == 0
    assert await follower.states() == [State.ACCEPTED]
    assert len(follower.klaviyo.jobs.open()) == 1


@pytest.mark.parametrize("kind", ["empty_job_id", "reset_after"])
async def test_an_unaccounted_job_keeps_its_people_in_flight_until_it_ends(
    follower: Follower, kind: Any
) -> None:
    await follower.observe(2)
    # Waiting for their turn counts for nothing.
    follower.clock.move(600)
    follower.klaviyo.faults.add(JOBS, kind, method="POST", count=1)
    await follower.send()
    unaccounted = follower.job
    assert await follower.receipts.poll() == 1
    follower.clock.move(120)
    assert await follower.receipts.poll() == 1
    assert await follower.states() == [State.CLAIMED] * 2
    follower.klaviyo.jobs.run(unaccounted)
    assert await follower.receipts.poll() == 0
    assert await follower.states() == [State.READY] * 2


async def test_a_lost_request_may_still_arrive_within_a_minute(follower: Follower) -> None:
    await follower.observe(2)
    follower.clock.move(600)
    follower.klaviyo.faults.add(JOBS, "reset_before", count=1)
    await follower.send()
    for _ in range(2):
        assert await follower.receipts.poll() == 1
        follower.clock.move(29)
    follower.clock.move(3)
    assert await follower.receipts.poll() == 0
    assert await follower.send() == 2


async def test_a_lost_request_is_not_postponed_by_later_ones(follower: Follower) -> None:
    await follower.observe(1)
    follower.klaviyo.faults.add(JOBS, "reset_before", method="POST", count=10)
    await follower.send()
    follower.clock.move(40)
    await follower.observe(2)
    await follower.send()
    follower.clock.move(21)
    assert await follower.receipts.poll() == 1
    assert sorted(await follower.states()) == [State.READY, State.CLAIMED]


@pytest.mark.parametrize("endpoint", [JOBS, f"{JOBS}/{{id}}", f"{JOBS}/{{id}}/import-errors"])
@pytest.mark.parametrize("status", [429, 500, 503])
async def test_job_polling_survives_klaviyo_errors(
    follower: Follower, endpoint: str, status: int
) -> None:
    await follower.observe(2)
    await follower.send()
    follower.klaviyo.jobs.run(follower.job)
    follower.klaviyo.faults.add(endpoint, "status", status=status, count=1, method="GET")
    with pytest.raises(DeliveryError) as caught:
        await follower.receipts.poll()
    assert isinstance(caught.value, AmbiguousError if status == 500 else RetryLater)
    assert await follower.states() == [State.CLAIMED] * 2
    assert await follower.receipts.poll() == 0
    assert await follower.states() == [State.ACCEPTED] * 2


@pytest.mark.parametrize(
    "body",
    [
        {"data": []},
        {"data": None},
        {"data": {"attributes": {}}},
        [],
        {"data": {"id": "x", "attributes": None}},
    ],
)
async def test_a_response_of_unexpected_shape_does_not_end_a_job(body: Any) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json=body)

    rig = Rig(transport=httpx.MockTransport(answer), limits=dict.fromkeys(LIMITS, WIDE))
    with pytest.raises(AmbiguousError):
        await ImportJobs(rig.api).result("x")


async def test_the_open_jobs_of_all_pages_are_found(follower: Follower) -> None:
    wanted = set()
    for n in range(130):
        job = await follower.rig.api.post(
            "POST /api/profile-bulk-import-jobs",
            orjson.dumps(
                {
                    "data": {
                        "type": "profile-bulk-import-job",
                        "attributes": {
                            "profiles": {
                                "data": [
                                    {"type": "profile", "attributes": {"email": f"q{n}@a.com"}}
                                ]
                            }
                        },
                    }
                }
            ),
        )

        wanted.add(job.response().json()["data"]["id"])
    assert await follower.jobs.open() == wanted


async def test_without_a_lease_no_job_is_polled_or_settled(follower: Follower) -> None:
    await follower.observe(1)
    await follower.send()
    follower.klaviyo.jobs.run(follower.job)
    follower.lease.held = False
    assert await follower.receipts.poll() == 1
    assert await follower.states() == [State.CLAIMED]


async def test_each_result_is_kept_for_the_persons_timeline(follower: Follower) -> None:
    await follower.observe(2)
    await follower.send()
    follower.klaviyo.jobs.fail_matching("p1@", "invalid", "Invalid input.")
    follower.klaviyo.jobs.run(follower.job)
    await follower.receipts.poll()
    query = select(journal.c.outcome).where(journal.c.kind == "write").order_by(journal.c.id)
    outcomes: Sequence[str] = await follower.store.database.read(
        lambda c: list(c.execute(query).scalars())
    )
    assert list(outcomes) == ["queued", "queued", "accepted", "dead"]
