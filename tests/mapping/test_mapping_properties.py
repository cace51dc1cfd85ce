"""Properties of rendering that hold for every view."""

from __future__ import annotations

import copy
import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

from hypothesis import given, settings
from hypothesis import strategies as st

from connector.domain.messages import EventMessage
from connector.mapping import compile_mapping, format_path, getter, load, parse_path
from connector.mapping.types import to_date
from connector.platforms.jericommerce.view import event_view, person_covers, person_view
from tests.paths import MAPPINGS

JERI = load(MAPPINGS / "jericommerce.toml").mapping
WIDE = compile_mapping(
    """
version = 1
source = "x"
timezone = "Pacific/Auckland"
[identity]
email = ["email", "raw.email"]
external_id = ["raw.id"]
phone_number = ["phone", "raw.phone"]
[events.metrics.A]
value = "event.properties.n"
[events.metrics.A.add]
a = { fn = "sign", of = "raw.n" }
b = { fn = "join", of = ["raw.l", "balance"] }
c = { fn = "first", of = ["raw.l[0]", "raw.o.p"] }
d = { fn = "date", of = "raw.n" }
e = { fn = "lower", of = "raw.n" }
f = "tier.name"
[profile.fields.number]
from = ["raw.n"]
type = "number"
trusted = { A = "event.properties.n" }
[profile.fields.integer]
from = ["raw.n"]
type = "integer"
[profile.fields.string]
from = ["raw.n"]
type = "string"
[profile.fields.boolean]
from = ["raw.n"]
type = "boolean"
[profile.fields.date]
from = ["raw.n"]
type = "date"
[profile.fields.datetime]
from = ["raw.n"]
type = "datetime"
[profile.fields.url]
from = ["raw.n"]
type = "url"
[profile.fields.plain]
from = ["raw.n"]
"""
)

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(
        ["-", "ana@example.com", "2026-01-01", "2026-01-01T23:59:59Z", "0001-01-01T00:00:00+14:00",
         "9999-12-31T23:59:59-14:00", "1e400", "12", "+34600000000", "600 000 000", "https://a.b"]
    )
)  # fmt: skip
words = st.text(max_size=3) | st.sampled_from(
    ["email", "phone", "id", "n", "l", "o", "p", "name", "balance", "tier", "properties", "raw",
     "userData", "loyaltyData", "tierStatus", "amount", "firstName", "birthdate", "enteredAt",
     "expiresAt", "event"]
)  # fmt: skip
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=6),
    max_leaves=20,
)
objects = st.dictionaries(words, anything, max_size=8)
names = st.sampled_from(["A", "Balance changed", "Tier upgraded", ""]) | st.text(max_size=140)


@settings(deadline=None)
@given(objects, names, anything, st.none() | objects)
def test_rendering_never_raises_and_changes_nothing(
    body: dict[str, Any], name: str, properties: Any, fresh: dict[str, Any] | None
) -> None:
    event = {"name": name, "time": "2026-01-01T10:00:00Z", "properties": properties}
    view = body | {"event": event, "raw": body}
    before = copy.deepcopy((view, fresh))
    for mapping in (JERI, WIDE):
        first = mapping.render_event(view, unique_id="x:1", fresh=fresh)
        assert repr(first) == repr(mapping.render_event(view, unique_id="x:1", fresh=fresh))
        person = {key: value for key, value in body.items() if key != "event"} | {"raw": body}
        for seen in (view, person, body):
            assert repr(mapping.render_profile(seen)) == repr(mapping.render_profile(seen))
            mapping.render_event(seen, unique_id="x:1")
    assert repr((view, fresh)) == repr(before)


@settings(deadline=None)
@given(objects, names)
def test_the_views_of_jericommerce_accept_any_body(body: dict[str, Any], name: str) -> None:
    view = event_view(name, 1_767_225_600_000, body, None)
    assert view["raw"] is body
    JERI.render_event(view, unique_id="x:1", fresh=person_view(body, {}))
    JERI.render_profile(person_view(body, {"pass_url": "https://a.b"}), person_covers(body))


numbers = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)


@given(st.dictionaries(st.text(max_size=5), numbers, max_size=5), numbers)
def test_numbers_stay_numbers(properties: dict[str, Any], amount: float) -> None:
    sent = properties | {"amount": amount}
    message = JERI.render_event(
        event_view("Balance changed", 0, {"email": "a@b.co", "properties": sent}, None),
        unique_id="x:1",
        fresh=person_view({"loyaltyData": {"balance": amount}}, {}),
    )
    assert isinstance(message, EventMessage)
    added = {"direction": message.properties["direction"], "balance_after": amount}
    assert json.dumps(message.properties) == json.dumps(sent | added)
    assert message.value == amount
    assert type(message.value) is type(amount)
    assert message.attributes["properties"]["balance"] == amount


spellings = sorted({name for rule in JERI.rules.values() for name in (rule.key, *rule.aliases)})


@given(st.sampled_from(spellings), st.randoms(use_true_random=False))
def test_a_name_in_any_case_finds_the_same_rule(name: str, random: Any) -> None:
    other = "".join(random.choice((c.lower(), c.upper())) for c in name)
    assert JERI.event(other) is JERI.event(name) is not None


@given(
    st.datetimes(min_value=datetime(1900, 1, 1), max_value=datetime(2100, 1, 1)),
    st.sampled_from(["UTC", "Europe/Madrid", "Pacific/Auckland", "America/Los_Angeles"]),
    st.integers(-14 * 60, 14 * 60),
)
def test_a_date_is_the_day_in_the_zone(moment: datetime, name: str, offset: int) -> None:
    zone = ZoneInfo(name)
    instant = moment.replace(tzinfo=UTC)
    elsewhere = instant.astimezone(timezone(timedelta(minutes=offset)))
    expected = instant.astimezone(zone).strftime("%Y-%m-%d")
    assert to_date(elsewhere.isoformat(), zone) == expected
    assert to_date(moment.isoformat(), zone) == expected
    assert to_date(expected, zone) == expected


segments = st.lists(st.text(max_size=6) | st.integers(0, 999_999), max_size=5)


@given(st.text(max_size=6), segments)
def test_a_path_round_trips_through_text(head: str, tail: list[str | int]) -> None:
    path = (head, *tail)
    assert parse_path(format_path(path)) == path


@given(st.text(max_size=6), st.lists(st.text(max_size=6) | st.integers(0, 3), max_size=5), scalars)
def test_a_path_finds_the_value_at_its_end(head: str, tail: list[str | int], value: Any) -> None:
    data = value
    for segment in reversed((head, *tail)):
        data = [None] * segment + [data] if isinstance(segment, int) else {segment: data}
    assert getter((head, *tail))(data) is value
