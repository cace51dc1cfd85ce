"""The JeriCommerce routes that write: balance changes, pushes and segment membership.

Sources: the guides, the API index, and for pushes the preview pages. Guesses: the response to a
balance change (201 with the items), a decrease below zero (400), an unknown address in a balance
change (404, nothing is applied), unknown keys are rejected, the response to a push (201), the
feature `segments` with its payload, and the format of a response that lists its items.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from connector.sandbox.gate import JSON
from connector.sandbox.jericommerce.people import Person, changed
from connector.sandbox.jericommerce.register import Register
from connector.sandbox.jericommerce.webhooks import PendingEvent

_KEPT = 1_000_000
_FEATURE = "segments"


@dataclass(frozen=True, slots=True)
class Adjustment:
    """An applied balance change. `amount`: signed. `person`: the member's id."""

    at: float
    person: str
    email: str
    amount: int
    reason: str


@dataclass(frozen=True, slots=True)
class Push:
    """A push notification that was sent."""

    at: float
    person: str
    message: str
    url: str | None


class Writes:
    """The routes and the changes that they made.

    `ledger`: every adjustment in the order of application. `reasons`: number of adjustments by
    reason. `pushes`: every push. `segments`: segment → ids of its members. `waiting`: events whose
    webhooks were not sent yet. `applied(person)` is called after each change of a member.
    """

    def __init__(
        self,
        register: Register,
        *,
        now: Callable[[], float],
        applied: Callable[[Person], None],
        violations: Counter[str],
        batch: int,
        lists_items: bool,
    ) -> None:
        self.ledger: deque[Adjustment] = deque(maxlen=_KEPT)
        self.reasons: Counter[str] = Counter()
        self.pushes: deque[Push] = deque(maxlen=_KEPT)
        self.segments: defaultdict[str, set[str]] = defaultdict(set)
        self.waiting: deque[PendingEvent] = deque(maxlen=10_000)
        self._register = register
        self._now = now
        self._applied = applied
        self._violations = violations
        self._batch = batch
        self._lists_items = lists_items

    def routes(self, prefix: str) -> list[Route]:
        """`prefix`: the program's path, `/v1/programs/demo`."""
        return [
            Route(f"{prefix}/balance/increase", self._increase, methods=["POST"]),
            Route(f"{prefix}/balance/decrease", self._decrease, methods=["POST"]),
            Route(f"{prefix}/integrations/api", self._integrate, methods=["POST"]),
            Route("/v1/push", self._push, methods=["POST"]),
        ]

    # ── balance ──────────────────────────────────────────────────────────────────────────────────

    async def _increase(self, request: Request) -> Response:
        return self._adjust(await request.body(), 1)

    async def _decrease(self, request: Request) -> Response:
        return self._adjust(await request.body(), -1)

    def _adjust(self, body: bytes, sign: int) -> Response:
        items = _decoded(body)
        faults = _item_faults(items)
        if faults:
            return self._refuse("balance_body", faults)
        found = [(self._register.get(item["email"]), sign * item["amount"], item) for item in items]
        left: Counter[str] = Counter()
        for person, amount, _ in found:
            if person is None:
                return error(404, "Customer not found")
            left[person.id] += amount
            if person.balance + left[person.id] < 0:
                return error(400, "Insufficient balance")
        answer = [
            self._apply(person, amount, item["reason"])
            for person, amount, item in found
            if person is not None
        ]
        return JSON(answer, 201)

    def _apply(self, person: Person, amount: int, reason: str) -> dict[str, object]:
        now = datetime.fromtimestamp(self._now(), UTC)
        properties = changed(person, amount, reason, now)
        self._applied(person)
        self.ledger.append(Adjustment(self._now(), person.id, person.email, amount, reason))
        self.reasons[reason] += 1
        self.waiting.append(PendingEvent("Balance changed", person, properties))
        return {"email": person.email, "balance": person.balance}

    # ── push ─────────────────────────────────────────────────────────────────────────────────────

    async def _push(self, request: Request) -> Response:
        decoded = _decoded(await request.body())
        faults = _push_faults(decoded)
        if faults:
            return self._refuse("push_body", faults)
        if decoded["customer_id"] not in self._register:
            return error(404, "Customer not found")
        self.pushes.append(
            Push(self._now(), decoded["customer_id"], decoded["message"], decoded.get("url"))
        )
        return JSON({"sent": True}, 201)

    # ── segments ─────────────────────────────────────────────────────────────────────────────────

    async def _integrate(self, request: Request) -> Response:
        items = _decoded(await request.body())
        if not isinstance(items, list) or not 0 < len(items) <= self._batch:
            return self._refuse("integrate_body", [f"an array of 1 to {self._batch} is required"])
        results = [self._set_membership(item) for item in items]
        if not any(results):
            return error(404, "No item could be processed")
        if not self._lists_items:
            return JSON({"received": len(items)}, 201)
        return JSON(
            [{"email": i["email"], "success": ok} for i, ok in zip(items, results, strict=True)],
            201,
        )

    def _set_membership(self, item: Any) -> bool:
        """Apply one item; returns whether it succeeded. Items are independent."""
        if not _is_membership(item):
            self._violations["integrate_item"] += 1
            return False
        person = self._register.get(item["email"])
        if person is None:
            return False
        segment = self.segments[item["payload"]["segment"]]
        (segment.add if item["payload"]["member"] else segment.discard)(person.id)
        return True

    def _refuse(self, what: str, faults: Sequence[str]) -> Response:
        self._violations[what] += 1
        return error(400, list(faults))


def error(status: int, message: str | list[str]) -> Response:
    """An error in the default format of NestJS."""
    return JSON(
        {"statusCode": status, "message": message, "error": HTTPStatus(status).phrase}, status
    )


def _decoded(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return None


def _item_faults(items: Any) -> list[str]:
    if not isinstance(items, list) or not items:
        return ["a non-empty array is required"]
    faults = []
    for index, item in enumerate(items):
        if not isinstance(item, dict):
            faults.append(f"{index} must be an object")
            continue
        amount = item.get("amount")
        if not isinstance(amount, int) or isinstance(amount, bool) or amount <= 0:
            faults.append(f"{index}.amount must be a positive integer")
        faults += [
            f"{index}.{name} should not be empty"
            for name in ("email", "reason")
            if not _is_text(item.get(name))
        ]
        faults += _unknown(item, {"email", "amount", "reason"}, f"{index}.")
    return faults


def _push_faults(decoded: Any) -> list[str]:
    if not isinstance(decoded, dict):
        return ["an object is required"]
    faults = [
        f"{name} should not be empty"
        for name in ("customer_id", "message")
        if not _is_text(decoded.get(name))
    ]
    if not str(decoded.get("url", "https://")).startswith(("https://", "http://")):
        faults.append("url must be a URL address")
    return faults + _unknown(decoded, {"customer_id", "message", "url"}, "")


def _is_membership(item: Any) -> bool:
    if not isinstance(item, dict) or item.keys() != {"email", "feature", "payload"}:
        return False
    payload = item["payload"]
    return (
        _is_text(item["email"])
        and item["feature"] == _FEATURE
        and isinstance(payload, dict)
        and payload.keys() == {"segment", "member"}
        and _is_text(payload["segment"])
        and isinstance(payload["member"], bool)
    )


def _unknown(decoded: Mapping[str, Any], known: set[str], place: str) -> list[str]:
    return [f"property {place}{name} should not exist" for name in decoded if name not in known]


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)
