"""A webhook for a Klaviyo flow: address, headers and body to paste, and a line to try it with.

Klaviyo gives a delivery no id and repeats it for a day, so the body carries a key by which the
connector knows a repeat. In a flow that a metric starts it is the event's id. A list, a segment or
a date has no event: there it is the step's name and Klaviyo's id of the person, and `once_per` says
when it may count again. It never is a rendered date, which would change with a repeat after
midnight.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from connector.config.values import written_duration
from connector.tools.webhook_builder.checks import Checked, check
from connector.tools.webhook_builder.step import CONTENT_TYPE, Place, Step, Webhook
from connector.tools.webhook_builder.templates import Expression

EMAIL = Expression("person", "person.email").shown()
_PERSON = Expression("person", "person.KlaviyoID").shown()
_EVENT_ID = "event|lookup:'$event_id'"


def build(step: Step, place: Place) -> Webhook:
    """The webhook that calls the connector. Raises Unfit with every fault of the step."""
    made = check(step, place)
    url = f"{place.address}/{made.step.route}"
    return webhook(url, {"api-key": place.secret}, _body(made), _notes(made.step, place))


def webhook(url: str, headers: Mapping[str, str], body: Any, notes: tuple[str, ...]) -> Webhook:
    """A webhook of its parts. The body is spread over lines, so that no two braces of it meet."""
    headers = {CONTENT_TYPE: "application/json", **headers}
    return Webhook(
        url, headers, json.dumps(body, indent=2, ensure_ascii=False), _sample(body), notes
    )


def _body(made: Checked) -> Any:
    step = made.step
    known_by = {"idempotency_key": _key(step)}
    if step.once_per:
        known_by["once_per"] = step.once_per
    if step.route == "push":
        url = {"url": made.url} if made.url else {}
        return {"email": EMAIL, "message": made.message, **url, **known_by}
    if step.route == "points/adjust":
        use_case = {"use_case": step.use_case} if step.use_case else {}
        return {
            "customer_email": EMAIL,
            "point_adjustment_amount": made.amount,
            **use_case,
            "history_title": made.reason,
            **known_by,
        }
    return [{"email": EMAIL, "amount": made.amount, "reason": made.reason, **known_by}]


def _key(step: Step) -> str:
    if step.trigger != "metric" or step.once_per:
        return f"{step.name}:{_PERSON}"
    id = step.event_id or _EVENT_ID
    # Without an id the key must be empty, and a repeat is known by its content for a day: a name
    # alone would let all events of a person pass for one, for good.
    return f"{{% if {id} %}}{step.name}:{Expression('event', id).shown()}{{% endif %}}"


def _notes(step: Step, place: Place) -> tuple[str, ...]:
    if step.once_per:
        counts = f"Counts once per person in {step.once_per}, whatever the flow does."
    elif step.trigger == "metric":
        counts = "Counts once per event, however often Klaviyo repeats the call."
    else:
        kept = written_duration(place.keys_kept)
        counts = f"Counts once per person in {kept}, [retention] action_keys."
    changed = (
        f"Another amount or text is another step: give it another name than {step.name!r}, or"
        " whoever had the old one is refused (409)."
    )
    if place.address.startswith("https://"):
        return (counts, changed)
    reach = "Klaviyo calls only https addresses with a real certificate: set [server] public_url."
    return (counts, changed, reach)


def _sample(body: Any) -> str:
    """The body with values in place of variables."""
    sample = re.sub(r"\{%.*?%\}", "", json.dumps(body, ensure_ascii=False))
    sample = sample.replace(EMAIL, "you@example.com")
    sample = re.sub(r'(amount": )"\{\{.*?\}\}"', r"\g<1>1", sample)
    return re.sub(r"\{\{.*?\}\}", "example", sample)
