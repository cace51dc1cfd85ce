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
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from connector.config.values import seconds, written_duration
from connector.flows import templates
from connector.flows.templates import Unfit
from connector.model import ActionName
from connector.ports import DirectCall, Offer

Trigger = Literal["metric", "list", "date", "segment"]
UseCase = Literal["reward", "refund", "redeem", "remove_earned", "expire"]

ADDS: Mapping[UseCase, bool] = {
    "reward": True,
    "refund": True,
    "redeem": False,
    "remove_earned": False,
    "expire": False,
}
"""Use case → whether it adds points."""

REASON_MAX = 200
MESSAGE_MAX = 500
URL_MAX = 2000

EVENT_ID = "event|lookup:'$event_id'"
EMAIL = templates.Expression("person", "person.email").shown()
PERSON = templates.Expression("person", "person.KlaviyoID").shown()

_A_BIRTHDAY = "300d"
"""A date comes back after a year; a flow that is late or early by weeks still counts as one."""

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,58}[a-z0-9])?")
_EVENT_ID = re.compile(r"event(?:\.\w+)+|event\|lookup:'[^'|]+'")


@dataclass(frozen=True, slots=True)
class Step:
    """A webhook step of a flow, as a person describes it.

    `amount`, `reason`, `message` and `url` may hold `{{ variables }}`; an amount that does needs
    `at_most`. `trigger` is what starts the flow, `name` what the step is called in its key (made
    of the reason where it is empty), `once_per` a duration such as "300d". `event_id` is where
    the starting event has its id.
    """

    action: ActionName = "increase"
    amount: str = ""
    at_most: int | None = None
    reason: str = ""
    message: str = ""
    url: str = ""
    use_case: UseCase | None = None
    trigger: Trigger = "metric"
    once_per: str = ""
    name: str = ""
    event_id: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """The connection that the flow calls: its `address` ends in its name. `offers` is what its
    platform can be asked for, `secret` what proves the flow, `max_amount` the most points of one
    adjustment. `repeats` is for how many seconds a call may be repeated, `keys_kept` for how many a
    key is remembered. `direct` makes the call to the platform itself, where it documents one."""

    address: str
    title: str
    offers: frozenset[Offer]
    secret: str
    max_amount: int
    repeats: float
    keys_kept: float
    direct: Callable[[Any], DirectCall] | None = None


@dataclass(frozen=True, slots=True)
class Webhook:
    """What is pasted into Klaviyo. `body` is a template; rendered, it is JSON. `curl` makes the
    same call with made-up values. `notes` is what the person should know."""

    url: str
    headers: Mapping[str, str]
    body: str
    curl: str
    notes: tuple[str, ...]


def build(step: Step, place: Place) -> Webhook:
    """The webhook that calls the connector. Raises Unfit with every fault of the step."""
    made = Checked(step, place)
    if made.faults:
        raise Unfit(*made.faults)
    route, body = made.call()
    return webhook(f"{place.address}/{route}", {"api-key": place.secret}, body, made.notes())


class Checked:
    """A step after its checks: `faults` says what is wrong, the rest makes sense without any."""

    def __init__(self, step: Step, place: Place) -> None:
        self.faults: list[str] = []
        self._place = place
        # A step has a name and a date flow its period, also when nobody gave them.
        if step.trigger == "date" and not step.once_per:
            step = replace(step, once_per=_A_BIRTHDAY)
        self.step = replace(step, name=step.name or _name_of(step))
        self._offered()
        self._once()
        self.reason = self._text("reason", REASON_MAX)
        self.message = self._text("message", MESSAGE_MAX)
        self.url = self._text("url", URL_MAX)
        if step.action == "push":
            self._push()
        else:
            self._points()

    @property
    def adds(self) -> bool | None:
        """Whether points are added, None where the amount's own sign says it."""
        if self.step.use_case:
            return ADDS[self.step.use_case]
        return {"increase": True, "decrease": False}.get(self.step.action)

    def call(self) -> tuple[str, Any]:
        """The route below the connection's address, and the body."""
        step = self.step
        once = {"once_per": step.once_per} if step.once_per else {}
        known_by = {"idempotency_key": self._key(), **once}
        if step.action == "push":
            url = {"url": self.url} if self.url else {}
            return "push", {"email": EMAIL, "message": self.message, **url, **known_by}
        if step.use_case or step.action == "adjust":
            use_case = {"use_case": step.use_case} if step.use_case else {}
            return "points/adjust", {
                "customer_email": EMAIL,
                "point_adjustment_amount": self.amount,
                **use_case,
                "history_title": self.reason,
                **known_by,
            }
        item = {"email": EMAIL, "amount": self.amount, "reason": self.reason, **known_by}
        return f"balance/{step.action}", [item]

    def notes(self) -> tuple[str, ...]:
        """What the person should know of this step."""
        return (*self._when(), *self._where())

    def _when(self) -> tuple[str, ...]:
        step = self.step
        if step.once_per:
            counts = f"Counts once per person in {step.once_per}, whatever the flow does."
        elif step.trigger == "metric":
            counts = "Counts once per event, however often Klaviyo repeats the call."
        else:
            kept = written_duration(self._place.keys_kept)
            counts = f"Counts once per person in {kept}, [retention] action_keys."
        changed = (
            f"Another amount or text is another step: give it another name than {step.name!r},"
            " or whoever had the old one is refused (409)."
        )
        return (counts, changed)

    def _where(self) -> tuple[str, ...]:
        if self._place.address.startswith("https://"):
            return ()
        return (
            "Klaviyo calls only https addresses with a real certificate: set [server] public_url.",
        )

    def _key(self) -> str:
        step = self.step
        if step.trigger != "metric" or step.once_per:
            return f"{step.name}:{PERSON}"
        id = step.event_id or EVENT_ID
        shown = templates.Expression("event", id).shown()
        # Without an id the key must be empty, and a repeat is known by its content for a day: a
        # name alone would let all events of a person pass for one, for good.
        return f"{{% if {id} %}}{step.name}:{shown}{{% endif %}}"

    # ── checks ───────────────────────────────────────────────────────────────────────────────────

    def _offered(self) -> None:
        step, place = self.step, self._place
        wanted = "adjust" if step.use_case and step.action != "push" else step.action
        if wanted not in place.offers:
            there = [name for name in get_args(ActionName) if name in place.offers]
            self.faults.append(
                f"{place.title} takes no {wanted}; it takes: {', '.join(there) or 'nothing'}"
            )
        if not _NAME.fullmatch(step.name):
            self.faults.append(
                f"the step's name {step.name!r} must be a-z, 0-9 and -, 60 letters at most"
            )

    def _once(self) -> None:
        step = self.step
        if step.event_id and not _EVENT_ID.fullmatch(step.event_id):
            self.faults.append(
                f"the event's id is event.x or event|lookup:'x', not {step.event_id!r}"
            )
        if step.event_id and step.trigger != "metric":
            self.faults.append(f"a {step.trigger} flow has no event, and so no event's id")
        if step.event_id and step.once_per:
            self.faults.append("either each event counts (its id) or each period (once-per)")
        if not step.once_per:
            return
        try:
            period = seconds(step.once_per)
        except ValueError:
            self.faults.append(f"once-per {step.once_per!r} is no duration such as 300d")
            return
        least, most = self._place.repeats, self._place.keys_kept
        if not least <= period <= most:
            self.faults.append(
                f"once-per {step.once_per} must be {written_duration(least)} (a call is repeated"
                f" for a day) to {written_duration(most)} ([retention] action_keys)"
            )

    def _text(self, name: Literal["reason", "message", "url"], limit: int) -> str:
        written = getattr(self.step, name).strip()
        try:
            found = templates.text(written)
            self._in_reach(name, found)
            if name != "url":
                return found.shown(limit)
            if len(written) > limit:
                raise Unfit(f"is too long: {limit} letters at most")
            return found.whole()
        except Unfit as error:
            self.faults += [f"the {name} {_after(fault)}" for fault in error.faults]
            return ""

    def _in_reach(self, name: str, found: templates.Text) -> None:
        for expression in found.expressions:
            if expression.root == "event" and self.step.trigger != "metric":
                self.faults.append(
                    f"the {name} speaks of {{{{ {expression.text} }}}}, and a {self.step.trigger}"
                    " flow has no event"
                )

    def _push(self) -> None:
        step = self.step
        if not step.message.strip():
            self.faults.append("a push needs a message")
        if step.amount or step.reason or step.use_case or step.at_most is not None:
            self.faults.append("a push moves no points: no amount, reason or use case")
        self.amount: int | str = 0

    def _points(self) -> None:
        step = self.step
        if step.message or step.url:
            self.faults.append("only a push has a message and an address")
        if not step.reason.strip():
            self.faults.append("points need a reason: it is what the person reads beside them")
        if step.use_case and step.action != "adjust":
            adds = ADDS[step.use_case]
            if adds is not (step.action == "increase"):
                word = "adds" if adds else "takes"
                self.faults.append(f"{step.use_case} {word} points, and this is {step.action}")
        written = step.amount.strip()
        self.amount = 0
        if not written:
            self.faults.append("how many points? give an amount")
        elif "{" in written:
            self.amount = self._amount_of_template(written)
        else:
            self.amount = self._amount_of_number(written)

    def _amount_of_number(self, written: str) -> int:
        if self.step.at_most is not None:
            self.faults.append("at-most is for an amount with {{ variables }}; this is a number")
        if not re.fullmatch(r"[+-]?\d{1,12}(\.0+)?", written, re.ASCII) or not float(written):
            self.faults.append(f"the amount is a whole number other than 0, not {written!r}")
            return 0
        amount = int(float(written))
        if amount < 0 and self.adds is not None:
            word = self.step.use_case or self.step.action
            self.faults.append(f"the amount of {word} has no sign: the word says it")
        self._bounded(abs(amount), "the amount")
        return amount

    def _amount_of_template(self, written: str) -> str:
        """Nothing is rendered above the bound, or where the value is no number, and a call
        without an amount is refused."""
        step = self.step
        try:
            found = templates.text(written)
        except Unfit as error:
            self.faults += [f"the amount {_after(fault)}" for fault in error.faults]
            return ""
        self._in_reach("amount", found)
        if len(found.parts) != 1:
            self.faults.append("the amount is a number or one {{ variable }}, nothing around it")
        if step.at_most is None:
            self.faults.append(
                "an amount that an event or a profile decides needs a bound: at-most"
            )
        else:
            self._bounded(step.at_most, "at-most")
        if self.adds is None:
            self.faults.append(
                "an amount that is not known yet has no sign to trust: say increase, decrease or"
                " a use case"
            )
        expression = next(found.expressions, None)
        if expression is None or step.at_most is None:
            return ""
        bound = f"{expression.text}|add:0 <= {step.at_most}"
        return f"{{% if {bound} %}}{expression.shown()}{{% endif %}}"

    def _bounded(self, points: int, what: str) -> None:
        if not 0 < points <= self._place.max_amount:
            self.faults.append(
                f"{what} must be 1 to {self._place.max_amount} ([connections.actions] max_amount)"
            )


def webhook(url: str, headers: Mapping[str, str], body: Any, notes: tuple[str, ...]) -> Webhook:
    """A webhook of its parts. The body is spread over lines, so that no two braces of it meet."""
    headers = {"Content-Type": "application/json", **headers}
    return Webhook(
        url,
        headers,
        json.dumps(body, indent=2, ensure_ascii=False),
        _curl(url, headers, body),
        notes,
    )


def _curl(url: str, headers: Mapping[str, str], body: Any) -> str:
    """The same call with values in place of variables. It is a real call."""
    content = json.dumps(body, ensure_ascii=False)
    content = re.sub(r"\{%.*?%\}", "", content)
    content = content.replace(EMAIL, "you@example.com")
    content = re.sub(r'(amount": )"\{\{.*?\}\}"', r"\g<1>1", content)
    content = re.sub(r"\{\{.*?\}\}", "example", content)
    given = " ".join(f"-H {shlex.quote(f'{name}: {value}')}" for name, value in headers.items())
    return f"curl -i {shlex.quote(url)} {given} -d {shlex.quote(content)}"


def _name_of(step: Step) -> str:
    """A name made of the reason's own words; the action's where there are none."""
    words = re.sub(r"\{\{.*?\}\}", " ", step.reason or step.message).lower()
    name = "-".join(re.findall(r"[a-z0-9]+", words))[:60].strip("-")
    return name or step.action


def _after(fault: str) -> str:
    return f": {fault}" if fault.startswith("{{") else fault
