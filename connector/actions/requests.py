"""Parses flow calls, strictly.

Klaviyo fills the body from a template, so a profile value that contains a quote can break the JSON
or add keys. Anything unexpected is rejected with the item and the field that are wrong.

The bodies are those that JeriCommerce and Yotpo document for their own endpoints: to move a
webhook step here, change its URL.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Literal, NoReturn

from connector.config.values import seconds
from connector.domain.actions import Action, ActionName, ActionRequest
from connector.domain.errors import Malformed, Problem
from connector.mapping.address import valid_email
from connector.ports import Offer

Route = Literal["balance/increase", "balance/decrease", "points/adjust", "push"]

REASON_MAX = 255
MESSAGE_MAX = 500
URL_MAX = 2_000
ID_MAX = 200
ITEMS_MAX = 1_000
FLOW_ID = "x-klaviyo-flow-id"
IDEMPOTENCY_KEY = "idempotency-key"

_INTEGER = re.compile(r"([+-]?)(\d{1,12})(?:\.0{1,6})?", re.ASCII)
_COMMON_FIELDS = ("idempotency_key", "once_per")
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
    data = _decode(body)
    many = isinstance(data, list) and route.startswith("balance/")
    items = data if many else [data]
    if not 0 < len(items) <= ITEMS_MAX:
        _reject(f"body: found {len(items)} items, allowed 1 to {ITEMS_MAX}")
    key = _header_key(headers)
    flow = headers.get(FLOW_ID, "").strip()
    requests = []
    for number, item in enumerate(items, start=1):
        own_key = f"{key}#{number}" if key and len(items) > 1 else key
        fields = _Fields(item, f"item {number}: " if many else "")
        requests.append(_PARSERS[route](fields, rules).to_request(own_key, flow, rules, fields))
    return requests


# ── JSON ─────────────────────────────────────────────────────────────────────────────────────────


def _decode(body: bytes) -> Any:
    def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            # A value with a quote can add a key that would override the template's own.
            _reject(
                "body: found a key twice in one object, allowed once (does a value contain a "
                "quote?)"
            )
        return found

    def reject_constant(word: str) -> NoReturn:
        _reject(f"body: found {word}, allowed a finite number")

    try:
        return json.loads(
            body.decode(), object_pairs_hook=unique_keys, parse_constant=reject_constant
        )
    except UnicodeDecodeError:
        _reject("body: found bytes that are not UTF-8, allowed UTF-8")
    except RecursionError:
        _reject("body: nested too deeply, allowed an object or an array of objects")
    except json.JSONDecodeError as error:
        _reject(
            f"body: not JSON ({error}), allowed JSON (does a value contain a quote or a line "
            "break?)"
        )
    except ValueError:
        _reject("body: found a number with too many digits, allowed up to 12")


class _Fields:
    """The fields of one item. `location` precedes the field's name in every rejection."""

    def __init__(self, item: Any, location: str) -> None:
        self.location = location
        if not isinstance(item, dict):
            _reject(f"{location}found {_type_name(item)}, allowed an object")
        self._item: dict[str, Any] = item

    def allow_only(self, *allowed: str) -> None:
        """Reject every field that is neither one of these nor common to all routes."""
        for name in self._item:
            if name not in allowed and name not in _COMMON_FIELDS:
                known = ", ".join((*allowed, *_COMMON_FIELDS))
                shown = name if name.isascii() and name.isidentifier() else "a key"
                self.reject(shown[:40], f"unknown field, allowed {known}")

    def has_value(self, name: str) -> bool:
        return self._item.get(name) is not None

    def text(self, name: str, maximum: int, *, required: bool = True) -> str:
        value = self._item.get(name)
        if value is None and not required:
            return ""
        if not isinstance(value, str):
            self.reject(name, f"found {_type_name(value)}, allowed a string")
        value = value.strip()
        if not value and not required:
            return ""
        if not 0 < len(value) <= maximum:
            self.reject(name, f"found {len(value)} characters, allowed 1 to {maximum}")
        if "\0" in value or not _is_encodable(value):
            self.reject(name, "found U+0000 or half a surrogate pair, allowed valid Unicode")
        return value

    def email(self, name: str) -> str:
        value = self.text(name, 254).lower()
        if not valid_email(value):
            self.reject(name, "found no valid e-mail address, allowed name@example.com")
        return value

    def flag(self, name: str) -> bool | None:
        """True or false, also as a string (templates write "True"); None without the field."""
        value = self._item.get(name)
        if isinstance(value, str) and value.strip().lower() in ("true", "false"):
            return value.strip().lower() == "true"
        if value is not None and not isinstance(value, bool):
            self.reject(name, f"found {_type_name(value)}, allowed true or false")
        return value

    def integer(self, name: str, maximum: int, *, signed: bool) -> int:
        """A whole number other than 0. 100, 100.0 and "100" are the same."""
        value = self._item.get(name)
        text = str(value).strip() if not isinstance(value, bool) else ""
        match = _INTEGER.fullmatch(text) if isinstance(value, str | int | float) else None
        number = int(match[1] + match[2]) if match else 0
        kind = "a whole number" if signed else "a positive whole number"
        if not match or number == 0 or (number < 0 and not signed):
            self.reject(name, f"found {_type_name(value)}, allowed {kind}")
        if abs(number) > maximum:
            self.reject(
                name, f"above the limit, allowed up to {maximum} ([connections.actions] max_amount)"
            )
        return number

    def reject(self, name: str, what: str) -> NoReturn:
        _reject(f"{self.location}{name}: {what}")


def _type_name(value: Any) -> str:
    """The JSON type of a value, not the value: it may be personal data."""
    kinds = {dict: "an object", list: "an array", str: "a string", bool: "true or false"}
    if value is None:
        return "nothing"
    return kinds.get(type(value), "a number")


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _reject(detail: str) -> NoReturn:
    raise Malformed(Problem.FLOW_MALFORMED, detail)


# ── identity ─────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _ParsedAction:
    """An action as parsed, without its identity."""

    route: Route
    action: Action

    def to_request(self, key: str, flow: str, rules: ActionRules, fields: _Fields) -> ActionRequest:
        own_key = fields.text("idempotency_key", ID_MAX, required=False) or key
        once_per = _once_per(fields, rules)
        if own_key:
            return ActionRequest(self.action, self.route, f"key {own_key}", once_per)
        data = repr(self.action).encode()
        content = blake2b(data, digest_size=16).hexdigest()
        window = once_per if once_per is not None else rules.dedupe_window
        return ActionRequest(self.action, self.route, f"flow {flow} {content}", window)


def _once_per(fields: _Fields, rules: ActionRules) -> int | None:
    text = fields.text("once_per", 20, required=False)
    if not text:
        return None
    try:
        window = round(seconds(text) * 1000)
    except ValueError:
        fields.reject("once_per", 'found no duration, allowed a duration such as "300d"')
    if not rules.dedupe_window <= window <= rules.key_retention:
        shortest, maximum = rules.dedupe_window // 3_600_000, rules.key_retention // 86_400_000
        fields.reject(
            "once_per",
            f"allowed {shortest}h (Klaviyo repeats a call for a day) to {maximum}d (key retention)",
        )
    return window


def _header_key(headers: Mapping[str, str]) -> str:
    key = headers.get(IDEMPOTENCY_KEY, "").strip()
    if len(key) > ID_MAX or not key.isprintable():
        _reject(f"header {IDEMPOTENCY_KEY}: allowed up to {ID_MAX} printable characters")
    return key


# ── routes ───────────────────────────────────────────────────────────────────────────────────────


def _balance_parser(name: ActionName, sign: int) -> Callable[[_Fields, ActionRules], _ParsedAction]:
    def parse_one(fields: _Fields, rules: ActionRules) -> _ParsedAction:
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


def _adjust(fields: _Fields, rules: ActionRules) -> _ParsedAction:
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


def _push(fields: _Fields, rules: ActionRules) -> _ParsedAction:
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


def _person(fields: _Fields, email: str) -> tuple[str | None, str | None]:
    """The person's address, id at the platform or at Klaviyo, or both. A template writes an empty
    string for a value that the profile does not have."""
    email_address = fields.email(email) if fields.text(email, 254, required=False) else None
    customer = fields.text("customer_id", ID_MAX, required=False) or None
    if not email_address and not customer:
        fields.reject(email, f"found no person, allowed {email}, customer_id or both")
    return email_address, customer


_PARSERS: Mapping[Route, Callable[[_Fields, ActionRules], _ParsedAction]] = {
    "balance/increase": _balance_parser("increase", +1),
    "balance/decrease": _balance_parser("decrease", -1),
    "points/adjust": _adjust,
    "push": _push,
}
