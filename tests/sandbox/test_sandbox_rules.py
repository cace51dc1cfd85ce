"""Each rule of Klaviyo is broken once: rejected with its pointer, counted, nothing recorded."""

from __future__ import annotations

from typing import Any

import pytest

from connector.sandbox import KlaviyoSandbox

from .conftest import HEADERS, make_bulk, make_event, make_group, make_profile, make_single

AT = "/data/attributes"
GROUP = "/data/attributes/events-bulk-create/data/1/attributes"


def nest(levels: int) -> Any:
    inner: Any = 1
    for _ in range(levels):
        inner = {"a": inner}
    return inner


def metric(name: str) -> dict[str, Any]:
    return {"metric": {"data": {"type": "metric", "attributes": {"name": name}}}}


EVENT_RULES = [
    ("properties_missing", {"properties": None}, "/properties"),
    ("metric_name", metric(""), "/metric/data/attributes/name"),
    ("metric_name", metric("m" * 128), "/metric/data/attributes/name"),
    ("too_many_properties", {"properties": {str(n): n for n in range(301)}}, "/properties"),
    ("string_too_long", {"properties": {"s": "x" * 100_001}}, "/properties/s"),
    ("string_too_long", {"properties": {"s": "ñ" * 50_001}}, "/properties/s"),
    ("array_too_long", {"properties": {"a": [1] * 4001}}, "/properties/a"),
    ("nested_too_deep", {"properties": nest(11)}, "/properties" + "/a" * 10),
    ("time_invalid", {"time": "1762596000"}, "/time"),
    ("time_invalid", {"time": "2026-13-01T00:00:00Z"}, "/time"),
    ("time_invalid", {"time": 1762596000}, "/time"),
    ("time_out_of_range", {"time": "1999-12-31T23:59:59Z"}, "/time"),
    ("time_out_of_range", {"time": "2028-01-01T00:00:00Z"}, "/time"),
    ("unique_id_length", {"unique_id": ""}, "/unique_id"),
    ("unique_id_length", {"unique_id": "u" * 256}, "/unique_id"),
    ("value_invalid", {"value": "9.99"}, "/value"),
    ("currency_invalid", {"value_currency": "euro"}, "/value_currency"),
    ("unknown_field", {"vaule": 1}, "/vaule"),
]

PROFILE_RULES = [
    ("email_invalid", make_profile("ana@example"), "/attributes/email"),
    ("email_invalid", make_profile("ana..b@example.com"), "/attributes/email"),
    ("phone_invalid", make_profile(phone_number="600 000 000"), "/attributes/phone_number"),
    ("identifier_missing", {"data": {"type": "profile", "attributes": {}}}, "/attributes"),
    ("profile_meta_misplaced", make_profile(meta={}), "/attributes/meta"),
    (
        "profile_unknown",
        {"data": {"type": "profile", "id": "01UNKNOWN", "attributes": {}}},
        "/id",
    ),
]


@pytest.mark.parametrize(("name", "changes", "pointer"), EVENT_RULES)
async def test_event_that_breaks_a_rule_is_refused(
    klaviyo: KlaviyoSandbox, in_process: Any, name: str, changes: dict[str, Any], pointer: str
) -> None:
    async with in_process(klaviyo.app) as client:
        single = await client.post("/api/events", json=make_single(**changes))
        good = make_group(make_event(unique_id="good"))
        body = make_bulk(good, make_group(make_event(**changes)))
        bulk = await client.post("/api/event-bulk-create-jobs", json=body)
    assert (single.status_code, bulk.status_code) == (400, 400)
    assert single.json()["errors"][0]["source"]["pointer"] == AT + pointer
    expected = f"{GROUP}/events/data/0/attributes{pointer}"
    assert bulk.json()["errors"][0]["source"]["pointer"] == expected
    assert klaviyo.state()["violations"] == {name: 2}
    assert klaviyo.state()["events"] == 0


@pytest.mark.parametrize(("name", "profile", "pointer"), PROFILE_RULES)
async def test_profile_that_breaks_a_rule_is_refused(
    klaviyo: KlaviyoSandbox, in_process: Any, name: str, profile: dict[str, Any], pointer: str
) -> None:
    async with in_process(klaviyo.app) as client:
        single = await client.post("/api/events", json=make_single(profile))
        good = make_group(make_event(unique_id="good"))
        body = make_bulk(good, make_group(make_event(), profile=profile))
        bulk = await client.post("/api/event-bulk-create-jobs", json=body)
    assert (single.status_code, bulk.status_code) == (400, 400)
    assert single.json()["errors"][0]["source"]["pointer"] == f"{AT}/profile/data{pointer}"
    assert bulk.json()["errors"][0]["source"]["pointer"] == f"{GROUP}/profile/data{pointer}"
    assert klaviyo.state()["violations"] == {name: 2}
    assert klaviyo.state()["profiles"] == 0


async def test_values_at_the_limits_are_accepted(klaviyo: KlaviyoSandbox, in_process: Any) -> None:
    properties = {
        **{str(n): n for n in range(297)},
        "s": "x" * 100_000,
        "a": [1] * 4000,
        "n": nest(9),
    }
    event = make_event(properties=properties, unique_id="u" * 255, **metric("m" * 127))
    async with in_process(klaviyo.app) as client:
        answer = await client.post("/api/events", json=make_single(**event))
    assert (answer.status_code, answer.content) == (202, b"")
    assert klaviyo.recorded("u" * 255) == 1


async def test_unique_id_beside_attributes_is_refused(
    klaviyo: KlaviyoSandbox, in_process: Any
) -> None:
    body = make_single()
    body["data"]["unique_id"] = "jeri:1"
    async with in_process(klaviyo.app) as client:
        answer = await client.post("/api/events", json=body)
    assert answer.json()["errors"][0]["source"]["pointer"] == "/data/unique_id"
    assert klaviyo.state()["violations"] == {"unique_id_misplaced": 1}


async def test_bulk_of_more_than_a_thousand_is_refused(
    klaviyo: KlaviyoSandbox, in_process: Any
) -> None:
    events = [make_event(unique_id=str(n)) for n in range(1001)]
    async with in_process(klaviyo.app) as client:
        over = await client.post("/api/event-bulk-create-jobs", json=make_bulk(make_group(*events)))
        exact = await client.post(
            "/api/event-bulk-create-jobs", json=make_bulk(make_group(*events[:1000]))
        )
    assert (over.status_code, exact.status_code) == (400, 202)
    assert klaviyo.state()["violations"] == {"too_many_events": 1}
    assert klaviyo.state()["events"] == 1000


async def test_body_over_five_megabytes_is_413(klaviyo: KlaviyoSandbox, in_process: Any) -> None:
    async with in_process(klaviyo.app) as client:
        answer = await client.post("/api/event-bulk-create-jobs", content=b" " * 5_000_001)
    assert answer.status_code == 413
    assert klaviyo.state()["violations"] == {"payload_too_large": 1}


async def test_repeat_within_one_bulk_fails_all_of_it(
    klaviyo: KlaviyoSandbox, in_process: Any
) -> None:
    again = make_group(make_event(), profile=make_profile("ANA@example.com"))
    async with in_process(klaviyo.app) as client:
        answer = await client.post(
            "/api/event-bulk-create-jobs", json=make_bulk(make_group(make_event()), again)
        )
    assert answer.status_code == 400
    assert klaviyo.state()["violations"] == {"unique_id_repeated": 1}
    assert klaviyo.state()["events"] == 0


@pytest.mark.parametrize(("repeat", "status", "events"), [("fail", 400, 1), ("drop", 202, 2)])
async def test_bulk_repeat_of_an_earlier_request(
    in_process: Any, repeat: Any, status: int, events: int
) -> None:
    sandbox = KlaviyoSandbox(limits=False, bulk_repeat=repeat)
    async with in_process(sandbox.app) as client:
        await client.post("/api/events", json=make_single())
        new = make_event(unique_id="jeri:2")
        answer = await client.post(
            "/api/event-bulk-create-jobs", json=make_bulk(make_group(make_event(), new))
        )
    assert answer.status_code == status
    assert sandbox.state()["events"] == events


async def test_single_repeat_is_dropped_silently(klaviyo: KlaviyoSandbox, in_process: Any) -> None:
    async with in_process(klaviyo.app) as client:
        for profile in (make_profile(), make_profile("Ana@Example.com"), make_profile("b@ex.org")):
            answer = await client.post("/api/events", json=make_single(profile))
            assert answer.status_code == 202
    state = klaviyo.state()
    assert (state["events"], state["duplicates"], state["profiles"]) == (2, 1, 2)
    assert klaviyo.recorded("jeri:1") == 2


async def test_events_carry_profile_fields(klaviyo: KlaviyoSandbox, in_process: Any) -> None:
    first = make_profile(first_name="Ana", properties={"Tier": "Gold", "old": 1})
    second = make_profile("ANA@example.com", properties={"Tier": "Silver"})
    second["data"]["meta"] = {"patch_properties": {"unset": ["old"], "append": {"seen": "a"}}}
    async with in_process(klaviyo.app) as client:
        await client.post("/api/events", json=make_single(first))
        await client.post("/api/events", json=make_single(second, unique_id="jeri:2"))
    assert klaviyo.profile("ana@EXAMPLE.com") == {
        "email": "ANA@example.com",
        "first_name": "Ana",
        "properties": {"Tier": "Silver", "seen": ["a"]},
    }


@pytest.mark.parametrize(
    ("change", "status", "code", "violation"),
    [
        ({"authorization": "Klaviyo-API-Key pk_no"}, 401, "authentication_failed", "authorization"),
        ({"authorization": None}, 401, "not_authenticated", "authorization"),
        ({"revision": None}, 400, "invalid", "revision"),
        ({"revision": "2023-01-24"}, 410, "gone", "revision"),
        ({"content-type": "text/plain"}, 415, "unsupported_media_type", "content_type"),
    ],
)
async def test_faulty_headers_are_refused(
    klaviyo: KlaviyoSandbox,
    in_process: Any,
    change: dict[str, str | None],
    status: int,
    code: str,
    violation: str,
) -> None:
    headers = {name: value for name, value in {**HEADERS, **change}.items() if value is not None}
    async with in_process(klaviyo.app) as client:
        client.headers = headers
        answer = await client.post("/api/events", json=make_single(), headers=headers)
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (status, code)
    assert klaviyo.state()["violations"] == {violation: 1}


async def test_body_that_is_not_json_is_refused(klaviyo: KlaviyoSandbox, in_process: Any) -> None:
    async with in_process(klaviyo.app) as client:
        for body in (b"{", b"[]", b'{"data":{"type":"event"}}'):
            assert (await client.post("/api/events", content=body)).status_code == 400
            bulk = await client.post("/api/event-bulk-create-jobs", content=body)
            assert bulk.status_code == 400
    assert klaviyo.state()["violations"] == {"json": 2, "shape": 4}
