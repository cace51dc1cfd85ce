"""The Yotpo Loyalty & Referrals sandbox: the loyalty API (v2), and the adjustment of a Yotpo app.

Source: the loyalty API reference. Guesses: every error body, the array key of `customers/recent`,
422 for a balance below zero, 404 for an unknown customer in an adjustment, both URLs of the app's
API, the token response. Undocumented behaviour has adverse variants: `customers/recent` in any
order, delayed, or with a repeated cursor.
"""

from __future__ import annotations

import random
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Literal
from urllib.parse import parse_qsl

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Scope

from connector.sandbox.faults import Faults
from connector.sandbox.gate import JSON, Gate, Operation, control_routes
from connector.sandbox.limits import Header
from connector.sandbox.traffic import Webhook
from connector.sandbox.yotpo.listing import Listing, Order
from connector.sandbox.yotpo.people import (
    REWARDS,
    TIERS,
    Customer,
    make_customer,
    make_customers,
    reward_view,
    tier_view,
)
from connector.sandbox.yotpo.webhooks import TOPICS, WebhookFactory, changed

_V2 = "/api/v2/"
_ENDPOINTS = {
    "customers": {"with_referral_code", "with_history", "country_iso_code"},
    "customers/recent": {"per_page", "page_info"},
    "points/adjust": set[str](),
    "vip_tiers": set[str](),
    "redemption_options": {"is_offline", "discount_type"},
}
_ONE_OF = {"customer_email", "customer_id", "phone_number", "pos_account_id"}
_MOST_PER_PAGE = 100


class YotpoSandbox:
    """One merchant's account with `people` customers. `now` returns seconds since 1970.

    `rate_per_second`: requests allowed per second (None: no limit); others are answered 429.
    `order`, `lag`, `repeats_cursor`: behaviour of `customers/recent`, see `Listing`.

    `app`: the ASGI app. `faults`: the injected faults. `waiting`: events caused by API calls, whose
    webhooks `next_webhook` returns first. `violations`: broken rules by name. `app_token`: the
    token of the app's API, passed in `app_token_in`; a refresh replaces it and `refresh_token`.
    """

    def __init__(
        self,
        *,
        guid: str = "guid-sandbox",
        api_key: str = "yotpo_sandbox",
        webhook_secret: str = "yotpo_webhook_secret",
        secret_header: str = "",
        now: Callable[[], float] = time.time,
        people: int = 200,
        rate_per_second: int | None = 5,
        event_ids: float = 1.0,
        app_token_in: Literal["header", "query"] = "header",
        order: Order = "newest",
        lag: float = 0.0,
        repeats_cursor: bool = False,
    ) -> None:
        self.guid, self.api_key, self.webhook_secret = guid, api_key, webhook_secret
        self.faults = Faults()
        self.violations: Counter[str] = Counter()
        self.waiting: deque[tuple[Customer, dict[str, Any]]] = deque(maxlen=10_000)
        self.app_token, self.refresh_token = "app-token-0", "refresh-0"
        self._listing = Listing(order, lag, repeats_cursor)
        self._app_token_in = app_token_in
        self._now = now
        self._webhooks = WebhookFactory(webhook_secret, secret_header, event_ids)
        self._people: dict[str, Customer] = {}
        self._rate = rate_per_second
        self._windows: dict[tuple[str, int], tuple[int, int]] = {}
        self._throttled = self._tokens = 0
        self._adjusted: Counter[str] = Counter()
        for customer in make_customers(people, self.moment()):
            self._join(customer, 0.0)
        inner = Starlette(
            routes=[
                Route(f"{_V2}customers", self._customer, methods=["GET"]),
                Route(f"{_V2}customers/recent", self._recent, methods=["GET"]),
                Route(f"{_V2}vip_tiers", self._tiers, methods=["GET"]),
                Route(f"{_V2}redemption_options", self._rewards, methods=["GET"]),
                Route(f"{_V2}points/adjust", self._adjust, methods=["POST"]),
                Route("/app/{app_key}/points/adjust", self._adjust, methods=["POST"]),
                Route("/app/oauth2/token", self._token, methods=["POST"]),
                *control_routes(self, self.faults),
            ],
            exception_handlers={HTTPException: _no_route},
        )
        inner.router.redirect_slashes = False
        self._gate = Gate(inner, self, self.faults)

    @property
    def app(self) -> ASGIApp:
        """The ASGI app."""
        return self._gate

    @property
    def people(self) -> list[Customer]:
        """All customers."""
        return list(self._people.values())

    def person(self, email: str) -> Customer | None:
        """The customer with this address, case-insensitive, or None."""
        email = email.strip().lower()
        return next((c for c in self._people.values() if c.email.lower() == email), None)

    def add(self, email: str, **fields: Any) -> Customer:
        """Add a customer; `fields` as in `Customer.change`."""
        id = str(8_000_000 + len(self._people))
        customer = make_customer(id, email, self.moment(), **fields)
        self._join(customer, self._now())
        return customer

    def remove(self, customer: Customer) -> None:
        """Remove a customer. Later changes to the object have no effect."""
        del self._people[customer.id]
        customer.on_change = lambda _: None
        self._listing.note(self._now(), customer.id, None)

    def moment(self) -> datetime:
        """The current time in UTC."""
        return datetime.fromtimestamp(self._now(), UTC)

    def next_webhook(self, rng: random.Random) -> Webhook:
        """Make the next event happen; returns its webhook (connector.sandbox.WebhookSource)."""
        if self.waiting:
            customer, payload = self.waiting.popleft()
            return self._webhooks.webhook("swell/points/changed", customer, payload, rng)
        customer = rng.choice(self.people)
        return self.emit(self._webhooks.next_topic(rng), customer, rng)

    def emit(self, topic: str, customer: Customer, rng: random.Random) -> Webhook:
        """Make the event of this topic happen to the customer; returns its webhook."""
        payload = TOPICS[topic][2](customer, rng, self.moment())
        return self._webhooks.webhook(topic, customer, payload, rng)

    def adjusted(self, title: str) -> int:
        """The number of applied adjustments whose history title contains this text."""
        return sum(count for line, count in self._adjusted.items() if title in line)

    def state(self) -> dict[str, object]:
        """Counters; `requests` by route template, then by status or "reset"."""
        return {
            "requests": {label: dict(counts) for label, counts in self._gate.requests.items()},
            "people": len(self._people),
            "adjustments": self._adjusted.total(),
            "waiting": len(self.waiting),
            "tokens": self._tokens,
            "throttled": self._throttled,
            "violations": dict(self.violations),
        }

    # ── called by the gate ───────────────────────────────────────────────────────────────────────

    def operation(self, method: str, path: str) -> Operation:
        """The operation of a request, by its path below /api/v2 or /app."""
        rest = path.removeprefix(_V2)
        if rest in _ENDPOINTS:
            return Operation(f"{method} {path}", rest)
        if path.startswith("/app/"):
            rest = "app/token" if path.endswith("/token") else "app/adjust"
            return Operation(f"{method} /{rest}", rest)
        return Operation("other", "other")

    def authorize(
        self, scope: Scope, operation: Operation
    ) -> tuple[Response | None, Sequence[Header]]:
        """Check the key, the rate limit, then the query parameters."""
        headers = {k.decode(): v.decode("latin-1") for k, v in scope["headers"]}
        query = dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
        if operation.endpoint == "app/token":
            return None, ()
        if operation.endpoint == "app/adjust":
            bearer = headers.get("authorization", "").removeprefix("Bearer ")
            given = {"header": bearer, "query": query.get("access_token")}
            if given[self._app_token_in] != self.app_token:
                self.violations["app_token"] += 1
                return self.refusal(401, ()), ()
            return self._limited("app", 5, 100)
        if {"guid", "api_key"} & query.keys():
            self.violations["key_in_query"] += 1
        if (headers.get("x-guid"), headers.get("x-api-key")) != (self.guid, self.api_key):
            self.violations["api_key"] += 1
            return self.refusal(401, ()), ()
        rejected, quota_headers = self._limited("v2", self._rate, None)
        if rejected is None:
            unknown = query.keys() - _ENDPOINTS.get(operation.endpoint, set()) - _ONE_OF
            self.violations.update(dict.fromkeys(unknown, 1))
        return rejected, quota_headers

    def _limited(
        self, what: str, second: int | None, minute: int | None
    ) -> tuple[Response | None, Sequence[Header]]:
        if second is None:
            return None, ()
        now, used = self._now(), {}
        allowed = {1: second} | ({60: minute} if minute else {})
        for width in allowed:
            window, count = self._windows.get((what, width), (-1, 0))
            used[width] = count if window == int(now // width) else 0
        left, width = min((allowed[width] - used[width], width) for width in allowed)
        reset = str(max(1, round(width - now % width))).encode()
        if left <= 0:
            self._throttled += 1
            return _error(429, "Too many requests"), ((b"ratelimit-reset", reset),)
        for each, count in used.items():
            self._windows[what, each] = (int(now // each), count + 1)
        return None, (
            (b"ratelimit-limit", str(second).encode()),
            (b"ratelimit-remaining", str(left - 1).encode()),
            (b"ratelimit-reset", reset),
        )

    def refusal(self, status: int, pointers: Sequence[str]) -> Response:
        """An error response (guess)."""
        return _error(status, HTTPStatus(status).phrase)

    def locate(self, body: bytes, match: str) -> Sequence[str]:
        """This platform's errors have no pointers."""
        return ()

    # ── routes ───────────────────────────────────────────────────────────────────────────────────

    async def _customer(self, request: Request) -> Response:
        query = request.query_params
        if len(_ONE_OF & query.keys()) != 1:
            self.violations["customers_query"] += 1
            return _error(400, "one of customer_email, customer_id, phone_number, pos_account_id")
        email, id = query.get("customer_email"), query.get("customer_id", "")
        found = self.person(email) if email is not None else self._people.get(id)
        if found is None:
            return _error(404, "Customer not found")
        shown = found.view(history=query.get("with_history") == "true")
        if query.get("with_referral_code") != "true":
            shown.pop("referral_link")
        return JSON(shown)

    async def _recent(self, request: Request) -> Response:
        size = min(int(request.query_params.get("per_page", "25")), _MOST_PER_PAGE)
        cursor = request.query_params.get("page_info")
        try:
            page, following = self._listing.page(cursor, size, self._now())
        except (KeyError, ValueError):
            self.violations["page_info"] += 1
            return _error(400, "page_info is not known")
        return JSON({"customers": page, "metadata": {"next_page_info": following}})

    async def _tiers(self, _: Request) -> Response:
        return JSON([tier_view(index) for index in range(len(TIERS))])

    async def _rewards(self, _: Request) -> Response:
        return JSON([reward_view(index) for index in range(len(REWARDS))])

    async def _adjust(self, request: Request) -> Response:
        app = request.url.path.startswith("/app/")
        body = _decoded(await request.body())
        if fault := _adjustment_fault(body, app):
            self.violations["adjust_body"] += 1
            return _error(422, fault)
        email, id = body.get("customer_email"), body.get("customer_id")
        customer = self.person(email) if email else self._people.get(str(id))
        if customer is None:
            return _error(404, "Customer not found")
        points, before = body["point_adjustment_amount"], customer.balance
        if before + points < 0:
            return _error(422, "The customer does not have enough points")
        title = body.get("history_title") or "Adjustment"
        earned = body.get("apply_adjustment_to_points_earned") is True
        shown = body.get("visible_to_customer", True) in (True, "true")
        customer.adjust_points(points, title, self.moment(), earned=earned, shown=shown)
        self._adjusted[title] += 1
        self.waiting.append((customer, changed(customer, points, title, before)))
        adjustment = {"id": self._adjusted.total(), "type": "PointAdjustment", "name": title}
        return JSON({**adjustment, "customer_id": int(customer.id), "merchant_id": 1})

    async def _token(self, request: Request) -> Response:
        body = _decoded(await request.body())
        complete = {"client_id", "client_secret", "grant_type", "refresh_token"} <= body.keys()
        if not complete or body["refresh_token"] != self.refresh_token:
            return JSON({"error": "invalid_grant"}, 400)
        self._tokens += 1
        self.app_token = f"app-token-{self._tokens}"
        self.refresh_token = f"refresh-{self._tokens}"
        return JSON(
            {
                "access_token": self.app_token,
                "refresh_token": self.refresh_token,
                "expires_in": 3600,
                "token_type": "bearer",
            }
        )

    def _join(self, customer: Customer, at: float) -> None:
        self._people[customer.id] = customer
        customer.on_change = lambda changed: self._changed(changed, self._now())
        self._changed(customer, at)

    def _changed(self, customer: Customer, at: float) -> None:
        self._listing.note(at, customer.id, customer.view(listed=True))


def _adjustment_fault(body: dict[str, Any], app: bool) -> str:
    allowed = {
        "customer_email": str,
        "customer_id": str,
        "point_adjustment_amount": int,
        "apply_adjustment_to_points_earned": bool,
        "history_title": str,
        "visible_to_customer": str if app else bool,
    }
    for name, value in body.items():
        if name not in allowed:
            return f"unknown field {name}"
        if type(value) is not allowed[name]:
            return f"{name} has the wrong type"
    if not body.get("point_adjustment_amount"):
        return "point_adjustment_amount is required"
    if app and not (body.get("customer_email") and body.get("history_title")):
        return "customer_email and history_title are required"
    if not body.get("customer_email") and not body.get("customer_id"):
        return "customer_email or customer_id is required"
    return ""


def _decoded(body: bytes) -> dict[str, Any]:
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def _error(status: int, message: str) -> Response:
    return JSON({"errors": [{"code": str(status), "title": message}]}, status)


async def _no_route(_: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    return _error(status, "Not found")
