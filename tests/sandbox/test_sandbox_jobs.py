"""Bulk import jobs: status, writes, errors, and people in flight."""

from __future__ import annotations

import math
from typing import Any

import httpx
import orjson
import pytest

from connector.sandbox import KlaviyoSandbox

from .conftest import FakeTime, make_import, make_job, make_profile, make_single

JOBS = "/api/profile-bulk-import-jobs"
WEEK = 7 * 86_400


@pytest.fixture
def klaviyo(fake_time: FakeTime) -> KlaviyoSandbox:
    return KlaviyoSandbox(now=fake_time, limits=False, job_delay=10)


async def start(client: httpx.AsyncClient, *profiles: dict[str, Any], **more: Any) -> str:
    answer = await client.post(JOBS, json=make_job(*profiles, **more))
    assert answer.status_code == 202, answer.text
    return str(answer.json()["data"]["id"])


async def look(client: httpx.AsyncClient, id: str) -> dict[str, Any]:
    found: dict[str, Any] = (await client.get(f"{JOBS}/{id}")).json()["data"]["attributes"]
    return found


async def test_a_jobs_status_follows_the_clock(
    klaviyo: KlaviyoSandbox, fake_time: FakeTime, in_process: Any
) -> None:
    async with in_process(klaviyo.app) as client:
        answer = await client.post(JOBS, json=make_job(make_import(first_name="Ana")))
        made = answer.json()["data"]
        id = made["id"]
        assert made["attributes"] == {
            "status": "queued",
            "created_at": "2026-11-18T11:06:40+00:00",
            "total_count": 1,
            "completed_count": 0,
            "failed_count": 0,
            "completed_at": None,
            "expires_at": "2026-11-25T11:06:40+00:00",
            "started_at": None,
        }
        assert (klaviyo.in_flight("Ana@example.com"), klaviyo.profile("ana@example.com")) == (
            1,
            None,
        )
        fake_time.seconds += 5
        assert (await look(client, id))["status"] == "processing"
        assert klaviyo.profile("ana@example.com") is None
        fake_time.seconds += 5
        done = await look(client, id)
        assert (done["status"], done["completed_count"], done["failed_count"]) == ("complete", 1, 0)
        assert done["completed_at"] == "2026-11-18T11:06:50+00:00"
        assert klaviyo.in_flight("ana@example.com") == 0
        members = (await client.get(f"{JOBS}/{id}/profiles")).json()["data"]
        assert [each["id"] for each in members] == [klaviyo.profile_id("ana@example.com")]
        fake_time.seconds += WEEK
        assert (await client.get(f"{JOBS}/{id}")).status_code == 404
    assert klaviyo.state()["jobs"] == {}


async def test_jobs_can_be_controlled_by_a_test(
    klaviyo: KlaviyoSandbox, fake_time: FakeTime, in_process: Any
) -> None:
    async with in_process(klaviyo.app) as client:
        run, cancel, stall, expire = [
            await start(client, make_import(f"{name}@example.com"))
            for name in ("run", "cancel", "stall", "expire")
        ]
        klaviyo.jobs.run(run)
        klaviyo.jobs.cancel(cancel)
        klaviyo.jobs.stall(stall)
        klaviyo.jobs.expire(expire)
        fake_time.seconds += 1000
        statuses = [(await look(client, id))["status"] for id in (run, cancel, stall)]
        assert (await client.get(f"{JOBS}/{expire}")).status_code == 404
        assert klaviyo.in_flight("stall@example.com") == 1
        assert klaviyo.in_flight("expire@example.com") == 0
        klaviyo.jobs.run(stall)
        late = (await look(client, stall))["status"]
    assert statuses == ["complete", "cancelled", "processing"]
    assert late == "complete"
    assert klaviyo.state()["profiles"] == 2
    assert klaviyo.jobs.ids("complete") == [run, stall]


async def test_later_job_may_complete_earlier(fake_time: FakeTime, in_process: Any) -> None:
    delays = iter((20, 10, math.inf))
    sandbox = KlaviyoSandbox(now=fake_time, limits=False, job_delay=lambda _: next(delays))
    async with in_process(sandbox.app) as client:
        for tier in ("Gold", "Silver", "never"):
            await start(client, make_import(properties={"Tier": tier}))
    fake_time.seconds += 15
    assert (sandbox.profile("ana@example.com") or {})["properties"] == {"Tier": "Silver"}
    fake_time.seconds += 15
    assert (sandbox.profile("ana@example.com") or {})["properties"] == {"Tier": "Gold"}
    assert (sandbox.overlapping_writes, sandbox.overlaps) == (2, {"bulk": 2})


@pytest.mark.parametrize(("patch", "left"), [("ignore", {"a": 1, "b": 2}), ("apply", {"a": 1})])
async def test_bulk_import_ignores_nulls(
    fake_time: FakeTime, in_process: Any, patch: Any, left: dict[str, int]
) -> None:
    sandbox = KlaviyoSandbox(now=fake_time, limits=False, job_delay=0, bulk_patch=patch)
    async with in_process(sandbox.app) as client:
        first = make_import(first_name="Ana", properties={"a": 1, "b": 2})
        await start(client, first)
        meta = {"patch_properties": {"unset": ["b"]}}
        await start(client, make_import(first_name=None, properties={"a": None}, meta=meta))
        assert sandbox.profile("ana@example.com") == {
            "email": "ana@example.com",
            "first_name": "Ana",
            "properties": left,
        }
        await start(client, make_import(properties=None))
    assert (sandbox.profile("ana@example.com") or {})["properties"] == left
    assert sandbox.jobs.ignored["null"] == 3


@pytest.mark.parametrize(("repeats", "tier"), [("last", "Silver"), ("first", "Gold")])
async def test_repeats_within_a_job(
    fake_time: FakeTime, in_process: Any, repeats: Any, tier: str
) -> None:
    sandbox = KlaviyoSandbox(now=fake_time, limits=False, job_delay=0, job_repeats=repeats)
    async with in_process(sandbox.app) as client:
        people = [
            make_import(email, properties={"Tier": tier})
            for email, tier in (("ana@example.com", "Gold"), ("ANA@example.com", "Silver"))
        ]
        await start(client, *people)
    assert (sandbox.profile("ana@example.com") or {})["properties"] == {"Tier": tier}
    assert (sandbox.state()["job_repeats"], sandbox.overlapping_writes) == (1, 0)


async def test_records_fail_one_by_one(
    klaviyo: KlaviyoSandbox, fake_time: FakeTime, in_process: Any
) -> None:
    async with in_process(klaviyo.app) as client:
        for who in (
            make_import("owner@example.com"),
            make_import(None, phone_number="+34600000001"),
        ):
            await client.post("/api/profile-import", json={"data": who})
        klaviyo.jobs.fail_matching("bad", "invalid_email", "Invalid email")
        bad = [make_import(f"bad{n}@example.com") for n in range(101)]
        clash = make_import("owner@example.com", phone_number="+34600000001")
        stranger = make_import("x@example.com", id="01UNKNOWN")
        id = await start(client, *bad, make_import(), clash, stranger)
        fake_time.seconds += 10
        done = await look(client, id)
        found: list[dict[str, Any]] = []
        sizes = []
        link: str | None = f"{JOBS}/{id}/import-errors"
        while link:
            page = (await client.get(link)).json()
            sizes.append(len(page["data"]))
            found += page["data"]
            link = page["links"]["next"]
        whole = await client.get(f"{JOBS}/{id}/import-errors?page[size]=100")
        over = await client.get(f"{JOBS}/{id}/import-errors?page[size]=101")
    assert (done["status"], done["completed_count"], done["failed_count"]) == ("complete", 1, 103)
    assert sizes == [20] * 5 + [3]
    assert found[0]["attributes"] == {
        "code": "invalid_email",
        "title": "Invalid email",
        "detail": "The profile was not imported.",
        "source": {"pointer": "/data/attributes/profiles/data/0"},
        "original_payload": bad[0],
    }
    assert [e["attributes"]["code"] for e in found[-2:]] == ["duplicate_profile", "not_found"]
    assert len({each["id"] for each in found}) == 103
    assert (len(whole.json()["data"]), over.status_code) == (100, 400)


async def test_collection_is_filtered_and_paged(
    klaviyo: KlaviyoSandbox, fake_time: FakeTime, in_process: Any
) -> None:
    async with in_process(klaviyo.app) as client:
        old = await start(client, make_import())
        fake_time.seconds += 10
        new = [await start(client, make_import(f"p{n}@example.com")) for n in range(101)]
        klaviyo.jobs.stall(new[0])
        query = {"filter": 'any(status,["queued","processing"])', "page[size]": "100"}
        first = (await client.get(JOBS, params=query)).json()
        second = (await client.get(first["links"]["next"])).json()
        done = (await client.get(JOBS, params={"filter": 'equals(status,"complete")'})).json()
        back = (await client.get(JOBS, params={"sort": "-created_at"})).json()
        bad = await client.get(JOBS, params={"filter": 'equals(id,"x")'})
    assert [job["id"] for job in first["data"] + second["data"]] == new
    assert first["data"][0]["attributes"]["status"] == "processing"
    assert [job["id"] for job in done["data"]] == [old]
    assert back["data"][0]["id"] == new[-1]
    assert bad.status_code == 400


@pytest.mark.parametrize(
    ("profiles", "lists", "name", "status"),
    [
        ([], (), "shape", 400),
        ([make_import(f"p{n}@example.com") for n in range(10_001)], (), "too_many_profiles", 400),
        ([make_import(properties={"a": "x" * 60_000, "b": "x" * 60_000})], (),
         "profile_too_large", 400),
        ([make_import()], ("L99999",), "list_unknown", 404),
    ],
)  # fmt: skip
async def test_job_that_breaks_a_rule_is_refused_whole(
    klaviyo: KlaviyoSandbox, in_process: Any, profiles: Any, lists: Any, name: str, status: int
) -> None:
    async with in_process(klaviyo.app) as client:
        answer = await client.post(JOBS, json=make_job(*profiles, lists=lists))
        huge = await client.post(JOBS, content=b" " * 5_000_001)
    assert (answer.status_code, huge.status_code) == (status, 413)
    assert klaviyo.state()["violations"] == {name: 1, "payload_too_large": 1}
    assert len(klaviyo.jobs) == 0


async def test_only_the_first_error_when_configured(fake_time: FakeTime, in_process: Any) -> None:
    sandbox = KlaviyoSandbox(now=fake_time, limits=False, bulk_errors="first")
    async with in_process(sandbox.app) as client:
        answer = await client.post(JOBS, json=make_job(make_import("x"), make_import("y")))
    assert len(answer.json()["errors"]) == 1


async def test_accepted_job_may_come_without_its_id(
    klaviyo: KlaviyoSandbox, fake_time: FakeTime, in_process: Any
) -> None:
    klaviyo.faults.add("profile-bulk-import-jobs", "empty_job_id", method="POST", count=2)
    async with in_process(klaviyo.app) as client:
        answer = await client.post(JOBS, json=make_job(make_import()))
        refused = await client.post(JOBS, json=make_job(make_import("nowhere")))
        polled = await client.get(f"{JOBS}/{answer.json()['data']['id']}")
    assert (answer.status_code, answer.json()["data"]["id"]) == (202, "")
    assert refused.status_code == 400
    assert [job["id"] for job in polled.json()["data"]] == klaviyo.jobs.ids()
    assert klaviyo.in_flight("ana@example.com") == 1


async def test_a_poison_error_points_at_the_profile(
    klaviyo: KlaviyoSandbox, in_process: Any
) -> None:
    klaviyo.faults.add("profile-bulk-import-jobs", "poison", match="venom@", pointer=True)
    async with in_process(klaviyo.app) as client:
        body = make_job(make_import(), make_import("venom@example.com"))
        answer = await client.post(JOBS, json=body)
    pointers = [error["source"]["pointer"] for error in answer.json()["errors"]]
    assert pointers == ["/data/attributes/profiles/data/1/attributes/email"]


async def test_writes_overlap_by_any_identifier(
    klaviyo: KlaviyoSandbox, fake_time: FakeTime, in_process: Any
) -> None:
    async with in_process(klaviyo.app) as client:
        known = make_import(phone_number="+34600000001")
        id = (await client.post("/api/profile-import", json={"data": known})).json()["data"]["id"]
        await start(
            client, make_import(None, id=id, first_name="Ana"), make_import("b@example.com")
        )
        assert klaviyo.in_flight("ana@example.com") == 1
        others = [make_import(None, phone_number="+34600000001"), make_import("B@example.com")]
        for each in others:
            await client.post("/api/profile-import", json={"data": each})
        await client.post("/api/profile-import", json={"data": make_import("c@example.com")})
        await client.post("/api/events", json=make_single())
        rich = make_profile(properties={"Tier": "Gold"})
        await client.post("/api/events", json=make_single(rich, unique_id="jeri:2"))
        assert klaviyo.overlaps == {"single": 2, "event": 1}
        fake_time.seconds += 10
        for each in others:
            await client.post("/api/profile-import", json={"data": each})
    assert klaviyo.state()["overlapping_writes"] == klaviyo.overlapping_writes == 3


async def test_ten_thousand_in_one_job(klaviyo: KlaviyoSandbox, in_process: Any) -> None:
    people = [make_import(f"p{n}@example.com", properties={"n": n}) for n in range(10_000)]
    async with in_process(klaviyo.app) as client:
        answer = await client.post(JOBS, content=orjson.dumps(make_job(*people)))
        klaviyo.jobs.run(answer.json()["data"]["id"])
    assert klaviyo.state()["profiles"] == 10_000
    assert len(klaviyo.profiles_by_id) == 10_000
