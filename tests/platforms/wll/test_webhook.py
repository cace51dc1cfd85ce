"""WLL's webhook: authentication by a secret, and events that are identified by their content."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from connector.domain.errors import Malformed
from connector.domain.records import Record
from connector.platforms.wll.settings import Settings
from connector.platforms.wll.webhook import WllWebhook, event_name

from .rig import SETTINGS

EVENT: dict[str, Any] = {
    "type": "PURCHASED_REWARD",
    "reportedAt": "2026-01-01T10:00:00.000Z",
    "subject": "crm-1001",
    "payload": {"rewardName": "Free coffee", "price": 200},
}
MORNING = 1_767_261_600_000


def parse(body: bytes | dict[str, Any], **settings: Any) -> Record:
    webhook = WllWebhook(Settings.model_validate({**SETTINGS, **settings}))
    [record] = webhook.parse({}, body if isinstance(body, bytes) else orjson.dumps(body))
    return record


def test_a_record_has_person_and_time_and_a_read_supplies_the_address() -> None:
    record = parse(EVENT)
    assert (record.name, record.person, record.email) == ("Purchased Reward", "crm-1001", None)
    assert record.occurred_at == MORNING
    assert record.unique_id == f"wll:{record.key}"
    assert record.membership is None
    assert orjson.loads(record.data) == EVENT


def test_a_redelivery_is_deduplicated_in_any_json_formatting() -> None:
    turned = {key: EVENT[key] for key in reversed(EVENT)}
    turned["payload"] = {"price": 200, "rewardName": "Free coffee"}
    assert parse(orjson.dumps(turned, option=orjson.OPT_INDENT_2)).key == parse(EVENT).key


@pytest.mark.parametrize(
    "change",
    [
        {"type": "POINTS_ADJUSTED"},
        {"subject": "crm-1002"},
        {"reportedAt": "2026-01-01T10:00:00.001Z"},
        {"payload": {"rewardName": "Free coffee", "price": 201}},
        {"payload": {}},
    ],
)
def test_any_other_difference_is_a_different_event(change: dict[str, Any]) -> None:
    assert parse({**EVENT, **change}).key != parse(EVENT).key


def test_a_missing_payload_is_an_empty_one() -> None:
    bare = {key: value for key, value in EVENT.items() if key != "payload"}
    assert parse(bare).key == parse({**EVENT, "payload": {}}).key


@pytest.mark.parametrize(
    ("written", "at"),
    [
        ("2026-01-01T10:00:00", MORNING),
        ("2026-01-01T11:00:00.5+01:00", MORNING + 500),
        ("2026-01-01 10:00:00Z", MORNING),
    ],
)
def test_a_time_without_a_zone_is_utc(written: str, at: int) -> None:
    assert parse({**EVENT, "reportedAt": written}).occurred_at == at


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"reportedAt": None}, "reportedAt"),
        ({"reportedAt": "yesterday"}, "reportedAt"),
        ({"subject": ""}, "subject"),
        ({"subject": None}, "subject"),
        ({"subject": "x" * 201}, "subject"),
        ({"type": ["x"]}, "type"),
        ({"payload": "x"}, "payload"),
    ],
)
def test_an_unreadable_field_is_named(change: dict[str, Any], word: str) -> None:
    with pytest.raises(Malformed, match=word):
        parse({**EVENT, **change})


def test_an_account_number_may_be_a_number() -> None:
    assert parse({**EVENT, "subject": 1000001}).person == "1000001"


@pytest.mark.parametrize(
    ("type", "expected_text"),
    [
        ("PURCHASED_REWARD", "Purchased Reward"),
        ("TIER2_REACHED", "Tier2 Reached"),
        ("Already in words", "Already in words"),
        ("cashbackRegistered", "cashbackRegistered"),
    ],
)
def test_a_type_becomes_a_readable_name(type: str, expected_text: str) -> None:
    assert event_name(type) == expected_text


@pytest.mark.parametrize(
    ("type", "payload", "membership"),
    [
        ("AUDIENCE_JOINED", {"audienceId": "a1", "audienceName": "VIP"}, ("a1", True)),
        ("AUDIENCE_LEFT", {"audience": {"name": "VIP"}}, ("VIP", False)),
        ("AUDIENCE_JOINED", {"audience": "VIP"}, ("VIP", True)),
        ("AUDIENCE_JOINED", {"id": 7}, ("7", True)),
        ("AUDIENCE_JOINED", {"audienceId": None, "other": 1}, None),
        ("PURCHASED_REWARD", {"audienceId": "a1"}, None),
    ],
)
def test_the_events_of_audiences_are_memberships_too(
    type: str, payload: dict[str, Any], membership: tuple[str, bool] | None
) -> None:
    record = parse({**EVENT, "type": type, "payload": payload})
    assert record.membership == membership
    assert record.name == event_name(type)


def test_without_configured_event_names_no_event_is_a_membership() -> None:
    joined = {**EVENT, "type": "AUDIENCE_JOINED", "payload": {"audienceId": "a1"}}
    assert parse(joined, join_event="", leave_event="").membership is None
