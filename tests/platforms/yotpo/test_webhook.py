"""Yotpo's webhook: authentication by a secret, deduplication and parsing."""

from __future__ import annotations

import random
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.domain.errors import Malformed, Unauthorised
from connector.domain.lanes import Millis
from connector.domain.messages import EventMessage
from connector.domain.records import Record
from connector.mapping import load
from connector.platforms.yotpo.view import event_view
from connector.platforms.yotpo.webhook import YotpoWebhook, parse_time
from connector.sandbox import YotpoSandbox
from connector.sandbox.yotpo.webhooks import TOPICS
from tests.paths import MAPPINGS

from .rig import body, settings

NOW = Millis(1_790_000_000_000)
HOUR = 3_600_000
MAPPING = load(MAPPINGS / "yotpo.toml").mapping
CUSTOMER = {"email": "ana@example.com", "third_party_id": "7011", "points_balance": 455}


def parse(raw: bytes, now: int = NOW, /, **headers: str) -> Record:
    webhook = YotpoWebhook(settings(), lambda: Millis(now))
    [record] = webhook.parse(headers, raw)
    return record


# ── authentication ───────────────────────────────────────────────────────────────────────────────


def test_an_unconfigured_header_does_not_authorize() -> None:
    headers = {"x-code": "whsec-0123456789"}
    with pytest.raises(Unauthorised, match="end of the address"):
        YotpoWebhook(settings()).verify(headers, b"{}", None)
    named = YotpoWebhook(settings(webhook_secret_header="X-Code"))
    named.verify(headers, b"{}", None)
    named.verify({}, b"{}", "whsec-0123456789")
    with pytest.raises(Unauthorised):
        named.verify({"x-code": ""}, b"{}", "")


@pytest.mark.parametrize("secret_header", ["", "X-Yotpo-Code"])
def test_every_sandbox_topic_is_accepted_and_becomes_a_metric(secret_header: str) -> None:
    sandbox = YotpoSandbox(people=5, secret_header=secret_header)
    webhook = YotpoWebhook(
        settings(webhook_secret=sandbox.webhook_secret, webhook_secret_header=secret_header)
    )
    rng, metrics = random.Random(1), set()
    for _ in TOPICS:
        sent = sandbox.next_webhook(rng)
        webhook.verify(sent.headers, sent.body, sent.suffix.removeprefix("/") or None)
        [record] = webhook.parse(sent.headers, sent.body)
        fields = orjson.loads(sent.body)
        assert record.unique_id == f"yotpo:{sent.id}"
        assert record.email == fields["email"]
        rule = MAPPING.event(record.name)
        assert rule is not None, f"the mapping does not name {record.name}"
        metrics.add(rule.metric)
    assert metrics == {f"Yotpo {name.removeprefix('Swell ')}" for name, _, _ in TOPICS.values()}


# ── deduplication ────────────────────────────────────────────────────────────────────────────────


def test_the_event_id_is_the_identity_if_present() -> None:
    one, again, other = (parse(body(), eventid=id) for id in ("e-1", "e-1", "e-2"))
    assert (one.key, one.unique_id) == (again.key, again.unique_id) == ("e-1", "yotpo:e-1")
    assert one.repeat_window is None
    assert other.key != one.key


@pytest.mark.parametrize("id", ["", " ", "x" * 201, "a\x00b", "a\nb"])
def test_an_empty_event_id_is_not_used(id: str) -> None:
    record = parse(body(), eventid=id)
    assert record.repeat_window == HOUR
    assert len(record.unique_id) < 100


@given(at=st.integers(0, 10 * HOUR), later=st.integers(1, 100 * HOUR))
def test_without_an_id_the_same_body_is_a_new_event_after_the_window(at: int, later: int) -> None:
    one, other = parse(body(), NOW + at), parse(body(), NOW + at + later)
    assert one.key == other.key
    assert one.repeat_window == other.repeat_window == HOUR
    if later > HOUR:
        assert one.unique_id != other.unique_id
    assert parse(body(), NOW + at).unique_id == one.unique_id


def test_different_content_is_a_different_event() -> None:
    assert parse(body(difference=1)).key != parse(body(difference=2)).key
    assert parse(body("swell/tier/lost")).key != parse(body("swell/tier/earned")).key


# ── the person ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("customer", "person"),
    [
        (CUSTOMER, "7011"),
        ({"email": "ana@example.com", "thirty_party_id": "7012"}, "7012"),
        ({"email": "ANA@example.com ", "third_party_id": 7013}, "7013"),
        ({"email": "ana@example.com", "third_party_id": None, "thirty_party_id": 7}, "7"),
        ({"email": "ana@example.com", "third_party_id": ""}, None),
        ({"email": "ana@example.com", "third_party_id": True}, None),
        ({"third_party_id": "7011"}, None),
        ({}, None),
        (None, None),
    ],
)
def test_the_person_is_the_shop_id_in_either_spelling(customer: Any, person: str | None) -> None:
    assert parse(body(customer=customer)).person == person


def test_a_shared_referral_names_the_friend_but_belongs_to_the_referrer() -> None:
    raw = body(
        "swell/referral/share",
        email="friend@example.com",
        customer=CUSTOMER,
        **{"from": "ana@example.com"},
    )
    record = parse(raw)
    assert (record.email, record.person) == ("friend@example.com", None)


def test_an_event_without_its_own_address_uses_the_customers() -> None:
    record = parse(body(email=None, customer=CUSTOMER))
    assert (record.email, record.person) == ("ana@example.com", "7011")


# ── name and time ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"name": "Swell Points Earned"}, "Points Earned"),
        ({"name": "  swell  Points Earned "}, "Points Earned"),
        ({"name": "Yotpo Referral Completed"}, "Referral Completed"),
        ({"name": "Loyalty Opt In"}, "Loyalty Opt In"),
        ({"topic": "swell/points/earned"}, "Points Earned"),
        ({"topic": "loyalty/opt_in", "name": None}, "Loyalty Opt In"),
        ({"topic": "swell/redemption_code/below_threshold"}, "Redemption Code Below Threshold"),
        ({"topic": "swell/points/earned", "name": "Swell"}, "Swell"),
    ],
)
def test_the_metric_name_drops_the_vendor_prefix(fields: dict[str, Any], name: str) -> None:
    assert parse(orjson.dumps({"email": "ana@example.com", **fields})).name == name


def test_a_topic_maps_to_its_event_name() -> None:
    for topic, (name, _, _) in TOPICS.items():
        parse_message = orjson.dumps({"topic": topic, "email": "ana@example.com"})
        assert parse(parse_message).name == name.removeprefix("Swell ")


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("2022-02-01T10:00:00", 1_643_709_600_000),
        ("2022-02-01T10:00:00Z", 1_643_709_600_000),
        ("2022-02-01T10:00:00.250Z", 1_643_709_600_250),
        ("2022-02-01T12:00:00+02:00", 1_643_709_600_000),
        ("2022-02-01 10:00:00 UTC", 1_643_709_600_000),
        ("2022-02-01", 1_643_673_600_000),
        ("02/01/2022", None),
        ("0001-01-01T00:00:00+23:00", None),
        ("", None),
        (None, None),
        (True, None),
        (1_643_709_600, None),
    ],
)
def test_every_time_format_is_parsed(text: Any, at: int | None) -> None:
    assert parse_time(text) == at


@pytest.mark.parametrize(
    ("fields", "at"),
    [
        ({}, NOW),
        ({"perk": {"created_at": "2026-09-01T10:00:00Z"}}, 1_788_256_800_000),
        (
            {"perk": {"created_at": "2026-09-01T10:00:00Z", "awarded_at": "2026-09-15T10:00:00Z"}},
            1_789_466_400_000,
        ),
        ({"perk": {"created_at": "2026-09-01T10:00:00Z", "awarded": True}}, 1_788_256_800_000),
        ({"redemption": {"created_at": "2026-09-01 10:00:00 UTC"}}, 1_788_256_800_000),
        ({"perk": {"expires_at": "2026-09-01T10:00:00Z"}}, NOW),
        ({"perk": {"created_at": "2030-01-01T10:00:00"}}, NOW),
        ({"perk": "none"}, NOW),
    ],
)
def test_occurred_at_is_the_events_time_and_never_after_receipt(
    fields: dict[str, Any], at: int
) -> None:
    assert parse(body(**fields)).occurred_at == at


# ── malformed bodies ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "raw",
    [
        b'{{"topic":"swell/points/earned"}',
        b'{"topic":"swell/points/earned"',
        b"",
        b"[]",
        b"null",
        b'{"email":"ana@example.com"}',
        b'{"name":" ","topic":" / "}',
        b'{"name":"Swell Points Earned","email":7}',
        b'{"name":"Swell Points Earned","email":"a\\u0000@example.com"}',
        b'{"name":"a\\u0000b"}',
        orjson.dumps({"name": "n" * 207}),
    ],
)
def test_an_unreadable_body_is_malformed(raw: bytes) -> None:
    with pytest.raises(Malformed) as caught:
        parse(raw)
    assert "@" not in caught.value.detail


# ── messages to Klaviyo ──────────────────────────────────────────────────────────────────────────


def parse_message(raw: bytes) -> EventMessage:
    record = parse(raw)
    view = event_view(record.name, record.occurred_at, orjson.loads(raw), record.email)
    message = MAPPING.render_event(view, unique_id=record.unique_id)
    assert isinstance(message, EventMessage)
    return message


def test_the_balance_before_a_redemption_is_not_sent() -> None:
    raw = body("swell/redemption/created", customer=CUSTOMER, redemption={"reward_text": "X"})
    assert "455" not in str(parse_message(raw).properties)
    assert parse_message(raw).attributes == {}


def test_the_tier_is_taken_from_new_tier() -> None:
    raw = body(
        "swell/tier/earned",
        customer={**CUSTOMER, "vip_tier_name": "Silver"},
        new_tier={"name": "Gold"},
    )
    view = event_view("Tier Earned", NOW, orjson.loads(raw), None)
    assert MAPPING.render_profile(view).fields == {"yotpo_tier_name": ("set", "Gold")}
    assert parse_message(raw).properties["tier_name"] == "Gold"


def test_no_default_metric_name_is_used_by_yotpos_own_integration() -> None:
    names = {field.name for field in MAPPING.fields} | set(MAPPING.declared)
    assert not [name for name in names if not name.startswith("yotpo_")]
    assert not [r.metric for r in MAPPING.rules.values() if not r.metric.startswith("Yotpo ")]
