"""The JeriCommerce sandbox: customers and pass tokens. The routes that write are in `writes.py`.

Sources: the guides and the public API index. Guesses: every error body (the usual format of
NestJS), the format of `accessToken`, the 429, a `tierStatus` of null without a tier.
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
from typing import Any, Literal

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Scope

from connector.sandbox.faults import Faults
from connector.sandbox.gate import JSON, Gate, Operation, control_routes
from connector.sandbox.jericommerce.people import EVENTS, Person, make_people, make_person
from connector.sandbox.jericommerce.register import DelayedRegister, Register
from connector.sandbox.jericommerce.webhooks import PendingEvent, Signature, WebhookFactory
from connector.sandbox.jericommerce.writes import Adjustment, Push, Writes, error
from connector.sandbox.limits import Header
from connector.sandbox.traffic import Webhook

_NAMED_ROUTES = ("customers/token", "balance/increase", "balance/decrease", "integrations/api")
_RETRY: tuple[Header, ...] = ((b"retry-after", b"1"),)


class JeriCommerceSandbox:
    """One program with `people` members. `now` returns seconds since 1970.

    `rate_per_second`: requests allowed per second (None: no limit); others are answered 429 with
    `Retry-After`. `lag`: a customer is read as of this many seconds ago. `signature`: encoding of
    the webhook signature. `legacy_share`: share of webhooks with the older body, without `email`.
    `push_auth`: authentication of pushes. `batch`: maximum items of `integrations/api`;
    `lists_items`: whether its response lists a result per item.

    `app`: the ASGI app. `faults`: the injected faults. `waiting`: events caused by API calls, whose
    webhooks `next_webhook` returns first. `violations`: broken rules by name. `ledger`: every
    applied balance change. `pushes`: every push. `segment(name)`: addresses of its members.
    `read_log`: (time, address) of the last million reads of a customer, found or not.
    `token_calls`: requests for a token by address.
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
        legacy_share: float = 0.02,
        push_auth: Literal["bearer", "api-key"] = "bearer",
        batch: int = 100,
        lists_items: bool = False,
    ) -> None:
        self.program = program
        self.webhook_secret = webhook_secret
        self._webhooks = WebhookFactory(program, webhook_secret, signature, legacy_share)
        self.faults = Faults()
        self.violations: Counter[str] = Counter()
        self._api_key = api_key.encode()
        self._push_auth = push_auth
        self._now = now
        self.read_log: deque[tuple[float, str]] = deque(maxlen=1_000_000)
        self.token_calls: Counter[str] = Counter()
        self._register = Register(make_people(people, now()))
        for person in self._register:
            person.owner = self
        self._delayed = DelayedRegister(self._register, lag) if lag > 0 else None
        self._rate = rate_per_second
        self._window = (-1, 0)
        self._throttled = 0
        self._added = 0
        self._writes = Writes(
            self._register,
            now=now,
            applied=self.changed,
            violations=self.violations,
            batch=batch,
            lists_items=lists_items,
        )
        prefix = f"/v1/programs/{program}"
        inner = Starlette(
            routes=[
                Route(f"{prefix}/customers/token", self._token, methods=["GET"]),
                Route(f"{prefix}/customers/{{email}}", self._customer, methods=["GET"]),
                *self._writes.routes(prefix),
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
        """The member with this address, case-insensitive; of several the latest to get it."""
        return self._register.get(email)

    def add(self, email: str, **fields: Any) -> Person:
        """Add a member; `fields` as in `Person.change`."""
        self._added += 1
        id = str(uuid.uuid5(uuid.NAMESPACE_DNS, f"{self.program} {self._added}"))
        person = make_person(email, self._now(), id, **fields)
        person.owner = self
        self.changed(person)
        return person

    def remove(self, person: Person) -> None:
        """Remove a member. Later changes to the object have no effect."""
        person.owner = None
        self._register.remove(person.id)
        if self._delayed is not None:
            self._delayed.note(self._now(), person.id, None)

    def changed(self, person: Person) -> None:
        """Update a changed member; `Person.change` calls this."""
        self._register.put(person)
        if self._delayed is not None:
            self._delayed.note(self._now(), person.id, person)

    def moment(self) -> datetime:
        """The current time in UTC."""
        return datetime.fromtimestamp(self._now(), UTC)

    def apply_event(self, name: str, person: Person, rng: random.Random) -> dict[str, Any]:
        """Apply one of the 18 events to a person; returns the event's properties."""
        properties = EVENTS[name][1](person, rng, self.moment())
        if person.owner is self:
            self.changed(person)
        return properties

    def next_webhook(self, rng: random.Random) -> Webhook:
        """Make the next event happen; returns its webhook (connector.sandbox.WebhookSource)."""
        if self.waiting:
            event = self.waiting.popleft()
        else:
            name, person = self._webhooks.next_name(rng), rng.choice(self.people)
            event = PendingEvent(name, person, self.apply_event(name, person, rng))
        return self._webhooks.webhook(event, self.moment(), rng)

    def custom_event(self, name: str, properties: dict[str, Any]) -> Webhook:
        """The webhook of an event with a name of the merchant's own, about one of the members."""
        rng = random.Random(name + repr(properties))
        event = PendingEvent(name, rng.choice(self.people), properties)
        return self._webhooks.webhook(event, self.moment(), rng)

    @property
    def waiting(self) -> deque[PendingEvent]:
        """Events caused by API calls, whose webhooks were not sent yet."""
        return self._writes.waiting

    @property
    def ledger(self) -> Sequence[Adjustment]:
        """Every applied balance change, the latest last."""
        return self._writes.ledger

    @property
    def pushes(self) -> Sequence[Push]:
        """Every push, the latest last."""
        return self._writes.pushes

    def segment(self, name: str) -> set[str]:
        """The addresses of the members of this segment."""
        members = self._writes.segments[name]
        return {person.email for person in self._register if person.id in members}

    def adjusted(self, reason: str) -> int:
        """The number of applied balance changes with this reason."""
        return self._writes.reasons[reason]

    def state(self) -> dict[str, object]:
        """Counters; `requests` by route template, then by status or "reset"."""
        return {
            "requests": {label: dict(counts) for label, counts in self._gate.requests.items()},
            "people": len(self._register),
            "adjustments": len(self.ledger),
            "pushes": len(self.pushes),
            "waiting": len(self.waiting),
            "token_calls": self.token_calls.total(),
            "throttled": self._throttled,
            "violations": dict(self.violations),
        }

    # ── called by the gate ───────────────────────────────────────────────────────────────────────

    def operation(self, method: str, path: str) -> Operation:
        """The operation of a request: customers, customers/token, balance/increase|decrease,
        integrations/api, push."""
        if path == "/v1/push":
            return Operation(f"{method} /v1/push", "push")
        rest = path.removeprefix(f"{self._prefix}/")
        if rest in _NAMED_ROUTES:
            return Operation(f"{method} /v1/programs/{{program}}/{rest}", rest)
        if rest.startswith("customers/"):
            label = f"{method} /v1/programs/{{program}}/customers/{{email}}"
            return Operation(label, "customers")
        return Operation("other", "other")

    def authorize(
        self, scope: Scope, operation: Operation
    ) -> tuple[Response | None, Sequence[Header]]:
        """Check the key, then the rate limit."""
        header, key = b"api-key", self._api_key
        if operation.endpoint == "push" and self._push_auth == "bearer":
            header, key = b"authorization", b"Bearer " + self._api_key
        if dict(scope["headers"]).get(header) != key:
            self.violations["api_key"] += 1
            return self.refusal(401, ()), ()
        if self._rate is not None:
            second = int(self._now())
            used = self._window[1] if self._window[0] == second else 0
            if used >= self._rate:
                self._throttled += 1
                return error(429, "ThrottlerException: Too Many Requests"), _RETRY
            self._window = (second, used + 1)
        return None, ()

    def refusal(self, status: int, pointers: Sequence[str]) -> Response:
        """An error in the default format of NestJS."""
        return error(status, HTTPStatus(status).phrase)

    def locate(self, body: bytes, match: str) -> Sequence[str]:
        """This platform's errors have no pointers."""
        return ()

    # ── routes ───────────────────────────────────────────────────────────────────────────────────

    async def _customer(self, request: Request) -> Response:
        email, now = str(request.path_params["email"]), self._now()
        self.read_log.append((now, email.lower()))
        person = self._delayed.get(email, now) if self._delayed is not None else self.person(email)
        if person is None:
            return error(404, "Customer not found")
        return JSON(person.view(self.program))

    async def _token(self, request: Request) -> Response:
        query = request.query_params
        self.token_calls[query.get("email", "").lower()] += 1
        person = self.person(query.get("email", ""))
        kind = query.get("token_type")
        if kind not in ("auth", "download"):
            return error(400, "token_type must be one of: auth, download")
        if person is None:
            return error(404, "Customer not found")
        # A new token each time, as for a one-time link.
        seed = f"{person.id} {kind} {self._now()}".encode()
        return JSON({"accessToken": f"jwt.{hashlib.sha256(seed).hexdigest()[:32]}.sandbox"})


async def _no_route(_: Request, raised: Exception) -> Response:
    status = raised.status_code if isinstance(raised, HTTPException) else 500
    return error(status, "Cannot find this route")
