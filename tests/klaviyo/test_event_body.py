"""What Klaviyo would refuse about an event is found before it is sent, and nothing else is."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openapi_client.models.event_create_query_v2 import EventCreateQueryV2
from openapi_client.models.events_bulk_create_job import EventsBulkCreateJob

from connector.domain.errors import Problem
from connector.domain.messages import EventMessage, Fault
from connector.klaviyo.limits import (
    BODY_MAX,
    BULK_EVENTS,
    CREATE_EVENT,
    EARLIEST_TIME,
    MAX_FUTURE,
)
from connector.klaviyo.sink.event_body import ENVELOPE, item, single, validate
from connector.klaviyo.sink.events import EventSink
from connector.sandbox import KlaviyoSandbox
from connector.testing.fakes.clock import FakeClock

from .conftest import Rig, make_message, make_out, now

DAY = 86_400_000


def nest(levels: int, inner: Any = 1) -> Any:
    for level in range(levels):
        inner = [inner] if level % 2 else {"a": inner}
    return inner


def fault(message: EventMessage) -> Fault | None:
    """The fault, the same whichever way the event would go."""
    singly = validate(message, single(message, backfill=False), now())
    grouped = validate(message, item(message, backfill=False), now())
    assert (singly is None) == (grouped is None)
    if singly and grouped:
        assert singly.problem is grouped.problem
    return singly


# Each limit exactly, and one over it: what changes, the problem one over, the pointer to it.
LIMITS: list[tuple[dict[str, Any], dict[str, Any], Problem, str]] = [
    (
        {"properties": {str(n): n for n in range(300)}},
        {"properties": {str(n): n for n in range(301)}},
        Problem.TOO_MANY_PROPERTIES,
        "301 properties, 300 allowed",
    ),
    (
        {"properties": {"s": "x" * 100_000}},
        {"properties": {"s": "x" * 100_001}},
        Problem.STRING_TOO_LONG,
        "properties.s: 100001 bytes",
    ),
    (
        {"properties": {"deep": [{"s": "ñ" * 50_000}]}},
        {"properties": {"deep": [{"s": "ñ" * 50_000 + "x"}]}},
        Problem.STRING_TOO_LONG,
        "properties.deep[0].s: 100001 bytes",
    ),
    (
        {"properties": {"s": "😀" * 25_000}},
        {"properties": {"s": "😀" * 25_001}},
        Problem.STRING_TOO_LONG,
        "properties.s: 100004 bytes",
    ),
    (
        {"properties": {"a": [1] * 4_000}},
        {"properties": {"a": [1] * 4_001}},
        Problem.ARRAY_TOO_LONG,
        "properties.a: 4001 items, 4000 allowed",
    ),
    (
        {"properties": {"a": nest(9)}},
        {"properties": {"a": nest(10)}},
        Problem.NESTED_TOO_DEEP,
        "properties.a",
    ),
    (
        {"properties": {"a": nest(8, [])}},
        {"properties": {"a": nest(9, {})}},
        Problem.NESTED_TOO_DEEP,
        "properties.a",
    ),
    (
        {"occurred_at": EARLIEST_TIME},
        {"occurred_at": EARLIEST_TIME - 1},
        Problem.TIME_OUT_OF_RANGE,
        "1999-12-31T23:59:59+00:00",
    ),
    (
        {"occurred_at": now() + MAX_FUTURE},
        {"occurred_at": now() + MAX_FUTURE + 1},
        Problem.TIME_OUT_OF_RANGE,
        "2027-09-21",
    ),
    (
        {"metric": "m" * 127},
        {"metric": "m" * 128},
        Problem.METRIC_NAME,
        "128 characters",
    ),
    ({"metric": "m"}, {"metric": ""}, Problem.METRIC_NAME, "0 characters"),
    ({"unique_id": "u" * 255}, {"unique_id": "u" * 256}, Problem.UNIQUE_ID, "256 characters"),
    ({"unique_id": "u"}, {"unique_id": ""}, Problem.UNIQUE_ID, "0 characters"),
    (
        {"attributes": {"properties": {"s": "x" * 100_000}}},
        {"attributes": {"properties": {"s": "x" * 100_001}}},
        Problem.STRING_TOO_LONG,
        "profile.properties.s: 100001 bytes",
    ),
    (
        {"attributes": {"properties": {"a": nest(9)}}},
        {"attributes": {"properties": {"a": nest(10)}}},
        Problem.NESTED_TOO_DEEP,
        "profile.properties.a",
    ),
    (
        {"attributes": {"first_name": "x" * 100_000}},
        {"attributes": {"first_name": "x" * 100_001}},
        Problem.STRING_TOO_LONG,
        "profile.first_name",
    ),
]


@pytest.mark.parametrize(("exactly", "over", "problem", "where"), LIMITS)
def test_a_limit_holds_exactly(
    exactly: dict[str, Any], over: dict[str, Any], problem: Problem, where: str
) -> None:
    fits = make_message(**exactly)
    assert fault(fits) is None
    assert violations(fits) == []
    found = fault(make_message(**over))
    assert found is not None
    assert found.problem is problem
    assert where in found.detail


@pytest.mark.parametrize("millis", [-(10**15), 253_402_344_000_000, 10**18, -(10**18)])
def test_an_impossible_time_is_out_of_range(millis: int) -> None:
    found = fault(make_message(occurred_at=millis))
    assert found is not None
    assert found.problem is Problem.TIME_OUT_OF_RANGE
    assert str(millis) in found.detail


def of_size(size: int) -> EventMessage:
    """An event whose group takes so many bytes, without a string that is too long."""
    empty = {f"p{n:02d}": "" for n in range(52)}
    max_bytes = size - len(item(make_message(properties=empty), backfill=False))
    filled = dict(empty)
    for name in empty:
        filled[name] = "x" * min(99_000, max_bytes)
        max_bytes -= len(filled[name])
    message = make_message(properties=filled)
    assert len(item(message, backfill=False)) == size
    return message


def test_an_event_may_fill_a_request_and_no_more() -> None:
    fits = item(of_size(ENVELOPE.max_bytes), backfill=False)
    assert len(ENVELOPE.body([fits])) == BODY_MAX
    assert validate(of_size(ENVELOPE.max_bytes), fits, now()) is None
    over = of_size(ENVELOPE.max_bytes + 1)
    found = validate(over, item(over, backfill=False), now())
    assert found is not None
    assert found.problem is Problem.RECORD_TOO_LARGE
    assert str(ENVELOPE.max_bytes + 1) in found.detail


def test_faults_quote_no_data() -> None:
    found = fault(make_message(properties={"note": "ana@example.com" * 10_000}))
    assert found is not None
    assert "ana@" not in found.detail


# ── shapes, judged by what we did not write ──────────────────────────────────────────────────────


def violations(message: EventMessage, *, backfill: bool = False) -> list[str]:
    """The rules of the sandbox's that an event breaks, on both lanes."""
    klaviyo = KlaviyoSandbox(now=lambda: now() / 1000, limits=False, bulk_repeat="drop")

    async def run() -> None:
        rig = Rig(klaviyo)
        one = single(message, backfill=backfill)
        many = ENVELOPE.body([item(message, backfill=backfill)])
        sent = [await rig.api.post(CREATE_EVENT, one), await rig.api.post(BULK_EVENTS, many)]
        taken = [each.error is None for each in sent]
        assert all(taken) == (not klaviyo.violations), [str(each.error) for each in sent]
        await rig.api.aclose()

    asyncio.run(run())
    return sorted(klaviyo.violations)


def assert_kept(ours: Any, theirs: Any, where: str = "") -> None:
    """Everything that we wrote is in what the SDK read: it drops fields that it does not know."""
    if isinstance(ours, dict):
        for key, value in ours.items():
            if where.endswith("attributes") and key == "time":
                continue
            assert key in theirs, f"the SDK does not know {where}/{key}"
            assert_kept(value, theirs[key], f"{where}/{key}")
    elif isinstance(ours, list):
        assert len(ours) == len(theirs)
        for n, pair in enumerate(zip(ours, theirs, strict=True)):
            assert_kept(*pair, f"{where}/{n}")
    else:
        assert ours == theirs, where


def assert_the_sdk_takes(message: EventMessage, *, backfill: bool = False) -> None:
    one = single(message, backfill=backfill)
    many = ENVELOPE.body([item(message, backfill=backfill)] * 2)
    for model, body in ((EventCreateQueryV2, one), (EventsBulkCreateJob, many)):
        read = model.from_json(body.decode())
        assert read is not None
        assert_kept(orjson.loads(body), read.model_dump(by_alias=True, mode="json"))


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**53), 2**53),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    st.sampled_from(["x" * 100_000, "x" * 100_001, "ñ" * 50_000, "ñ" * 50_001, "<b>", "\0"]),
)
EDGES = st.one_of(
    st.sampled_from([[1] * 4_000, [1] * 4_001]),
    st.integers(7, 12).map(nest),
    st.integers(7, 12).map(lambda levels: nest(levels, {})),
)
VALUES = st.recursive(
    st.one_of(SCALARS, EDGES),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)
OBJECTS = st.one_of(
    st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), VALUES),
    st.integers(299, 301).map(lambda count: {str(n): n for n in range(count)}),
)
MESSAGES = st.builds(
    EventMessage,
    metric=st.one_of(st.text(min_size=0, max_size=20), st.sampled_from(["m" * 127, "m" * 128])),
    unique_id=st.one_of(st.just("jericommerce:1"), st.sampled_from(["", "u" * 255, "u" * 256])),
    occurred_at=st.one_of(
        st.integers(-(10**17), 10**17),
        st.integers(EARLIEST_TIME - DAY, now() + MAX_FUTURE + DAY),
    ),
    identity=st.sampled_from(
        [{"email": "ana@example.com"}, {"phone_number": "+34600000000"}, {"external_id": "x1"}]
    ),
    properties=OBJECTS,
    value=st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False)),
    attributes=st.fixed_dictionaries(
        {},
        optional={
            "first_name": st.one_of(st.none(), st.text(max_size=9)),
            "properties": OBJECTS,
            "location": st.fixed_dictionaries({}, optional={"city": st.text(max_size=9)}),
        },
    ),
)


@settings(
    deadline=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(message=MESSAGES, backfill=st.booleans())
def test_klaviyo_accepts_every_body_we_send(message: EventMessage, backfill: bool) -> None:
    try:
        encoded = item(message, backfill=backfill)
    except TypeError:
        return  # a lone surrogate: the sink makes it a dead letter
    if validate(message, encoded, now()) is None:
        assert violations(message, backfill=backfill) == []
        assert_the_sdk_takes(message, backfill=backfill)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"value": 9.99},
        {"value": 0.0},
        {"identity": {"phone_number": "+34600000000", "external_id": "c1"}},
        {
            "attributes": {
                "first_name": "Ana",
                "location": {"city": "Sevilla", "country": "ES"},
                "properties": {"Tier": "Gold", "Points": None},
            }
        },
    ],
)
def test_the_official_models_know_every_field(changes: dict[str, Any]) -> None:
    assert_the_sdk_takes(make_message(**changes), backfill=True)


def test_the_body_of_a_single_event() -> None:
    body = orjson.loads(single(make_message(occurred_at=1_790_000_000_999), backfill=False))
    assert body == {
        "data": {
            "type": "event",
            "attributes": {
                "properties": {"amount": 5},
                "time": "2026-09-21T14:13:20+00:00",
                "unique_id": "jericommerce:1",
                "metric": {"data": {"type": "metric", "attributes": {"name": "Balance changed"}}},
                "profile": {
                    "data": {"type": "profile", "attributes": {"email": "ana@example.com"}}
                },
            },
        }
    }


def attributes(message: EventMessage, backfill: bool = False) -> list[dict[str, Any]]:
    """The event's attributes on both lanes."""
    one = orjson.loads(single(message, backfill=backfill))["data"]
    group = orjson.loads(item(message, backfill=backfill))["attributes"]
    [event] = group["events"]["data"]
    for resource in (one, event):
        assert "unique_id" not in resource
        assert resource["type"] == "event"
    return [one["attributes"], event["attributes"]]


def test_the_unique_id_is_inside_the_attributes() -> None:
    assert [a["unique_id"] for a in attributes(make_message())] == ["jericommerce:1"] * 2


@pytest.mark.parametrize("value", [None, 0.0, 12.5, -3])
def test_a_value_is_omitted_only_when_absent(value: float | None) -> None:
    for found in attributes(make_message(value=value)):
        assert found.get("value") == value
        assert ("value" in found) is (value is not None)


@pytest.mark.parametrize("backfill", [False, True])
def test_the_backfill_flag_is_sent_only_when_true(backfill: bool) -> None:
    for found in attributes(make_message(), backfill):
        assert found.get("backfill", "unsaid") == (True if backfill else "unsaid")


def test_an_identifier_wins_over_an_attribute_of_the_same_name() -> None:
    message = make_message(attributes={"email": "other@example.com", "first_name": "Ana"})
    profile = orjson.loads(single(message, backfill=False))["data"]["attributes"]["profile"]
    assert profile["data"]["attributes"] == {"email": "ana@example.com", "first_name": "Ana"}


@pytest.mark.parametrize(
    ("late_after", "age", "flagged", "silent"),
    [
        (3600.0, 3_600_000, False, False),
        (3600.0, 3_600_001, False, True),
        (None, 30 * DAY, False, False),
        (None, 0, True, True),
        (3600.0, 0, True, True),
    ],
)
def test_a_late_or_historical_event_starts_no_flow(
    late_after: float | None, age: int, flagged: bool, silent: bool
) -> None:
    sink = EventSink(None, FakeClock(), late_after=late_after)  # type: ignore[arg-type]
    _, body = sink.preview(make_out(1, backfill=flagged, occurred_at=now() - age))
    assert orjson.loads(body)["data"]["attributes"].get("backfill", False) is silent
