"""Faults over real sockets: what the client observes, and what took effect."""

from __future__ import annotations

import httpx
import pytest

from connector.sandbox import Faults, KlaviyoSandbox

from .conftest import make_bulk, make_event, make_group, make_profile, make_single

EVENTS = "/api/events"
BULK = "/api/event-bulk-create-jobs"


@pytest.mark.parametrize(("kind", "recorded"), [("reset_before", 0), ("reset_after", 1)])
async def test_reset_breaks_the_connection(
    klaviyo: KlaviyoSandbox, live: httpx.AsyncClient, kind: str, recorded: int
) -> None:
    klaviyo.faults.parse({"endpoint": "events", "kind": kind, "count": 1})
    with pytest.raises(httpx.TransportError):
        await live.post(EVENTS, json=make_single())
    assert klaviyo.recorded("jeri:1") == recorded
    assert (await live.post(EVENTS, json=make_single())).status_code == 202
    assert klaviyo.recorded("jeri:1") == 1
    assert klaviyo.state()["requests"] == {"POST /api/events": {"reset": 1, "202": 1}}


@pytest.mark.parametrize("applied", [False, True])
async def test_a_status_fault_applies_the_request_or_not(
    klaviyo: KlaviyoSandbox, live: httpx.AsyncClient, applied: bool
) -> None:
    klaviyo.faults.add("*", "status", status=503, applied=applied, retry_after=7)
    answer = await live.post(EVENTS, json=make_single())
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "7")
    assert answer.json()["errors"][0]["status"] == 503
    assert klaviyo.recorded("jeri:1") == int(applied)


async def test_a_truncated_response_is_incomplete_but_applied(
    klaviyo: KlaviyoSandbox, live: httpx.AsyncClient
) -> None:
    klaviyo.faults.add("events", "truncate", count=1)
    with pytest.raises(httpx.RemoteProtocolError):
        await live.post(EVENTS, json=make_single())
    assert klaviyo.recorded("jeri:1") == 1


@pytest.mark.parametrize(("applied", "status"), [(False, 503), (True, 202)])
async def test_a_stall_responds_late(
    klaviyo: KlaviyoSandbox, live: httpx.AsyncClient, applied: bool, status: int
) -> None:
    klaviyo.faults.add("events", "stall", seconds=0.01, applied=applied)
    assert (await live.post(EVENTS, json=make_single())).status_code == status
    assert klaviyo.recorded("jeri:1") == int(applied)


async def test_stall_outlasts_the_client(klaviyo: KlaviyoSandbox, live: httpx.AsyncClient) -> None:
    klaviyo.faults.add("events", "stall", seconds=60, applied=True)
    with pytest.raises(httpx.ReadTimeout):
        await live.post(EVENTS, json=make_single(), timeout=0.05)
    assert klaviyo.recorded("jeri:1") == 1


async def test_challenge_page_is_a_403_in_html(
    klaviyo: KlaviyoSandbox, live: httpx.AsyncClient
) -> None:
    klaviyo.faults.add("events", "html403")
    answer = await live.post(EVENTS, json=make_single())
    assert answer.status_code == 403
    assert answer.headers["content-type"].startswith("text/html")
    assert klaviyo.recorded("jeri:1") == 0


@pytest.mark.parametrize(
    ("pointed", "pointer"),
    [
        (
            True,
            "/data/attributes/events-bulk-create/data/1/attributes/profile/data/attributes/email",
        ),
        (False, "/data"),
    ],
)
async def test_poison_rejects_every_body_that_contains_it(
    klaviyo: KlaviyoSandbox, live: httpx.AsyncClient, pointed: bool, pointer: str
) -> None:
    klaviyo.faults.add("*", "poison", match="poison@", pointer=pointed)
    good = make_group(make_event())
    bad = make_group(make_event(), profile=make_profile("poison@example.com"))
    refused = await live.post(BULK, json=make_bulk(good, bad))
    taken = await live.post(BULK, json=make_bulk(good))
    assert (refused.status_code, taken.status_code) == (400, 202)
    error = refused.json()["errors"][0]
    assert (error["code"], error["source"]["pointer"]) == ("invalid", pointer)


async def test_poison_in_an_event_has_an_error_pointer(
    klaviyo: KlaviyoSandbox, live: httpx.AsyncClient
) -> None:
    klaviyo.faults.add("*", "poison", match="venom", pointer=True)
    events = [make_event(), make_event(unique_id="jeri:2", properties={"a": "venom"})]
    answer = await live.post(BULK, json=make_bulk(make_group(*events)))
    place = "/data/attributes/events-bulk-create/data/0/attributes/events/data/1/attributes"
    assert [e["source"]["pointer"] for e in answer.json()["errors"]] == [f"{place}/properties"]


async def test_faults_are_controlled_over_http(live: httpx.AsyncClient) -> None:
    fault = {"endpoint": "events", "kind": "status", "status": 500}
    assert (await live.post("/_sandbox/faults", json=fault)).status_code == 201
    assert (await live.post(EVENTS, json=make_single())).status_code == 500
    assert (await live.get("/api/metrics")).status_code == 200
    assert (await live.delete("/_sandbox/faults")).status_code == 204
    assert (await live.post(EVENTS, json=make_single())).status_code == 202
    seen = (await live.get("/_sandbox/events", params={"unique_id": "jeri:1"})).json()
    assert seen["count"] == 1
    assert seen["events"][0]["profile"]["email"] == "ana@example.com"
    assert (await live.get("/_sandbox/unique_ids")).json() == {"jeri:1": 1}
    assert (await live.get("/_sandbox/state")).json()["events"] == 1


@pytest.mark.parametrize(
    "fault",
    [
        [],
        {"kind": "flood"},
        {"kind": "poison"},
        {"kind": "status", "count": 0},
        {"kind": "status", "count": True},
        {"kind": "status", "statsu": 500},
    ],
)
async def test_an_invalid_fault_is_rejected(live: httpx.AsyncClient, fault: object) -> None:
    assert (await live.post("/_sandbox/faults", json=fault)).status_code == 400


def test_faults_apply_by_endpoint_method_match_and_count() -> None:
    faults = Faults()
    faults.add("events", "status", method="POST", match="x", count=2)
    assert faults.pick("events", "GET", b"x") is None
    assert faults.pick("events", "POST", b"y") is None
    assert faults.pick("metrics", "POST", b"x") is None
    assert faults.pick("events", "POST", b"x") is not None
    assert faults.pick("events", "POST", b"x") is not None
    assert faults.pick("events", "POST", b"x") is None
    assert len(faults) == 0


def test_randomness_is_seeded() -> None:
    def draw() -> list[bool]:
        faults = Faults(seed=3)
        faults.add("*", "status", probability=0.3)
        return [faults.pick("events", "POST", b"") is not None for _ in range(200)]

    assert draw() == draw()
    assert 30 < sum(draw()) < 90
