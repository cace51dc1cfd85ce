"""A flow's call is read whole or refused whole, with the item and the field at fault."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.actions.requests import (
    REASON_MAX,
    USE_CASES,
    ActionRules,
    Route,
    parse_actions,
    routes_for,
)
from connector.domain.actions import Action, ActionRequest
from connector.domain.errors import Malformed, Problem

_HOUR = 3_600_000
RULES = ActionRules(max_amount=10_000, dedupe_window=25 * _HOUR, key_retention=400 * 24 * _HOUR)
INCREASE: Route = "balance/increase"
DECREASE: Route = "balance/decrease"
ADJUST: Route = "points/adjust"
PUSH: Route = "push"

BALANCE = {"email": "Ana@Example.com ", "amount": 100, "reason": "Welcome"}
POINTS = {
    "customer_email": "ana@example.com",
    "point_adjustment_amount": -50,
    "history_title": "Returned",
}
MESSAGE = {"email": "ana@example.com", "message": "Your reward is ready"}


def parse_request(route: Route, call_body: Any, **headers: str) -> list[ActionRequest]:
    body = call_body if isinstance(call_body, bytes) else json.dumps(call_body).encode()
    return list(
        parse_actions(route, {k.replace("_", "-"): v for k, v in headers.items()}, body, RULES)
    )


def one(route: Route, call_body: Any, **headers: str) -> ActionRequest:
    [found] = parse_request(route, call_body, **headers)
    return found


def refused(route: Route, call_body: Any, **headers: str) -> str:
    with pytest.raises(Malformed) as caught:
        parse_request(route, call_body, **headers)
    assert caught.value.problem is Problem.FLOW_MALFORMED
    return caught.value.detail


# ── what each route means ─────────────────────────────────────────────────────────────────────────


def test_an_increase_is_a_reward_and_a_decrease_a_redemption() -> None:
    up, down = one(INCREASE, [BALANCE]).action, one(DECREASE, BALANCE).action
    expected = Action("increase", email="ana@example.com", amount=100, reason="Welcome")
    assert up == replace(expected, earned=True)
    assert down == replace(expected, name="decrease", amount=-100, earned=False)


@pytest.mark.parametrize(
    ("word", "amount", "earned"),
    [
        ("reward", 50, True),
        ("refund", 50, False),
        ("redeem", -50, False),
        ("remove_earned", -50, True),
        ("expire", -50, False),
    ],
)
def test_a_use_case_sets_sign_and_flag(word: str, amount: int, earned: bool) -> None:
    action = one(ADJUST, POINTS | {"point_adjustment_amount": 50, "use_case": word}).action
    assert (action.amount, action.earned) == (amount, earned)
    assert set(USE_CASES) == {"reward", "refund", "redeem", "remove_earned", "expire"}


def test_a_use_case_that_contradicts_its_fields_is_refused() -> None:
    assert "adds points" in refused(ADJUST, POINTS | {"use_case": "reward"})
    assert one(ADJUST, POINTS | {"use_case": "redeem"}).action.amount == -50
    flag = {"apply_adjustment_to_points_earned": True, "use_case": "redeem"}
    assert "apply_adjustment_to_points_earned" in refused(ADJUST, POINTS | flag)
    assert "use_case" in refused(ADJUST, POINTS | {"use_case": "gift"})


def test_an_adjustment_is_signed_and_its_flags_may_be_texts() -> None:
    flags = {"apply_adjustment_to_points_earned": "True", "visible_to_customer": "false"}
    action = one(ADJUST, POINTS | flags).action
    assert (action.amount, action.earned, action.visible) == (-50, True, False)
    plain = one(ADJUST, POINTS).action
    assert (plain.earned, plain.visible) == (None, True)
    assert "visible_to_customer" in refused(ADJUST, POINTS | {"visible_to_customer": "no"})


def test_a_person_is_identified_by_address_or_id() -> None:
    by_id = {k: v for k, v in POINTS.items() if k != "customer_email"} | {"customer_id": "c7"}
    assert one(ADJUST, by_id).action.customer == "c7"
    assert one(PUSH, {"customer_id": "c7", "email": "", "message": "Hi"}).action.email is None
    assert "customer_email" in refused(ADJUST, by_id | {"customer_id": " "})


def test_a_push_has_a_bounded_message_and_a_url() -> None:
    action = one(PUSH, MESSAGE | {"url": "https://example.com/x"}).action
    assert (action.name, action.url) == ("push", "https://example.com/x")
    assert one(PUSH, MESSAGE).action.url == ""
    assert "message" in refused(PUSH, MESSAGE | {"message": "x" * 501})
    assert "url" in refused(PUSH, MESSAGE | {"url": "javascript:alert(1)"})
    assert "url" in refused(PUSH, MESSAGE | {"url": "https://a b"})


def test_a_platform_offers_only_routes_it_supports() -> None:
    both = (INCREASE, DECREASE, ADJUST)
    assert routes_for(frozenset({"increase", "decrease"})) == both
    assert routes_for(frozenset({"adjust", "push"})) == (*both, PUSH)
    assert routes_for(frozenset({"increase", "events"})) == (INCREASE,)
    assert routes_for(frozenset({"events"})) == ()


# ── amounts ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("amount", ["100", "100.0", '"100"', '" 100.00 "', "1e2", '"+100"'])
def test_a_whole_number_may_be_written_in_many_ways(amount: str) -> None:
    body = f'{{"email":"ana@example.com","amount":{amount},"reason":"r"}}'.encode()
    assert one(INCREASE, body).action.amount == 100


@pytest.mark.parametrize(
    "amount",
    [
        *("0", "-1", "1.5", '"1.5"', '"1,000"', '"1e2"', '"0x10"', '"١٠٠"', '"100 points"', '""'),
        *("true", "null", "[]", "{}", "1e400", "NaN", "Infinity", "9" * 5_000, "10001", '"10001"'),
    ],
)
def test_any_other_amount_is_refused(amount: str) -> None:
    body = f'[{{"email":"ana@example.com","amount":{amount},"reason":"r"}}]'.encode()
    detail = refused(INCREASE, body)
    assert "item 1: amount" in detail or "number" in detail


# ── what templates do to JSON ─────────────────────────────────────────────────────────────────────


def test_a_value_that_injects_keys_is_refused() -> None:
    hostile = 'x", "amount": 9999, "reason": "gift'
    template = '{"email":"ana@example.com","amount":1,"reason":"%s"}'
    assert "twice" in refused(INCREASE, (template % hostile).encode())
    hostile = 'x", "max_amount": 9999, "y": "gift'
    assert "max_amount: unknown field" in refused(INCREASE, (template % hostile).encode())


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe{}", b"[]", b"1", b'"x"', b"[1]", b"null"])
def test_a_body_that_is_not_an_object_or_array_of_objects_is_refused(body: bytes) -> None:
    assert refused(INCREASE, body)


def test_a_body_nested_too_deeply_is_refused() -> None:
    assert "deep" in refused(INCREASE, b"[" * 500_000)


@pytest.mark.parametrize("route", [ADJUST, PUSH])
def test_only_balance_routes_accept_arrays(route: Route) -> None:
    assert "an object" in refused(route, [POINTS if route == ADJUST else MESSAGE])


def test_an_array_is_refused_as_a_whole_naming_item_and_field() -> None:
    bad = [BALANCE, BALANCE | {"reason": ""}]
    assert refused(INCREASE, bad).startswith("item 2: reason: found 0 characters")
    assert refused(INCREASE, [BALANCE, 7]).startswith("item 2: found a number")
    assert "1000" in refused(INCREASE, [BALANCE] * 1001)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("email", "not an address"),
        ("email", "noemail@example.com"),
        ("email", None),
        ("reason", None),
        ("reason", 7),
        ("reason", "x" * (REASON_MAX + 1)),
        ("reason", "a\0b"),
        ("reason", "\ud800"),
        ("idempotency_key", "x" * 201),
        ("idempotency_key", 7),
        ("once_per", "soon"),
        ("once_per", "1h"),
        ("once_per", "500d"),
        ("once_per", 300),
    ],
)
def test_a_bad_field_is_named_without_its_value(field: str, value: Any) -> None:
    detail = refused(INCREASE, [BALANCE, BALANCE | {field: value}])
    assert detail.startswith(f"item 2: {field}: ")
    assert "not an address" not in detail


def test_a_window_out_of_range_is_refused_with_the_configured_durations() -> None:
    rules = replace(RULES, dedupe_window=90 * 60_000, key_retention=36 * _HOUR)
    body = json.dumps(BALANCE | {"once_per": "1h"}).encode()
    with pytest.raises(Malformed, match=r"once_per: found 1h, allowed 90m .* to 36h "):
        parse_actions(INCREASE, {}, body, rules)


# ── identity ──────────────────────────────────────────────────────────────────────────────────────


def test_a_key_in_the_body_overrides_the_header() -> None:
    assert one(INCREASE, BALANCE, idempotency_key="h").key == "key h"
    own = BALANCE | {"idempotency_key": "b", "once_per": "300d"}
    found = one(INCREASE, own, idempotency_key="h")
    assert (found.key, found.window) == ("key b", 300 * 24 * _HOUR)
    assert one(INCREASE, BALANCE | {"idempotency_key": "b"}).window is None


def test_a_header_key_applies_to_each_item_of_an_array() -> None:
    several = parse_request(INCREASE, [BALANCE, BALANCE], idempotency_key="h")
    assert [a.key for a in several] == ["key h#1", "key h#2"]
    assert one(INCREASE, [BALANCE], idempotency_key="h").key == "key h"
    assert "idempotency-key" in refused(INCREASE, BALANCE, idempotency_key="x" * 201)


def test_without_a_key_the_identity_is_flow_person_and_content() -> None:
    first = one(INCREASE, BALANCE, x_klaviyo_flow_id="F1")
    assert first.window == RULES.dedupe_window
    assert first == one(INCREASE, BALANCE, x_klaviyo_flow_id="F1")
    assert first.key != one(INCREASE, BALANCE, x_klaviyo_flow_id="F2").key
    assert first.key != one(INCREASE, BALANCE | {"amount": 101}, x_klaviyo_flow_id="F1").key
    assert first.key != one(INCREASE, BALANCE | {"reason": "W"}, x_klaviyo_flow_id="F1").key


# ── anything at all ───────────────────────────────────────────────────────────────────────────────

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
_FIELDS = st.dictionaries(st.sampled_from([*BALANCE, *POINTS, *MESSAGE, "once_per", "x"]), _JSON)


@given(
    st.sampled_from([INCREASE, DECREASE, ADJUST, PUSH]),
    st.binary() | (_JSON | _FIELDS | st.lists(_FIELDS)).map(lambda x: json.dumps(x).encode()),
)
def test_any_input_is_parsed_or_rejected(route: Route, body: bytes) -> None:
    try:
        found = parse_actions(route, {}, body, RULES)
    except Malformed:
        return
    assert found
    for item in found:
        assert abs(item.action.amount) <= RULES.max_amount
        assert item.action.email or item.action.customer


@given(
    st.text(min_size=1, max_size=200).filter(lambda x: x.strip() and "\0" not in x),
    st.integers(1, 10_000),
)
def test_a_valid_request_is_accepted_unchanged(reason: str, amount: int) -> None:
    call_body = BALANCE | {"amount": amount, "reason": reason}
    try:
        reason.encode()
    except UnicodeEncodeError:
        assert refused(INCREASE, call_body)
        return
    action = one(INCREASE, call_body).action
    assert (action.reason, action.amount) == (reason.strip(), amount)


@given(st.text(max_size=60))
def test_a_value_put_into_a_template_changes_no_other_field(value: str) -> None:
    body = f'{{"email":"ana@example.com","amount":5,"reason":"{value}"}}'.encode("utf-8", "ignore")
    try:
        found = parse_actions(INCREASE, {}, body, RULES)
    except Malformed:
        return
    [item] = found
    assert (item.action.email, item.action.amount) == ("ana@example.com", 5)
