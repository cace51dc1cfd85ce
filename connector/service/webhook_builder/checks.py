"""Checks a step before a webhook is built from it. Reports all faults at once."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from connector.actions.requests import routes_for
from connector.config.values import seconds, written_duration
from connector.service.webhook_builder import templates
from connector.service.webhook_builder.step import FlowTarget, Step
from connector.service.webhook_builder.templates import InvalidStep

REASON_MAX = 200
MESSAGE_MAX = 500
URL_MAX = 2000

_DATE_FLOW_PERIOD = "300d"
"""Less than a year, so that a date which is moved by some weeks still counts once a year."""

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,58}[a-z0-9])?")
_EVENT_ID = re.compile(r"event(?:\.\w+)+|event\|lookup:'[^'|]+'", re.ASCII)
_WHOLE = re.compile(r"[+-]?\d{1,12}(?:\.0+)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class CheckedStep:
    """A valid step. `step` has a name, and `once_per` where it is required. The texts are escaped
    for JSON strings; `amount` is a number or the template of one."""

    step: Step
    amount: int | str
    reason: str
    message: str
    url: str


def check(step: Step, target: FlowTarget) -> CheckedStep:
    """Check a step. Raises InvalidStep with all faults."""
    if step.trigger == "date" and not step.once_per:
        step = replace(step, once_per=_DATE_FLOW_PERIOD)
    step = replace(step, name=step.name or _name_of(step))
    faults = [*_route_faults(step, target), *_key_faults(step, target), *_field_faults(step)]
    texts: dict[str, str] = {}
    for name, limit in (("reason", REASON_MAX), ("message", MESSAGE_MAX), ("url", URL_MAX)):
        try:
            texts[name] = _text(step, name, limit)
        except InvalidStep as error:
            faults += [_prefixed(name, fault) for fault in error.faults]
    amount: int | str = 0
    if step.action != "push":
        try:
            amount = _amount(step, target)
        except InvalidStep as error:
            faults += error.faults
    if faults:
        raise InvalidStep(*faults)
    return CheckedStep(step, amount, **texts)


def _route_faults(step: Step, target: FlowTarget) -> list[str]:
    offered = routes_for(target.offers)
    if step.route in offered and target.actions_lack:
        return [
            f"{target.title} needs {target.actions_lack} in the connection's settings for points "
            "and pushes: calls would be refused"
        ]
    if step.route in offered:
        return []
    names = ", ".join(_action_of(route) for route in offered) or "nothing"
    return [f"{target.title} does not offer {_action_of(step.route)}; it offers: {names}"]


def _action_of(route: str) -> str:
    """`balance/increase` → increase."""
    return route.rpartition("/")[2]


def _key_faults(step: Step, target: FlowTarget) -> list[str]:
    """Faults of the parts of the key."""
    faults = []
    if not _NAME.fullmatch(step.name):
        faults.append(
            f"the step's name {step.name!r} must be a-z, 0-9 and -, at most 60 characters"
        )
    if step.event_id:
        if not _EVENT_ID.fullmatch(step.event_id):
            faults.append(f"event-id must be event.x or event|lookup:'x', not {step.event_id!r}")
        if step.trigger != "metric":
            faults.append(f"a {step.trigger} flow has no event, so it has no event-id")
        if step.once_per:
            faults.append("use either event-id (counts per event) or once-per (counts per period)")
    if step.once_per:
        try:
            period = seconds(step.once_per)
        except ValueError:
            return [*faults, f"once-per {step.once_per!r} is not a duration such as 300d"]
        if not target.repeat_window <= period <= target.key_retention:
            minimum = written_duration(target.repeat_window)
            maximum = written_duration(target.key_retention)
            faults.append(
                f"once-per {step.once_per} must be from {minimum} (Klaviyo repeats a call for a"
                f" day) to {maximum} ([retention] action_keys)"
            )
    return faults


def _field_faults(step: Step) -> list[str]:
    """Faults between the fields of a step."""
    if step.action == "push":
        has_points = step.amount or step.reason or step.use_case or step.at_most is not None
        return [
            *(["a push needs a message"] if not step.message.strip() else []),
            *(["a push has no points: remove amount, reason and use case"] if has_points else []),
        ]
    faults = []
    if step.message or step.url:
        faults.append("only a push has a message and a url")
    if not step.reason.strip():
        faults.append("points need a reason: it is shown to the person")
    if step.action != "adjust" and step.adds is not (step.action == "increase"):
        direction = "adds" if step.adds else "removes"
        faults.append(f"{step.use_case} {direction} points, which contradicts {step.action}")
    return faults


def _text(step: Step, name: str, limit: int) -> str:
    written = getattr(step, name).strip()
    found = templates.text(written)
    _check_roots(step, found)
    if name != "url":
        return found.render(limit)
    # A truncated URL would be broken.
    if len(written) > limit:
        raise InvalidStep(f"is too long: at most {limit} characters")
    return found.render_full()


def _amount(step: Step, target: FlowTarget) -> int | str:
    written = step.amount.strip()
    if not written:
        raise InvalidStep("the amount is missing: give the number of points")
    return _variable(step, target, written) if "{" in written else _number(step, target, written)


def _number(step: Step, target: FlowTarget, written: str) -> int:
    amount = int(float(written)) if _WHOLE.fullmatch(written) else 0
    if amount == 0:
        raise InvalidStep(f"the amount must be a whole number other than 0, not {written!r}")
    if amount < 0 and step.adds is not None:
        raise InvalidStep(
            f"the amount of {step.use_case or step.action} must not be negative: the direction is"
            " implied"
        )
    if step.at_most is not None and abs(amount) > step.at_most:
        raise InvalidStep(f"the amount is above at-most, which is {step.at_most}")
    _check_bounds(abs(amount), "the amount", target)
    return amount


def _variable(step: Step, target: FlowTarget, written: str) -> str:
    """A template that renders nothing outside 1 to `at_most` and for a value that is not a number.
    A call without an amount is rejected."""
    try:
        found = templates.text(written)
        _check_roots(step, found)
    except InvalidStep as error:
        raise InvalidStep(*(_prefixed("amount", fault) for fault in error.faults)) from error
    if len(found.parts) != 1:
        raise InvalidStep(
            "the amount must be a number or a single {{ variable }} without other text"
        )
    if step.adds is None:
        raise InvalidStep(
            "the sign of a variable amount is unknown: use the action increase or decrease, or a"
            " use case"
        )
    if step.at_most is None:
        raise InvalidStep("a variable amount needs an upper bound: at-most")
    _check_bounds(step.at_most, "at-most", target)
    [expression] = found.expressions
    number = f"{expression.text}|add:0"
    bounds = f"{number} > 0 and {number} <= {step.at_most}"
    return f"{{% if {bounds} %}}{expression.render()}{{% endif %}}"


def _check_bounds(points: int, what: str, target: FlowTarget) -> None:
    if not 0 < points <= target.max_amount:
        raise InvalidStep(
            f"{what} must be from 1 to {target.max_amount} ([connections.actions] max_amount)"
        )


def _check_roots(step: Step, found: templates.Text) -> None:
    for expression in found.expressions:
        if expression.root == "event" and step.trigger != "metric":
            raise InvalidStep(
                f"uses {{{{ {expression.text} }}}}, but a {step.trigger} flow has no event"
            )


def _name_of(step: Step) -> str:
    """A name from the words of the reason or message, else the action."""
    words = re.sub(r"\{\{.*?\}\}", " ", step.reason or step.message).lower()
    name = "-".join(re.findall(r"[a-z0-9]+", words))[:60].strip("-")
    return name or step.action


def _prefixed(name: str, fault: str) -> str:
    return f"the {name}: {fault}" if fault.startswith("{{") else f"the {name} {fault}"
