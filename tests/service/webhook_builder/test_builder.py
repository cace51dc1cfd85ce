"""Each trigger gets its own kind of key, and an invalid step is not built."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from typing import Any

import pytest

from connector.service.webhook_builder import PRESETS, FlowTarget, InvalidStep, Step, build

from .conftest import EVENT, PERSON, TARGET, rendered, sent

WELCOME = Step("increase", amount="100", reason="Welcome bonus")
PUSH = Step("push", message="Your reward is ready", trigger="list")


def faults(step: Step, target: FlowTarget = TARGET) -> str:
    with pytest.raises(InvalidStep) as caught:
        build(step, target)
    return "\n".join(caught.value.faults)


# ── the webhook ──────────────────────────────────────────────────────────────────────────────────


def test_an_increase_is_the_documented_body() -> None:
    made = build(replace(WELCOME, trigger="list"), TARGET)
    assert made.url == "https://loyalty.example.com/flows/shop/balance/increase"
    assert made.headers == {"Content-Type": "application/json", "api-key": "flow_secret"}
    assert json.loads(rendered(made.body)) == [
        {
            "email": "ana@example.com",
            "amount": 100,
            "reason": "Welcome bonus",
            "idempotency_key": "welcome-bonus:01ANA",
        }
    ]


@pytest.mark.parametrize(
    ("step", "path", "fields"),
    [
        (Step("decrease", amount="5", reason="Used"), "balance/decrease", {"amount": 5}),
        (
            Step("adjust", amount="-5", reason="Correction"),
            "points/adjust",
            {"point_adjustment_amount": -5, "history_title": "Correction"},
        ),
        (
            Step("increase", amount="5", reason="Refund", use_case="refund"),
            "points/adjust",
            {"point_adjustment_amount": 5, "use_case": "refund"},
        ),
        (
            Step("adjust", amount="5.0", reason="Gone", use_case="expire"),
            "points/adjust",
            {"point_adjustment_amount": 5, "use_case": "expire"},
        ),
        (replace(PUSH, url="https://shop.example"), "push", {"url": "https://shop.example"}),
    ],
)
def test_every_action_has_its_route_and_fields(
    step: Step, path: str, fields: dict[str, Any]
) -> None:
    assert build(step, TARGET).url.endswith(f"/shop/{path}")
    body = sent(step)
    assert body.items() >= fields.items()
    assert PERSON["email"] in (body.get("email"), body.get("customer_email"))


def test_the_body_is_json_before_it_is_rendered_too() -> None:
    """Klaviyo's form may validate it then."""
    step = Step("increase", amount="{{ event.points }}", at_most=50, reason="For {{ event.x }}")
    [item] = json.loads(build(step, TARGET).body)
    assert item["amount"].startswith("{% if ")


# ── the key ──────────────────────────────────────────────────────────────────────────────────────


def test_a_metric_flow_counts_once_per_event() -> None:
    first = sent(WELCOME)
    again = sent(WELCOME)
    other = sent(WELCOME, event={**EVENT, "$event_id": "order-2"})
    assert first["idempotency_key"] == again["idempotency_key"] == "welcome-bonus:order-1"
    assert other["idempotency_key"] == "welcome-bonus:order-2"
    assert "once_per" not in first


def test_an_event_without_an_id_has_no_key_at_all() -> None:
    """All events without an id would share it."""
    assert sent(WELCOME, event={"points": 1})["idempotency_key"] == ""


def test_the_event_id_may_be_in_another_field() -> None:
    step = replace(WELCOME, event_id="event.order.number")
    assert sent(step, event={"order": {"number": 7}})["idempotency_key"] == "welcome-bonus:7"
    assert sent(step, event={})["idempotency_key"] == ""


@pytest.mark.parametrize("trigger", ["list", "segment", "date"])
def test_without_an_event_the_key_is_the_person_and_the_step(trigger: Any) -> None:
    step = replace(WELCOME, trigger=trigger)
    assert sent(step, event=None)["idempotency_key"] == "welcome-bonus:01ANA"
    other = sent(step, person={**PERSON, "KlaviyoID": "01BOB"})
    assert other["idempotency_key"] == "welcome-bonus:01BOB"


@pytest.mark.parametrize(
    ("trigger", "once_per", "expected"),
    [
        ("date", "", "300d"),
        ("date", "180d", "180d"),
        ("list", "", None),
        ("segment", "30d", "30d"),
        ("metric", "7d", "7d"),
    ],
)
def test_once_per_is_encoded_and_a_date_flow_repeats_after_a_year(
    trigger: Any, once_per: str, expected: str | None
) -> None:
    assert sent(replace(WELCOME, trigger=trigger, once_per=once_per)).get("once_per") == expected


def test_a_metric_flow_may_count_once_per_period_whatever_the_event() -> None:
    step = replace(WELCOME, once_per="7d")
    assert sent(step)["idempotency_key"] == "welcome-bonus:01ANA"
    assert sent(step, event={})["idempotency_key"] == "welcome-bonus:01ANA"


@pytest.mark.parametrize("step", [WELCOME, *(preset.step for preset in PRESETS.values())])
@pytest.mark.parametrize("trigger", ["metric", "list", "segment", "date"])
def test_a_key_never_contains_a_date(step: Step, trigger: Any) -> None:
    if "event" not in step.amount:
        body = build(replace(step, trigger=trigger), TARGET).body
        assert "date" not in body
        assert "now" not in body
        assert "today" not in body


@pytest.mark.parametrize(
    ("reason", "name"),
    [
        ("Welcome bonus", "welcome-bonus"),
        ("¡Feliz cumpleaños, {{ person.first_name }}!", "feliz-cumplea-os"),
        ("{{ person.first_name }}", "increase"),
        ("x" * 100, "x" * 60),
    ],
)
def test_a_step_without_a_name_is_named_after_its_reason(reason: str, name: str) -> None:
    step = Step("increase", amount="1", reason=reason, trigger="list")
    assert sent(step)["idempotency_key"] == f"{name}:01ANA"


# ── variable amounts ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("points", "amount"),
    [
        (40, "40"),
        (40.0, "40.0"),
        ("40", "40"),
        (500, "500"),
        (501, ""),
        ("501", ""),
        (10**30, ""),
        (0, ""),
        (-1, ""),
        (-1_000_000, ""),
        ("many", ""),
        (None, ""),
        ([1], ""),
        ({"a": 1}, ""),
        ('5","amount":"9', ""),
    ],
)
def test_an_amount_above_its_bound_or_not_a_number_is_not_sent(points: Any, amount: str) -> None:
    step = Step("increase", amount="{{ event.points }}", at_most=500, reason="For your order")
    assert sent(step, event={"$event_id": "1", "points": points})["amount"] == amount


def test_an_amount_may_be_a_profiles_property_with_filters() -> None:
    step = Step(
        "increase",
        amount="{{ person|lookup:'Gift points' | default : 10 }}",
        at_most=50,
        reason="A gift",
        trigger="segment",
    )
    assert sent(step, person={**PERSON, "Gift points": 30})["amount"] == "30"
    assert sent(step)["amount"] == "10"


# ── invalid steps ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("step", "expected_text"),
    [
        (Step("push"), "a push needs a message"),
        (replace(PUSH, amount="5"), "a push has no points"),
        (replace(PUSH, use_case="reward"), "a push has no points"),
        (replace(WELCOME, message="hello"), "only a push has a message"),
        (replace(WELCOME, reason=" "), "points need a reason"),
        (replace(WELCOME, amount=""), "the amount is missing"),
        (replace(WELCOME, amount="0"), "a whole number other than 0"),
        (replace(WELCOME, amount="1.5"), "a whole number other than 0"),
        (replace(WELCOME, amount="many"), "a whole number other than 0"),
        (replace(WELCOME, amount="-5"), "the amount of increase must not be negative"),
        (replace(WELCOME, amount="10001"), "from 1 to 10000 ([connections.actions] max_amount)"),
        (replace(WELCOME, at_most=99), "the amount is above at-most, which is 99"),
        (replace(WELCOME, amount="{{ event.points }}"), "needs an upper bound: at-most"),
        (
            replace(WELCOME, amount="{{ event.points }}", at_most=20_000),
            "at-most must be from 1 to",
        ),
        (replace(WELCOME, amount="1{{ event.points }}", at_most=5), "without other text"),
        (
            Step("adjust", amount="{{ event.points }}", at_most=5, reason="x"),
            "use the action increase or decrease, or a use case",
        ),
        (
            Step("decrease", amount="5", reason="x", use_case="refund"),
            "refund adds points, which contradicts decrease",
        ),
        (
            Step("increase", amount="5", reason="x", use_case="redeem"),
            "redeem removes points, which contradicts increase",
        ),
        (Step("adjust", amount="-5", reason="x", use_case="redeem"), "redeem must not be negative"),
        (replace(WELCOME, once_per="yearly"), "is not a duration such as 300d"),
        (
            replace(WELCOME, once_per="24h"),
            "must be from 25h (Klaviyo repeats a call for a day) to 400d",
        ),
        (
            replace(WELCOME, once_per="401d"),
            "must be from 25h (Klaviyo repeats a call for a day) to 400d",
        ),
        (replace(WELCOME, event_id="event.id|date:'Y'"), "event-id must be event.x"),
        (replace(WELCOME, event_id="person.id"), "event-id must be event.x"),
        (replace(WELCOME, event_id="event.id", trigger="list"), "a list flow has no event"),
        (replace(WELCOME, event_id="event.id", once_per="7d"), "use either event-id"),
        (replace(WELCOME, name="Welcome!"), "must be a-z, 0-9 and -"),
        (replace(WELCOME, reason="For {{ event.x }}", trigger="date"), "a date flow has no event"),
        (replace(WELCOME, reason="{% now 'Y' %}"), "no other braces"),
        (replace(WELCOME, reason="{{ event.x"), "no other braces"),
        (replace(WELCOME, reason="{# x #}"), "no other braces"),
        (replace(WELCOME, reason='{{ event.x|default:"y" }}'), "write '…' instead of"),
        (replace(WELCOME, reason="{{ event.Total Spent }}"), "|lookup:'the name'"),
        (replace(WELCOME, reason="{{ event.$value }}"), "|lookup:'the name'"),
        (replace(WELCOME, reason="{{ today }}"), "does not exist at Klaviyo"),
        (replace(WELCOME, reason="{{ }}"), "is not a variable with filters"),
        (replace(WELCOME, reason="{{ event.x|default:'a\\b' }}"), "is not a variable with filters"),
        (replace(WELCOME, reason="x" * 201), "the reason is too long: at most 200 characters"),
        (replace(WELCOME, reason="x" * 195 + "{{ event.x }}"), "including its variables"),
        (replace(PUSH, url="https://x/" + "x" * 2000), "the url is too long"),
    ],
)
def test_an_invalid_step_is_refused_with_its_reason(step: Step, expected_text: str) -> None:
    assert expected_text in faults(step)


def test_all_faults_are_reported_at_once() -> None:
    found = faults(Step("increase", amount="-5", once_per="x", name="N", trigger="date"))
    assert len(found.splitlines()) == 4


def test_an_unsupported_action_names_the_supported_ones() -> None:
    yotpo = replace(TARGET, title="Yotpo", offers=frozenset({"increase", "decrease", "adjust"}))
    assert faults(PUSH, yotpo) == "Yotpo does not offer push; it offers: increase, decrease, adjust"
    nothing = replace(TARGET, title="Events only", offers=frozenset({"events"}))
    assert faults(WELCOME, nothing) == "Events only does not offer increase; it offers: nothing"


def test_a_platform_that_adjusts_by_sign_supports_increase_and_decrease() -> None:
    signed = replace(TARGET, offers=frozenset({"adjust"}))
    assert build(WELCOME, signed).url.endswith("/balance/increase")


# ── notes and the curl command ────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("step", "expected_text"),
    [
        (WELCOME, "once per event"),
        (replace(WELCOME, trigger="date"), "once per person in 300d"),
        (replace(WELCOME, trigger="list"), "once per person in 400d"),
    ],
)
def test_the_notes_say_how_often_it_applies(step: Step, expected_text: str) -> None:
    assert expected_text in build(step, TARGET).notes[0]


def test_a_url_that_klaviyo_cannot_reach_is_noted() -> None:
    assert not any("https" in note for note in build(WELCOME, TARGET).notes)
    local = replace(TARGET, address="http://127.0.0.1:8787/flows/shop")
    assert any("https" in note for note in build(WELCOME, local).notes)


@pytest.mark.parametrize(
    "step",
    [
        WELCOME,
        replace(WELCOME, reason="It's \"yours\", {{ event.product|default:'friend' }}; $(rm) `x`"),
        replace(WELCOME, amount="{{ event.points }}", at_most=5),
        Step("adjust", amount="{{ event.points }}", at_most=5, reason="x", use_case="refund"),
        replace(PUSH, url="https://shop.example/?a=1&b={{ person.id }}"),
        *(preset.step for preset in PRESETS.values()),
    ],
)
def test_the_curl_line_is_the_same_request_with_values(step: Step) -> None:
    made = build(step, TARGET)
    words = shlex.split(made.curl)
    assert words[:3] == ["curl", "-i", made.url]
    assert "api-key: flow_secret" in words
    tried = json.loads(words[-1])
    real = json.loads(rendered(made.body))
    tried, real = (tried[0], real[0]) if isinstance(tried, list) else (tried, real)
    assert tried.keys() == real.keys()
    assert "{" not in "".join(str(value) for value in tried.values())
    assert "you@example.com" in tried.values()
    amount = tried.get("amount", tried.get("point_adjustment_amount"))
    assert amount is None or isinstance(amount, int)


# ── presets ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_ready_to_use(name: str) -> None:
    body = sent(replace(PRESETS[name].step, name=name))
    assert body["idempotency_key"].startswith(f"{name}:")
    assert all(value not in ("", None) for value in body.values())


def test_the_common_flows_have_presets() -> None:
    triggers = {name: preset.step.trigger for name, preset in PRESETS.items()}
    assert triggers == {
        "welcome-bonus": "list",
        "review-reward": "metric",
        "survey": "metric",
        "email-engagement": "metric",
        "re-engagement": "segment",
        "birthday-bonus": "date",
        "reward-ready-push": "segment",
        "refund-redeemed-points": "metric",
    }
