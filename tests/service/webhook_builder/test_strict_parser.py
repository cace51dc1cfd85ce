"""The builder and the parser of the flow routes, end to end."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import pytest
from hypothesis import given

from connector.actions import requests
from connector.domain.actions import ActionRequest
from connector.domain.errors import Malformed
from connector.service.webhook_builder import PRESETS, Step, UseCase, build
from connector.service.webhook_builder.checks import MESSAGE_MAX, REASON_MAX, URL_MAX

from .conftest import EVENT, PERSON, TARGET, rendered
from .test_hostile_values import texts, values

DAY = 86_400_000
RULES = requests.ActionRules(
    max_amount=10_000, dedupe_window=25 * 3_600_000, key_retention=400 * DAY
)


def parsed(step: Step, **context: Any) -> ActionRequest:
    """The action that the flow routes parse from a step's call. Raises Malformed."""
    made = build(step, TARGET)
    route: Any = made.url.removeprefix(f"{TARGET.address}/")
    assert route in requests.routes_for(TARGET.offers)
    headers = {"x-klaviyo-flow-id": "F1", "content-type": "application/json"}
    [request] = requests.parse_actions(
        route, headers, rendered(made.body, **context).encode(), RULES
    )
    return request


def parsed_or_error(step: Step, **context: Any) -> ActionRequest | str:
    """The action, or the detail of the error."""
    try:
        return parsed(step, **context)
    except Malformed as error:
        return error.detail


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_accepted(name: str) -> None:
    preset = PRESETS[name].step
    request = parsed(replace(preset, name=name))
    assert request.action.email == PERSON["email"]
    assert request.key.startswith(f"key {name}:")
    expected = {"increase": 1, "adjust": 1, "push": 0}[preset.action]
    assert (request.action.amount > 0) == bool(expected)
    assert request.window == {
        "email-engagement": 7 * DAY,
        "re-engagement": 180 * DAY,
        "birthday-bonus": 300 * DAY,
        "reward-ready-push": 30 * DAY,
    }.get(name)


@pytest.mark.parametrize(
    ("step", "amount", "earned"),
    [
        (Step("increase", amount="5", reason="x"), 5, True),
        (Step("decrease", amount="5", reason="x"), -5, False),
        (Step("adjust", amount="-5", reason="x"), -5, None),
        (Step("adjust", amount="5", reason="x", use_case="reward"), 5, True),
        (Step("increase", amount="5", reason="x", use_case="refund"), 5, False),
        (Step("decrease", amount="5", reason="x", use_case="redeem"), -5, False),
        (Step("adjust", amount="5", reason="x", use_case="remove_earned"), -5, True),
        (Step("adjust", amount="5", reason="x", use_case="expire"), -5, False),
    ],
)
def test_the_points_have_the_intended_sign(step: Step, amount: int, earned: bool | None) -> None:
    assert (parsed(step).action.amount, parsed(step).action.earned) == (amount, earned)


def test_builder_and_parser_have_the_same_use_cases_and_limits() -> None:
    assert set(get_args(UseCase)) == requests.USE_CASES.keys()
    assert REASON_MAX <= requests.REASON_MAX
    assert MESSAGE_MAX <= requests.MESSAGE_MAX
    assert URL_MAX <= requests.URL_MAX


def test_a_repeat_has_the_same_identity_and_another_event_does_not() -> None:
    step = Step("increase", amount="5", reason="For {{ event.product }}")
    first, again = parsed(step), parsed(step)
    other = parsed(step, event={**EVENT, "$event_id": "order-2"})
    assert (first.key, first.route) == (again.key, again.route)
    assert other.key != first.key


def test_an_event_without_an_id_is_deduplicated_by_content_for_a_day() -> None:
    request = parsed(Step("increase", amount="5", reason="x"), event={})
    assert request.key.startswith("flow F1 ")
    assert request.window == RULES.dedupe_window


@given(texts)
def test_a_hostile_text_changes_no_other_points_and_no_other_person(value: str) -> None:
    step = Step("increase", amount="7", reason="For {{ event.product }}!")
    request = parsed_or_error(step, event={**EVENT, "product": value})
    if isinstance(request, str):
        assert "reason" in request
        return
    assert (request.action.email, request.action.amount) == (PERSON["email"], 7)
    assert request.action.reason.startswith("For ")
    assert request.key.endswith(":order-1")


@given(values)
def test_a_hostile_amount_is_within_its_bound_or_refused(value: Any) -> None:
    step = Step("decrease", amount="{{ event.points }}", at_most=50, reason="x")
    request = parsed_or_error(step, event={**EVENT, "points": value})
    if isinstance(request, str):
        assert "amount" in request
        return
    assert -50 <= request.action.amount < 0


@given(texts)
def test_a_hostile_identifier_matches_only_its_own_person_or_none(value: str) -> None:
    person = {**PERSON, "email": value, "KlaviyoID": value}
    request = parsed_or_error(
        Step("increase", amount="7", reason="x", trigger="list"), person=person
    )
    if not isinstance(request, str):
        assert request.action.email == value.strip().lower()


@pytest.mark.parametrize("letter", ["x", "é", "😀", '"', "\n", "\\"])
def test_points_are_applied_however_long_a_value_is(letter: str) -> None:
    step = Step("increase", amount="7", reason="For {{ event.product }}, with {{ event.x }}")
    long = letter * 100_000
    assert parsed(step, event={**EVENT, "product": long, "x": long}).action.amount == 7
