"""The body stays valid JSON for any value in an event or profile: no value ends a string, adds a
key or changes another field."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from connector.service.webhook_builder import PRESETS, Step, build
from connector.service.webhook_builder.checks import MESSAGE_MAX, REASON_MAX

from .conftest import PERSON, TARGET, rendered, sent

HOSTILE = (
    'say "cheese"',
    "it's",
    "back\\slash",
    "\\",
    '\\"',
    "two\nlines\r\n\ttabs",
    "\x00\x01\x1f\x7f",
    "\u2028\u2029\u0085\ufeff",
    "😀👩‍👩‍👧‍👦 ñ 日本語",
    "{{ person.email }}",
    "{% if %}",
    "{# #}",
    "}}",
    '","amount":999,"x":"',
    '"}],"more":[{"amount":1,"reason":"',
    "</script><!--&amp;-->",
    "x" * 100_000,
)
texts = st.one_of(st.sampled_from(HOSTILE), st.text(), st.text(alphabet="\"\\\n{}%#'/u0aé😀\x00"))
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), texts),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)


def hostile_examples(test: Any) -> Any:
    for value in HOSTILE:
        test = example(value)(test)
    return test


@hostile_examples
@given(texts)
def test_a_text_arrives_unchanged_and_changes_nothing_else(value: str) -> None:
    step = Step("increase", amount="7", reason='For {{ event.product }}, "thanks" \\ it\'s yours')
    body = sent(step, event={"$event_id": "1", "product": value})
    assert body.keys() == {"email", "amount", "reason", "idempotency_key"}
    assert (body["email"], body["amount"]) == ("ana@example.com", 7)
    assert body["reason"].startswith("For ")
    assert body["reason"].endswith(', "thanks" \\ it\'s yours')
    if len(value) < 150 and value.isascii():
        assert body["reason"] == f'For {value}, "thanks" \\ it\'s yours'


@given(values)
def test_any_value_anywhere_leaves_the_body_valid(value: Any) -> None:
    step = Step(
        "adjust",
        amount="{{ event.points }}",
        at_most=50,
        reason="{{ event.points }} for {{ person.first_name|default:'you' }}",
        use_case="reward",
        event_id="event.points",
    )
    body = sent(step, event={"points": value}, person={"email": value, "first_name": value})
    assert body.keys() == {
        "customer_email",
        "point_adjustment_amount",
        "use_case",
        "history_title",
        "idempotency_key",
    }
    assert body["use_case"] == "reward"
    assert all(isinstance(field, str) for field in body.values())
    number = body["point_adjustment_amount"]
    assert not number or isinstance(value, int | float | str)


@given(texts, texts)
def test_a_push_stays_a_push(message: str, link: str) -> None:
    step = Step(
        "push",
        message="Hello {{ person.first_name }}",
        url="https://shop.example/{{ person.link }}",
        trigger="list",
    )
    body = sent(step, person={**PERSON, "first_name": message, "link": link})
    assert body.keys() == {"email", "message", "url", "idempotency_key"}
    assert body["url"] == f"https://shop.example/{link}"


@given(texts)
def test_two_events_never_have_one_key_and_the_same_event_always_has(value: str) -> None:
    step = Step("increase", amount="7", reason="For your order")
    key = sent(step, event={"$event_id": value})["idempotency_key"]
    assert key == (f"for-your-order:{value}" if value else "")


@pytest.mark.parametrize("name", PRESETS)
@given(value=texts)
def test_every_preset_stays_valid(name: str, value: str) -> None:
    step = replace(PRESETS[name].step, name=name)
    made = rendered(
        build(step, TARGET).body,
        person={"email": value, "KlaviyoID": value},
        event={"$event_id": value, "points": value},
    )
    assert json.loads(made)


@pytest.mark.parametrize("letter", ["x", "é", "😀", '"', "\n"])
def test_a_long_value_is_truncated_to_the_accepted_length(letter: str) -> None:
    long = letter * 100_000
    step = Step("increase", amount="7", reason="{{ event.a }} and {{ event.b }}")
    body = sent(step, event={"$event_id": "1", "a": long, "b": long})
    assert 190 < len(body["reason"]) <= REASON_MAX
    push = Step("push", message="Hello {{ person.first_name }}", trigger="list")
    assert len(sent(push, person={**PERSON, "first_name": long})["message"]) <= MESSAGE_MAX


@given(st.text(alphabet=st.characters(exclude_characters="{}", exclude_categories=["Cs"])))
def test_a_typed_reason_arrives_unchanged(reason: str) -> None:
    if not 0 < len(reason.strip()) <= REASON_MAX:
        return
    step = Step("increase", amount="7", reason=reason, trigger="list", name="x")
    assert sent(step)["reason"] == reason.strip()
