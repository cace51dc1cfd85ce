"""Builds a webhook for a Klaviyo flow: URL, headers and body to paste, and a curl command.

Klaviyo's webhook calls have no id and are repeated for up to a day, so the body contains a key by
which the connector recognises a repeat. In a flow with a metric trigger the key contains the
event's id. Flows with a list, segment or date trigger have no event: there the key is the step's
name and Klaviyo's id of the person, and `once_per` says when it may count again. The key never
contains a rendered date, which would differ in a repeat after midnight.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from connector.config.values import written_duration
from connector.service.webhook_builder.checks import CheckedStep, check
from connector.service.webhook_builder.step import CONTENT_TYPE, FlowTarget, Step, Webhook
from connector.service.webhook_builder.templates import Expression

EMAIL = Expression("person", "person.email").render()
_PERSON = Expression("person", "person.KlaviyoID").render()
_EVENT_ID = "event|lookup:'$event_id'"


def build(step: Step, target: FlowTarget) -> Webhook:
    """The webhook that calls the connector. Raises InvalidStep with every fault."""
    checked = check(step, target)
    url = f"{target.address}/{checked.step.route}"
    return webhook(url, {"api-key": target.secret}, _body(checked), _notes(checked.step, target))


def webhook(url: str, headers: Mapping[str, str], body: Any, notes: tuple[str, ...]) -> Webhook:
    """A webhook from its parts. The body is indented, so that no two of its braces are adjacent."""
    headers = {CONTENT_TYPE: "application/json", **headers}
    return Webhook(
        url, headers, json.dumps(body, indent=2, ensure_ascii=False), _sample(body), notes
    )


def _body(checked: CheckedStep) -> Any:
    step = checked.step
    key_fields = {"idempotency_key": _key(step)}
    if step.once_per:
        key_fields["once_per"] = step.once_per
    if step.route == "push":
        url = {"url": checked.url} if checked.url else {}
        return {"email": EMAIL, "message": checked.message, **url, **key_fields}
    if step.route == "points/adjust":
        use_case = {"use_case": step.use_case} if step.use_case else {}
        return {
            "customer_email": EMAIL,
            "point_adjustment_amount": checked.amount,
            **use_case,
            "history_title": checked.reason,
            **key_fields,
        }
    return [{"email": EMAIL, "amount": checked.amount, "reason": checked.reason, **key_fields}]


def _key(step: Step) -> str:
    if step.trigger != "metric" or step.once_per:
        return f"{step.name}:{_PERSON}"
    id = step.event_id or _EVENT_ID
    # Without an event id the key must be empty; a repeat is then recognised by its content for a
    # day. The name alone would make all events of a person count as one.
    return f"{{% if {id} %}}{step.name}:{Expression('event', id).render()}{{% endif %}}"


def _notes(step: Step, target: FlowTarget) -> tuple[str, ...]:
    if step.once_per:
        counts = f"Counts once per person in {step.once_per}, whatever the flow does."
    elif step.trigger == "metric":
        counts = "Counts once per event, however often Klaviyo repeats the call."
    else:
        kept = written_duration(target.key_retention)
        counts = f"Counts once per person in {kept}."
    changed = (
        f"For a different amount or text, use another name than {step.name!r}: a key with different"
        " content is rejected (409)."
    )
    notes = [counts, changed, *([target.person_note] if target.person_note else [])]
    if not target.address.startswith("https://"):
        notes.append(
            "Klaviyo calls only https URLs with a valid certificate: set [server] public_url."
        )
    return tuple(notes)


def _sample(body: Any) -> str:
    """The body with example values instead of variables."""
    sample = re.sub(r"\{%.*?%\}", "", json.dumps(body, ensure_ascii=False))
    sample = sample.replace(EMAIL, "you@example.com")
    sample = re.sub(r'(amount": )"\{\{.*?\}\}"', r"\g<1>1", sample)
    return re.sub(r"\{\{.*?\}\}", "example", sample)
