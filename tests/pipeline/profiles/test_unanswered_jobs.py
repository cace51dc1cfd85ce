"""Import jobs that Klaviyo does not answer: a failure of the lane, and no reason to write thousands
of people one by one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import select

from connector.domain.errors import Problem
from connector.domain.lanes import PROFILES, READS, DeliveryMode, Millis
from connector.domain.profile_state import address_hash
from connector.domain.profiles import Observation
from connector.domain.records import State
from connector.klaviyo.limits import BULK_PROFILES
from connector.klaviyo.sink.profiles import ProfileSink
from connector.ports import BatchMode, ListedPerson
from connector.store.tables import profiles

from .conftest import Configs, Environment

JOBS = "profile-bulk-import-jobs"
PEOPLE = 1_000


async def observe(env: Environment, people: range, **fields: Any) -> None:
    """People of a listing, whose profiles wait to be written."""
    lanes = {lane.lane_kind: lane for lane, _ in await env.store.lanes.all()}
    now = env.clock.now()
    listed = []
    for n in people:
        email = f"p{n}@example.com"
        observation = Observation(
            person=0,
            view={},
            changes=fields,
            identity={"email": email},
            at=Millis(now),
            mapping="v1",
            lane=lanes[PROFILES].id,
            address=address_hash("acc", email),
        )
        listed.append(ListedPerson(f"id{n}", email, observation, frozenset()))
    await env.store.reads.bulk_observe(lanes[READS], listed, now=now)
    for dispatcher in env.runtime.dispatchers:
        dispatcher.wake()


@pytest.fixture(autouse=True)
def small_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = frozenset({DeliveryMode.BATCH})
    small = BatchMode(BULK_PROFILES, size=160, parallel=1, creates_jobs=jobs)
    monkeypatch.setattr(ProfileSink, "bulk", small)


@pytest.mark.parametrize("kind", ["status", "reset_before", "reset_after"])
async def test_an_outage_of_the_bulk_import_does_not_send_the_backlog_singly(
    configs: Configs, kind: Any
) -> None:
    env = Environment(configs(), job_delay=1.0)
    await env.start()
    status = {"status": 502} if kind == "status" else {}
    env.klaviyo.faults.add(JOBS, kind, method="POST", count=10**6, **status)
    await observe(env, range(PEOPLE), balance=7)
    await env.clock.advance(25.0)
    env.klaviyo.faults.clear()
    jobs = env.klaviyo_requests(f"POST /api/{JOBS}")[f"POST /api/{JOBS}"]
    assert jobs < 10, "the lane backs off"
    await env.clock.advance(240.0)
    assert env.busy() == []
    assert all(
        env.synced_fields(f"p{n}@example.com") == {"balance": 7} for n in range(0, PEOPLE, 7)
    )
    # Short queues go singly, as always: those of small jobs that were lost.
    assert env.profile_requests().get("POST /api/profile-import", 0) < PEOPLE / 15
    assert env.klaviyo.overlapping_writes == 0
    await env.kill()


async def test_the_lane_shows_that_jobs_are_not_answered(configs: Configs) -> None:
    env = Environment(configs(), job_delay=1.0)
    await env.start()
    env.klaviyo.faults.add(JOBS, "status", status=502, method="POST", count=10**6)
    await observe(env, range(200), balance=7)
    await env.clock.advance(5.0)
    writes = env.runtime.writes
    assert writes
    [item] = await writes.attention()
    assert item.problem is Problem.SERVER_FAULT
    env.klaviyo.faults.clear()
    await env.clock.advance(240.0)
    assert await writes.attention() == []
    await env.kill()


async def test_people_of_a_job_request_that_a_stop_cut_off_stay_in_flight(configs: Configs) -> None:
    """As after a kill: Klaviyo may still create the job, and a write of one of them would cross
    it."""
    env = Environment(configs(), job_delay=1.0)
    await env.start()
    env.fault_transports["klaviyo"].before = lambda: 20.0
    await observe(env, range(200), balance=7)
    await env.clock.advance(1.0)
    writes = env.runtime.writes
    assert writes
    assert writes.busy
    stopping = asyncio.create_task(writes.stop(0.0))
    await env.clock.advance(0.0)
    await stopping
    rows = env.rows(select(profiles.c.state, profiles.c.receipt))
    claimed = [row.receipt for row in rows if row.state == State.CLAIMED]
    assert len(claimed) == 160
    assert {receipt and receipt[0] for receipt in claimed} == {"?"}
    await env.kill()
