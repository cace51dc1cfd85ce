"""What must be true of a step before a webhook is made of it. All that is wrong is told at once."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from connector.actions.requests import routes_for
from connector.config.values import seconds, written_duration
from connector.tools.webhook_builder import templates
from connector.tools.webhook_builder.step import FlowTarget, Step
from connector.tools.webhook_builder.templates import InvalidStep

REASON_MAX = 200
MESSAGE_MAX = 500
URL_MAX = 2000

_DATE_FLOW_PERIOD = "300d"
"""A date comes back after a year; one that moves by some weeks still counts once."""

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,58}[a-z0-9])?")
_EVENT_ID = re.compile(r"event(?:\.\w+)+|event\|lookup:'[^'|]+'", re.ASCII)
_WHOLE = re.compile(r"[+-]?\d{1,12}(?:\.0+)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class CheckedStep:
    """A step that is right. `step` has a name, and a period where one is needed; the others are
    its texts for JSON strings, and the amount: a number, or the text of one."""

    step: Step
    amount: int | str
    reason: str
    message: str
    url: str


def check(step: Step, target: FlowTarget) -> CheckedStep:
    """The step, ready to be written. Raises Unfit with all of its faults."""
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
    there = routes_for(target.offers)
    if step.route in there:
        return []
    takes = ", ".join(_action_of(route) for route in there) or "nothing"
    return [f"{target.title} takes no {_action_of(step.route)}; it takes: {takes}"]


def _action_of(route: str) -> str:
    """`balance/increase` → increase."""
    return route.rpartition("/")[2]


def _key_faults(step: Step, target: FlowTarget) -> list[str]:
    """Faults of what the key is made of."""
    faults = []
    if not _NAME.fullmatch(step.name):
        faults.append(f"the step's name {step.name!r} must be a-z, 0-9 and -, 60 letters at most")
    if step.event_id:
        if not _EVENT_ID.fullmatch(step.event_id):
            faults.append(f"the event's id is event.x or event|lookup:'x', not {step.event_id!r}")
        if step.trigger != "metric":
            faults.append(f"a {step.trigger} flow has no event, and so no event's id")
        if step.once_per:
            faults.append("either each event counts (its id) or each period (once-per)")
    if step.once_per:
        try:
            period = seconds(step.once_per)
        except ValueError:
            return [*faults, f"once-per {step.once_per!r} is no duration such as 300d"]
        if not target.repeat_window <= period <= target.key_retention:
            least, most = (
                written_duration(target.repeat_window),
                written_duration(target.key_retention),
            )
            faults.append(
                f"once-per {step.once_per} must be {least} (a call is repeated for a day) to {most}"
                " ([retention] action_keys)"
            )
    return faults


def _field_faults(step: Step) -> list[str]:
    """Faults of what belongs together and what does not."""
    if step.action == "push":
        moves = step.amount or step.reason or step.use_case or step.at_most is not None
        return [
            *(["a push needs a message"] if not step.message.strip() else []),
            *(["a push moves no points: no amount, reason or use case"] if moves else []),
        ]
    faults = []
    if step.message or step.url:
        faults.append("only a push has a message and an address")
    if not step.reason.strip():
        faults.append("points need a reason: it is what the person reads beside them")
    if step.action != "adjust" and step.adds is not (step.action == "increase"):
        word = "adds" if step.adds else "takes"
        faults.append(f"{step.use_case} {word} points, and this is {step.action}")
    return faults


def _text(step: Step, name: str, limit: int) -> str:
    written = getattr(step, name).strip()
    found = templates.text(written)
    _check_roots(step, found)
    if name != "url":
        return found.render(limit)
    # An address that is cut leads nowhere.
    if len(written) > limit:
        raise InvalidStep(f"is too long: {limit} letters at most")
    return found.render_full()


def _amount(step: Step, target: FlowTarget) -> int | str:
    written = step.amount.strip()
    if not written:
        raise InvalidStep("how many points? give an amount")
    return _variable(step, target, written) if "{" in written else _number(step, target, written)


def _number(step: Step, target: FlowTarget, written: str) -> int:
    amount = int(float(written)) if _WHOLE.fullmatch(written) else 0
    if amount == 0:
        raise InvalidStep(f"the amount is a whole number other than 0, not {written!r}")
    if amount < 0 and step.adds is not None:
        raise InvalidStep(
            f"the amount of {step.use_case or step.action} has no sign: the word says it"
        )
    if step.at_most is not None and abs(amount) > step.at_most:
        raise InvalidStep(f"the amount is above at-most, which is {step.at_most}")
    _check_bounds(abs(amount), "the amount", target)
    return amount


def _variable(step: Step, target: FlowTarget, written: str) -> str:
    """Nothing is rendered outside 1 to `at_most`, or where the value is no number; a call without
    an amount is refused."""
    try:
        found = templates.text(written)
        _check_roots(step, found)
    except InvalidStep as error:
        raise InvalidStep(*(_prefixed("amount", fault) for fault in error.faults)) from error
    if len(found.parts) != 1:
        raise InvalidStep("the amount is a number or one {{ variable }}, nothing around it")
    if step.adds is None:
        raise InvalidStep(
            "an amount that is not known yet has no sign to trust: say increase, decrease or a use"
            " case"
        )
    if step.at_most is None:
        raise InvalidStep("an amount that an event or a profile decides needs a bound: at-most")
    _check_bounds(step.at_most, "at-most", target)
    [expression] = found.expressions
    number = f"{expression.text}|add:0"
    bounds = f"{number} > 0 and {number} <= {step.at_most}"
    return f"{{% if {bounds} %}}{expression.render()}{{% endif %}}"


def _check_bounds(points: int, what: str, target: FlowTarget) -> None:
    if not 0 < points <= target.max_amount:
        raise InvalidStep(
            f"{what} must be 1 to {target.max_amount} ([connections.actions] max_amount)"
        )


def _check_roots(step: Step, found: templates.Text) -> None:
    for expression in found.expressions:
        if expression.root == "event" and step.trigger != "metric":
            raise InvalidStep(
                f"speaks of {{{{ {expression.text} }}}}, and a {step.trigger} flow has no event"
            )


def _name_of(step: Step) -> str:
    """A name made of the reason's own words; the action's where there are none."""
    words = re.sub(r"\{\{.*?\}\}", " ", step.reason or step.message).lower()
    name = "-".join(re.findall(r"[a-z0-9]+", words))[:60].strip("-")
    return name or step.action


def _prefixed(name: str, fault: str) -> str:
    return f"the {name}: {fault}" if fault.startswith("{{") else f"the {name} {fault}"
