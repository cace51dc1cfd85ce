"""Parses flow calls: the fields of each route, and the identity of each action.

The bodies are those that JeriCommerce and Yotpo document for their own endpoints: to move a
webhook step here, change its URL.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal

from connector.actions.fields import Fields, decode, reject
from connector.config.values import seconds, written_duration
from connector.domain.actions import Action, ActionName, ActionRequest
from connector.ports import Offer

Route = Literal["balance/increase", "balance/decrease", "points/adjust", "push"]

REASON_MAX = 255
MESSAGE_MAX = 500
URL_MAX = 2_000
ID_MAX = 200
ITEMS_MAX = 1_000
FLOW_ID = "x-klaviyo-flow-id"
IDEMPOTENCY_KEY = "idempotency-key"

_WHITESPACE = re.compile(r"\s", re.ASCII)


@dataclass(frozen=True, slots=True)
class UseCase:
    """A row of Yotpo's table of adjustments: its sign, and whether it changes points earned."""

    sign: Literal[1, -1]
    earned: bool


USE_CASES: Mapping[str, UseCase] = {
    "reward": UseCase(+1, True),
    "refund": UseCase(+1, False),
    "redeem": UseCase(-1, False),
    "remove_earned": UseCase(-1, True),
    "expire": UseCase(-1, False),
}


@dataclass(frozen=True, slots=True)
class ActionRules:
    """The limits of a connection: points in one adjustment, ms within which two equal calls
    without a key are one, and ms for which keys are kept."""

    max_amount: int
    dedupe_window: int
    key_retention: int


def routes_for(offers: frozenset[Offer]) -> tuple[Route, ...]:
    """The routes that a platform offers. One that adjusts by a signed amount can increase and
    decrease, and the other way round."""
    signed = "adjust" in offers or {"increase", "decrease"} <= offers
    available: dict[Route, bool] = {
        "balance/increase": signed or "increase" in offers,
        "balance/decrease": signed or "decrease" in offers,
        "points/adjust": signed,
        "push": "push" in offers,
    }
    return tuple(route for route, offered in available.items() if offered)


def parse_actions(
    route: Route, headers: Mapping[str, str], body: bytes, rules: ActionRules
) -> Sequence[ActionRequest]:
    """All actions of a call. Raises Malformed naming the item and the field.

    `headers` are lower case. The identity of an action without a key is its flow, person and
    content.
    """
    data = decode(body)
    many = isinstance(data, list) and route.startswith("balance/")
    items = data if many else [data]
    if not 0 < len(items) <= ITEMS_MAX:
        reject(f"body: found {len(items)} items, allowed 1 to {ITEMS_MAX}")
    key = _header_key(headers)
    flow = headers.get(FLOW_ID, "").strip()
    requests = []
    for number, item in enumerate(items, start=1):
        own_key = f"{key}#{number}" if key and len(items) > 1 else key
        fields = Fields(item, f"item {number}: " if many else "")
        requests.append(_PARSERS[route](fields, rules).to_request(own_key, flow, rules, fields))
    return requests


# ── identity ─────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _ParsedAction:
    """An action as parsed, without its identity."""

    route: Route
    action: Action

    def to_request(self, key: str, flow: str, rules: ActionRules, fields: Fields) -> ActionRequest:
        own_key = fields.text("idempotency_key", ID_MAX, required=False) or key
        once_per = _once_per(fields, rules)
        if own_key:
            return ActionRequest(self.action, self.route, f"key {own_key}", once_per)
        data = repr(self.action).encode()
        content = blake2b(data, digest_size=16).hexdigest()
        window = once_per if once_per is not None else rules.dedupe_window
        return ActionRequest(self.action, self.route, f"flow {flow} {content}", window)


def _once_per(fields: Fields, rules: ActionRules) -> int | None:
    text = fields.text("once_per", 20, required=False)
    if not text:
        return None
    try:
        window = round(seconds(text) * 1000)
    except ValueError:
        fields.reject("once_per", 'found no duration, allowed a duration such as "300d"')
    if not rules.dedupe_window <= window <= rules.key_retention:
        shortest = written_duration(rules.dedupe_window / 1000)
        longest = written_duration(rules.key_retention / 1000)
        fields.reject(
            "once_per",
            f"found {text}, allowed {shortest} ([connections.actions] dedupe_window) to {longest} "
            "([retention] action_keys)",
        )
    return window


def _header_key(headers: Mapping[str, str]) -> str:
    key = headers.get(IDEMPOTENCY_KEY, "").strip()
    if len(key) > ID_MAX or not key.isprintable():
        reject(f"header {IDEMPOTENCY_KEY}: allowed up to {ID_MAX} printable characters")
    return key


# ── routes ───────────────────────────────────────────────────────────────────────────────────────


def _balance_parser(name: ActionName, sign: int) -> Callable[[Fields, ActionRules], _ParsedAction]:
    def parse_one(fields: Fields, rules: ActionRules) -> _ParsedAction:
        """JeriCommerce's body. At Yotpo an increase is a reward, a decrease a redemption."""
        fields.allow_only("email", "amount", "reason")
        action = Action(
            name=name,
            email=fields.email("email"),
            amount=sign * fields.integer("amount", rules.max_amount, signed=False),
            reason=fields.text("reason", REASON_MAX),
            earned=sign > 0,
        )
        return _ParsedAction("balance/increase" if sign > 0 else "balance/decrease", action)

    return parse_one


def _adjust(fields: Fields, rules: ActionRules) -> _ParsedAction:
    """Yotpo's body; `use_case` sets the sign and the points-earned flag."""
    amount, earned_flag = "point_adjustment_amount", "apply_adjustment_to_points_earned"
    fields.allow_only(
        "customer_email",
        "customer_id",
        amount,
        earned_flag,
        "history_title",
        "visible_to_customer",
        "use_case",
    )
    points = fields.integer(amount, rules.max_amount, signed=True)
    earned = fields.flag(earned_flag)
    if fields.has_value("use_case"):
        word = fields.text("use_case", 20)
        case = USE_CASES.get(word)
        if case is None:
            fields.reject("use_case", f"allowed {', '.join(USE_CASES)}")
        if points < 0 and case.sign > 0:
            fields.reject(
                amount, f"found a negative number, allowed a positive one: {word} adds points"
            )
        if earned not in (None, case.earned):
            fields.reject(earned_flag, f"allowed {str(case.earned).lower()} or nothing with {word}")
        points, earned = case.sign * abs(points), case.earned
    visible = fields.flag("visible_to_customer")
    email, customer = _person(fields, "customer_email")
    action = Action(
        name="adjust",
        email=email,
        customer=customer,
        amount=points,
        reason=fields.text("history_title", REASON_MAX),
        earned=earned,
        visible=visible is not False,
    )
    return _ParsedAction("points/adjust", action)


def _push(fields: Fields, rules: ActionRules) -> _ParsedAction:
    fields.allow_only("customer_id", "email", "message", "url")
    email, customer = _person(fields, "email")
    url = fields.text("url", URL_MAX, required=False)
    if url and (not url.startswith(("https://", "http://")) or _WHITESPACE.search(url)):
        fields.reject("url", "allowed a URL without spaces that begins with https:// or http://")
    action = Action(
        name="push",
        email=email,
        customer=customer,
        message=fields.text("message", MESSAGE_MAX),
        url=url,
    )
    return _ParsedAction("push", action)


def _person(fields: Fields, email: str) -> tuple[str | None, str | None]:
    """The person's address, id at the platform or at Klaviyo, or both. A template writes an empty
    string for a value that the profile does not have."""
    email_address = fields.email(email) if fields.text(email, 254, required=False) else None
    customer = fields.text("customer_id", ID_MAX, required=False) or None
    if not email_address and not customer:
        fields.reject(email, f"found no person, allowed {email}, customer_id or both")
    return email_address, customer


_PARSERS: Mapping[Route, Callable[[Fields, ActionRules], _ParsedAction]] = {
    "balance/increase": _balance_parser("increase", +1),
    "balance/decrease": _balance_parser("decrease", -1),
    "points/adjust": _adjust,
    "push": _push,
}
