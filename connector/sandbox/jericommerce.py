"""JeriCommerce, emulated: the customer by address, the pass token, balance changes.

Sources: the guides and the public API index. Guesses: every error body (NestJS's usual shape), the
answer to a balance change (201 with the items), a decrease below zero (400), an unknown address in
a balance change (404, nothing of the request applied), the form of `accessToken`, the 429, a
`tierStatus` of null for somebody without a tier.
"""

from __future__ import annotations

import hashlib
import random
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Scope

from connector.sandbox.faults import Faults
from connector.sandbox.gate import JSON, Gate, Operation, control_routes
from connector.sandbox.jericommerce_people import (
    EVENTS,
    Person,
    changed,
    make_people,
    make_person,
)
from connector.sandbox.jericommerce_register import Lagging, Register
from connector.sandbox.jericommerce_telling import Said, Signature, Telling
from connector.sandbox.limits import Header
from connector.sandbox.traffic import Webhook

_RETRY: tuple[Header, ...] = ((b"retry-after", b"1"),)


class JeriCommerceSandbox:
    """One programme with `people` members. `now` gives seconds since 1970.

    `rate_per_second` (default: no limit) requests are answered in a second, the others 429 with
    `Retry-After`. With `lag` a customer is read as it was so many seconds ago. `signature` and
    `older` say how webhooks are signed and which share of them has the older body, without `email`.

    `app` is the ASGI app, `faults` what goes wrong, `waiting` what the API's callers made happen
    and no webhook has told yet (`next_webhook` does), `violations` what callers did wrong.
    `read_log` holds (time, address) of the last million reads of a customer, found or not;
    `token_calls` counts requests for a token by address.
    """

    def __init__(
        self,
        *,
        program: str = "demo",
        api_key: str = "jeri_sandbox",
        webhook_secret: str = "jeri_webhook_secret",
        now: Callable[[], float] = time.time,
        people: int = 200,
        rate_per_second: int | None = None,
        lag: float = 0.0,
        signature: Signature = "hex",
        older: float = 0.02,
    ) -> None:
        self.program = program
        self.webhook_secret = webhook_secret
        self._telling = Telling(program, webhook_secret, signature, older)
        self.faults = Faults()
        self.violations: Counter[str] = Counter()
        self.waiting: deque[Said] = deque(maxlen=10_000)
        self._api_key = api_key.encode()
        self._now = now
        self.read_log: deque[tuple[float, str]] = deque(maxlen=1_000_000)
        self.token_calls: Counter[str] = Counter()
        self._register = Register(make_people(people, now()))
        for person in self._register:
            person.home = self
        self._past = Lagging(self._register, lag) if lag > 0 else None
        self._rate = rate_per_second
        self._window = (-1, 0)
        self._throttled = 0
        self._added = 0
        self._adjusted: Counter[str] = Counter()
        prefix = f"/v1/programs/{program}"
        inner = Starlette(
            routes=[
                Route(f"{prefix}/customers/token", self._token, methods=["GET"]),
                Route(f"{prefix}/customers/{{email}}", self._customer, methods=["GET"]),
                Route(f"{prefix}/balance/increase", self._increase, methods=["POST"]),
                Route(f"{prefix}/balance/decrease", self._decrease, methods=["POST"]),
                *control_routes(self, self.faults),
            ],
            exception_handlers={HTTPException: _no_route},
        )
        inner.router.redirect_slashes = False
        self._prefix = prefix
        self._gate = Gate(inner, self, self.faults)

    @property
    def app(self) -> ASGIApp:
        """The ASGI app."""
        return self._gate

    @property
    def people(self) -> list[Person]:
        """All members."""
        return list(self._register)

    def person(self, email: str) -> Person | None:
        """The member with this address, in any case; of several the latest to take it."""
        return self._register.get(email)

    def add(self, email: str, **fields: Any) -> Person:
        """A new member; `fields` as `Person.change` takes them."""
        self._added += 1
        id = str(uuid.uuid5(uuid.NAMESPACE_DNS, f"{self.program} {self._added}"))
        person = make_person(email, self._now(), id, **fields)
        person.home = self
        self.changed(person)
        return person

    def remove(self, person: Person) -> None:
        """Remove a member; what becomes of it is seen nowhere any more."""
        person.home = None
        self._register.remove(person.id)
        if self._past is not None:
            self._past.note(self._now(), person.id, None)

    def changed(self, person: Person) -> None:
        """A member is different now; `Person.change` says so by itself."""
        self._register.put(person)
        if self._past is not None:
            self._past.note(self._now(), person.id, person)

    def moment(self) -> datetime:
        """Now, in UTC."""
        return datetime.fromtimestamp(self._now(), UTC)

    def happen(self, name: str, person: Person, pick: random.Random) -> dict[str, Any]:
        """Let one of the 18 events happen to a person; the properties that tell it."""
        told = EVENTS[name][1](person, pick, self.moment())
        if person.home is self:
            self.changed(person)
        return told

    def next_webhook(self, pick: random.Random) -> Webhook:
        """The next thing happens to a member, and this tells of it (connector.sandbox.Teller)."""
        if self.waiting:
            said = self.waiting.popleft()
        else:
            name, person = self._telling.next_name(pick), pick.choice(self.people)
            said = Said(name, person, self.happen(name, person, pick))
        return self._telling.webhook(said, self.moment(), pick)

    def adjusted(self, reason: str) -> int:
        """How many balance changes were applied with this reason."""
        return self._adjusted[reason]

    def state(self) -> dict[str, object]:
        """Counters; `requests` by route template, then by status or "reset"."""
        return {
            "requests": {label: dict(counts) for label, counts in self._gate.requests.items()},
            "people": len(self._register),
            "adjustments": self._adjusted.total(),
            "waiting": len(self.waiting),
            "token_calls": self.token_calls.total(),
            "throttled": self._throttled,
            "violations": dict(self.violations),
        }

    # ── what the gate asks ───────────────────────────────────────────────────────────────────────

    def operation(self, method: str, path: str) -> Operation:
        """Which operation a request is: customers, customers/token, balance/increase|decrease."""
        rest = path.removeprefix(f"{self._prefix}/")
        if rest in ("customers/token", "balance/increase", "balance/decrease"):
            return Operation(f"{method} /v1/programs/{{program}}/{rest}", rest)
        if rest.startswith("customers/"):
            label = f"{method} /v1/programs/{{program}}/customers/{{email}}"
            return Operation(label, "customers")
        return Operation("other", "other")

    def admit(self, scope: Scope, operation: Operation) -> tuple[Response | None, Sequence[Header]]:
        """The `api-key` header, then the limit."""
        if dict(scope["headers"]).get(b"api-key") != self._api_key:
            self.violations["api_key"] += 1
            return self.refusal(401, ()), ()
        if self._rate is not None:
            second = int(self._now())
            used = self._window[1] if self._window[0] == second else 0
            if used >= self._rate:
                self._throttled += 1
                return _error(429, "ThrottlerException: Too Many Requests"), _RETRY
            self._window = (second, used + 1)
        return None, ()

    def refusal(self, status: int, pointers: Sequence[str]) -> Response:
        """An error in the shape that NestJS gives by default."""
        return _error(status, HTTPStatus(status).phrase)

    def locate(self, body: bytes, match: str) -> Sequence[str]:
        """This platform points at nothing."""
        return ()

    # ── routes ───────────────────────────────────────────────────────────────────────────────────

    async def _customer(self, request: Request) -> Response:
        email, now = str(request.path_params["email"]), self._now()
        self.read_log.append((now, email.lower()))
        person = self._past.get(email, now) if self._past is not None else self.person(email)
        if person is None:
            return _error(404, "Customer not found")
        return JSON(person.view(self.program))

    async def _token(self, request: Request) -> Response:
        query = request.query_params
        self.token_calls[query.get("email", "").lower()] += 1
        person = self.person(query.get("email", ""))
        kind = query.get("token_type")
        if kind not in ("auth", "download"):
            return _error(400, "token_type must be one of: auth, download")
        if person is None:
            return _error(404, "Customer not found")
        # A new token each time, as a one-time link would have.
        seed = f"{person.id} {kind} {self._now()}".encode()
        return JSON({"accessToken": f"jwt.{hashlib.sha256(seed).hexdigest()[:32]}.sandbox"})

    async def _increase(self, request: Request) -> Response:
        return self._adjust(await request.body(), 1)

    async def _decrease(self, request: Request) -> Response:
        return self._adjust(await request.body(), -1)

    def _adjust(self, body: bytes, sign: int) -> Response:
        try:
            items = orjson.loads(body)
        except orjson.JSONDecodeError:
            items = None
        faults = _item_faults(items)
        if faults:
            self.violations["balance_body"] += 1
            return _error(400, faults)
        found = [(self.person(item["email"]), sign * item["amount"], item) for item in items]
        if any(person is None for person, _, _ in found):
            return _error(404, "Customer not found")
        left: Counter[str] = Counter()
        for person, amount, _ in found:
            if person is not None:
                left[person.email] += amount
                if person.balance + left[person.email] < 0:
                    return _error(400, "Insufficient balance")
        answer = []
        for person, amount, item in found:
            if person is not None:
                properties = changed(person, amount, item["reason"], self.moment())
                self.changed(person)
                self._adjusted[item["reason"]] += 1
                self.waiting.append(Said("Balance changed", person, properties))
                answer.append({"email": person.email, "balance": person.balance})
        return JSON(answer, 201)


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
            if not isinstance(item.get(name), str) or not item[name]
        ]
    return faults


def _error(status: int, message: str | list[str]) -> Response:
    body = {"statusCode": status, "message": message, "error": HTTPStatus(status).phrase}
    return JSON(body, status)


async def _no_route(_: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    return _error(status, "Cannot find this route")
