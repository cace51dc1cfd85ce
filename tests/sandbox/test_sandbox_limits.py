"""Fixed windows of one second and one minute, with a fake clock."""

from __future__ import annotations

from typing import Any

from connector.sandbox import KlaviyoSandbox
from connector.sandbox.limits import Limits, Quota

from .conftest import FakeTime


async def test_request_above_the_burst_waits_for_the_next_second(
    fake_time: FakeTime, in_process: Any
) -> None:
    sandbox = KlaviyoSandbox(now=fake_time)
    async with in_process(sandbox.app) as client:
        taken = [await client.get("/api/metrics") for _ in range(10)]
        refused = await client.get("/api/metrics")
        fake_time.seconds += 1
        after = await client.get("/api/metrics")
    assert {answer.status_code for answer in taken} == {200}
    assert taken[0].headers["ratelimit-limit"] == "10, 10;w=1, 150;w=60"
    assert taken[0].headers["ratelimit-remaining"] == "9"
    assert taken[0].headers["ratelimit-reset"] == "0"
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "1"
    assert "ratelimit-limit" not in refused.headers
    assert refused.json()["errors"][0]["code"] == "throttled"
    assert after.status_code == 200
    assert sandbox.state()["throttled"] == 1


async def test_request_above_the_steady_limit_waits_for_the_next_minute(
    fake_time: FakeTime, in_process: Any
) -> None:
    sandbox = KlaviyoSandbox(now=fake_time)
    fake_time.seconds -= fake_time.seconds % 60
    async with in_process(sandbox.app) as client:
        for _ in range(15):
            assert (await client.get("/api/accounts")).status_code == 200
            fake_time.seconds += 1
        refused = await client.get("/api/accounts")
        fake_time.seconds += 45
        after = await client.get("/api/accounts")
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "45")
    assert after.status_code == 200


def test_each_operation_has_its_own_windows(fake_time: FakeTime) -> None:
    limits, quota = Limits(fake_time), Quota(1, 2)
    assert limits.acquire("a", quota).retry_after is None
    assert limits.acquire("b", quota).retry_after is None
    assert limits.acquire("a", quota).retry_after == 1


def test_refused_requests_use_no_quota(fake_time: FakeTime) -> None:
    limits, quota = Limits(fake_time), Quota(1, 2)
    fake_time.seconds -= fake_time.seconds % 60
    for _ in range(5):
        limits.acquire("a", quota)
    fake_time.seconds += 1
    assert limits.acquire("a", quota).retry_after is None
    fake_time.seconds += 1
    assert limits.acquire("a", quota).retry_after == 58
