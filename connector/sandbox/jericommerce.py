"""JeriCommerce, emulated: the customer by address, the pass token, balance changes.

Sources: the guides and the public API index. Guesses: every error body (NestJS's usual shape), the
answer to a balance change (201 with the items), a decrease below zero (400), an unknown address in
a balance change (404, nothing of the request applied), the form of `accessToken`.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
from connector.sandbox.jericommerce_people import EVENTS, Person, changed, make_people
from connector.sandbox.limits import Header


@dataclass(frozen=True, slots=True)
class Said:
    """Something that happened at the platform and waits to be told by webhook."""

    name: str
    person: Person
    properties: dict[str, Any]


class JeriCommerceSandbox:
    """One programme with `people` members. `now` gives seconds since 1970.

    `app` is the ASGI app, `faults` what goes wrong, `waiting` what the API's callers made happen
    and no webhook has told yet (`Traffic` tells it), `violations` what callers did wrong.
    """

    def __init__(
        self,
        *,
        program: str = "demo",
        api_key: str = "jeri_sandbox",
        webhook_secret: str = "jeri_webhook_secret",
        now: Callable[[], float] = time.time,
        people: int = 200,
    ) -> None:
        self.program = program
        self.webhook_secret = webhook_secret
        self.faults = Faults()
        self.violations: Counter[str] = Counter()
        self.waiting: deque[Said] = deque(maxlen=10_000)
        self._api_key = api_key.encode()
        self._now = now
        self._people = {person.email: person for person in make_people(people, now())}
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
        return list(self._people.values())

    def person(self, email: str) -> Person | None:
        """The member with this address, in any case."""
        return self._people.get(email.lower())

    def moment(self) -> datetime:
        """Now, in UTC."""
        return datetime.fromtimestamp(self._now(), UTC)

    def happen(self, name: str, person: Person, pick: random.Random) -> dict[str, Any]:
        """Let one of the 18 events happen to a person; the properties that tell it."""
        return EVENTS[name][1](person, pick, self.moment())

    def adjusted(self, reason: str) -> int:
        """How many balance changes were applied with this reason."""
        return self._adjusted[reason]

    def state(self) -> dict[str, object]:
        """Counters; `requests` by route template, then by status or "reset"."""
        return {
            "requests": {label: dict(counts) for label, counts in self._gate.requests.items()},
            "people": len(self._people),
            "adjustments": self._adjusted.total(),
            "waiting": len(self.waiting),
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
        """The `api-key` header."""
        if dict(scope["headers"]).get(b"api-key") == self._api_key:
            return None, ()
        self.violations["api_key"] += 1
        return self.refusal(401, ()), ()

    def refusal(self, status: int, pointers: Sequence[str]) -> Response:
        """An error in the shape that NestJS gives by default."""
        return _error(status, HTTPStatus(status).phrase)

    def locate(self, body: bytes, match: str) -> Sequence[str]:
        """This platform points at nothing."""
        return ()

    # ── routes ───────────────────────────────────────────────────────────────────────────────────

    async def _customer(self, request: Request) -> Response:
        person = self.person(str(request.path_params["email"]))
        if person is None:
            return _error(404, "Customer not found")
        return JSON(person.view(self.program))

    async def _token(self, request: Request) -> Response:
        query = request.query_params
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
