"""The White Label Loyalty sandbox: admin tokens, users, audiences, rewards, and the private event
that adjusts points. `/oauth/token` is the authorization service; everything else is below `/v1`.

Sources: the vendor's pages on tokens, limits and webhooks. Guesses: every error body, the limit of
token requests (20 per hour), the response to an unknown client (401 `invalid_client`), `next` as a
number, a repeated idempotencyKey is applied again.
"""

from __future__ import annotations

import json
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

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
from connector.sandbox.wll.users import (
    Audience,
    GeneratedAudience,
    Tier,
    User,
    Users,
    rewards,
    tiers,
)
from connector.sandbox.wll.webhooks import PendingEvent, WebhookFactory, random_event

_RETRY: tuple[Header, ...] = ((b"retry-after", b"1"),)
_TOKEN_LIFETIME = 86_400
_TOKENS_AN_HOUR = 20
_RATE, _BURST = 100, 400
_PAGE = 200
_TOKEN_FIELDS = {"client_id", "client_secret", "audience", "grant_type"}
_TEMPLATES = {
    ("users",): "users",
    ("audiences",): "audiences",
    ("rewards",): "rewards",
    ("tiers",): "tiers",
    ("events",): "events",
    ("users", "*"): "users/{subject}",
    ("audiences", "*", "members"): "audiences/{id}/members",
}


class WllSandbox:
    """One tenant with `people` users, none of them restricted. `now` returns seconds since 1970.

    `app`: the ASGI app. `faults`: the injected faults. `waiting`: events caused by API calls, whose
    webhooks `next_webhook` returns first. `violations`: broken rules by name. `audiences`: one per
    tier, by id; `add_generated_audience` adds larger ones. `token_calls`: number of token requests.
    `tokens`: token → expiry.
    """

    def __init__(
        self,
        *,
        api_key: str = "wll_sandbox",
        client_id: str = "wll_client",
        client_secret: str = "wll_client_secret",
        webhook_secret: str = "wll_webhook_secret",
        points_event: tuple[str, str] = ("FLOW_POINTS", "wll_points_secret"),
        now: Callable[[], float] = time.time,
        people: int = 200,
    ) -> None:
        self.webhook_secret = webhook_secret
        self.faults = Faults()
        self.violations: Counter[str] = Counter()
        self.waiting: deque[PendingEvent] = deque(maxlen=10_000)
        self.token_calls = 0
        self.tokens: dict[str, float] = {}
        self._api_key, self._client = api_key.encode(), (client_id, client_secret)
        self._points_event = points_event
        self._now = now
        self.users = Users(people, self.moment())
        self.audiences: dict[str, Audience] = {}
        for tier in tiers():
            self.audiences[tier["id"]] = Tier(tier["id"], tier["name"])
        self.refresh()
        self.waiting.clear()
        self._token_times: deque[float] = deque()
        self._bucket, self._refilled_at = float(_BURST), now()
        self._throttled = 0
        self._webhooks = WebhookFactory(webhook_secret)
        self._adjusted: Counter[str] = Counter()
        inner = Starlette(
            routes=[
                Route("/oauth/token", self._token, methods=["POST"]),
                Route("/v1/users", self._list_users, methods=["GET"]),
                Route("/v1/users/{subject}", self._user, methods=["GET"]),
                Route("/v1/audiences", self._list_audiences, methods=["GET"]),
                Route("/v1/audiences/{id}/members", self._members, methods=["GET"]),
                Route("/v1/rewards", self._rewards, methods=["GET"]),
                Route("/v1/tiers", self._tiers, methods=["GET"]),
                Route("/v1/events", self._report, methods=["POST"]),
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
    def people(self) -> list[User]:
        """All registered users."""
        return list(self.users)

    def moment(self) -> datetime:
        """The current time in UTC."""
        return datetime.fromtimestamp(self._now(), UTC)

    def add(self, email: str, **fields: Any) -> User:
        """Add a user; `fields` are fields of `User`."""
        return self.users.add(email, self.moment(), **fields)

    def add_generated_audience(self, name: str, size: int) -> GeneratedAudience:
        """Add an audience of `size` generated people, which takes no memory."""
        generated = GeneratedAudience(f"crowd-{len(self.audiences)}", name, size)
        self.audiences[generated.id] = generated
        return generated

    def refresh(self) -> None:
        """Recompute the tier audiences and queue events for who joined and left."""
        for audience in self.audiences.values():
            if isinstance(audience, Tier):
                payload = {"audienceId": audience.id, "audienceName": audience.name}
                joined, left = audience.refresh(self.users)
                self.waiting.extend(
                    PendingEvent("AUDIENCE_JOINED", user, payload) for user in joined
                )
                self.waiting.extend(PendingEvent("AUDIENCE_LEFT", user, payload) for user in left)

    def next_webhook(self, rng: random.Random) -> Webhook:
        """Make the next event happen; returns its webhook (connector.sandbox.WebhookSource)."""
        event = (
            self.waiting.popleft() if self.waiting else random_event(rng.choice(self.people), rng)
        )
        return self._webhooks.webhook(event, self._now())

    def adjusted(self, key: str) -> int:
        """The number of applied adjustments with this idempotencyKey."""
        return self._adjusted[key]

    def revoke(self) -> None:
        """Revoke all tokens."""
        self.tokens.clear()

    def state(self) -> dict[str, object]:
        """Counters; `requests` by route template, then by status or "reset"."""
        return {
            "requests": {label: dict(counts) for label, counts in self._gate.requests.items()},
            "people": len(self.users),
            "adjustments": self._adjusted.total(),
            "waiting": len(self.waiting),
            "token_calls": self.token_calls,
            "throttled": self._throttled,
            "violations": dict(self.violations),
        }

    # ── called by the gate ───────────────────────────────────────────────────────────────────────

    def operation(self, method: str, path: str) -> Operation:
        """The operation of a request: its template below /v1, or `token`."""
        if path == "/oauth/token":
            return Operation(f"{method} /oauth/token", "token")
        parts = tuple(path.removeprefix("/v1/").split("/"))
        for wildcard in ({}, {1: "*"}):
            key = tuple(wildcard.get(i, part) for i, part in enumerate(parts))
            if key in _TEMPLATES and path.startswith("/v1/"):
                return Operation(f"{method} /v1/{_TEMPLATES[key]}", _TEMPLATES[key])
        return Operation("other", "other")

    def authorize(
        self, scope: Scope, operation: Operation
    ) -> tuple[Response | None, Sequence[Header]]:
        """Check the key, its rate limit, and the admin token where one is required."""
        if operation.endpoint == "token":
            return None, ()
        headers = dict(scope["headers"])
        if headers.get(b"x-api-key") != self._api_key:
            self.violations["api_key"] += 1
            return self.refusal(401, ()), ()
        if not self._take_permit():
            self._throttled += 1
            return _fail(429, "Too many requests"), _RETRY
        if operation.endpoint not in ("rewards", "tiers", "events"):
            token = headers.get(b"authorization", b"").decode("latin1").removeprefix("Bearer ")
            if self.tokens.get(token, 0) <= self._now():
                return self.refusal(401, ()), ()
        return None, ()

    def _take_permit(self) -> bool:
        now = self._now()
        self._bucket = min(_BURST, self._bucket + (now - self._refilled_at) * _RATE)
        self._refilled_at = now
        if self._bucket < 1:
            return False
        self._bucket -= 1
        return True

    def refusal(self, status: int, pointers: Sequence[str]) -> Response:
        """An error in the vendor's envelope."""
        return _fail(status, "rejected")

    def locate(self, body: bytes, match: str) -> Sequence[str]:
        """This platform's errors have no pointers."""
        return ()

    # ── routes ───────────────────────────────────────────────────────────────────────────────────

    async def _token(self, request: Request) -> Response:
        self.token_calls += 1
        now = self._now()
        while self._token_times and self._token_times[0] <= now - 3600:
            self._token_times.popleft()
        if len(self._token_times) >= _TOKENS_AN_HOUR:
            self._throttled += 1
            return JSON({"error": "too_many_requests"}, 429, {"retry-after": "60"})
        self._token_times.append(now)
        body = await self._body(request)
        if body is None or set(body) != _TOKEN_FIELDS or body["grant_type"] != "client_credentials":
            self.violations["token_request"] += 1
            return JSON({"error": "invalid_request"}, 400)
        if (body["client_id"], body["client_secret"]) != self._client:
            return JSON({"error": "invalid_client"}, 401)
        if body["audience"] != "wlloyalty.net":
            return JSON({"error": "invalid_request"}, 400)
        token = f"wll-token-{self.token_calls}"
        self.tokens[token] = now + _TOKEN_LIFETIME
        return JSON(
            {
                "access_token": token,
                "scope": "read:users read:audiences",
                "expires_in": _TOKEN_LIFETIME,
                "token_type": "Bearer",
            }
        )

    async def _user(self, request: Request) -> Response:
        user = self.users.get(str(request.path_params["subject"]))
        return _fail(404, "User not found") if user is None else _success(user.view())

    async def _list_users(self, request: Request) -> Response:
        return self._page(request, len(self.users), self.users.page)

    async def _list_audiences(self, request: Request) -> Response:
        if request.query_params:
            self.violations["query"] += 1
            return _fail(400, "unknown parameter")
        return _success([{"id": a.id, "name": a.name} for a in self.audiences.values()])

    async def _members(self, request: Request) -> Response:
        audience = self.audiences.get(str(request.path_params["id"]))
        if audience is None:
            return _fail(404, "Audience not found")
        size = audience.size if isinstance(audience, GeneratedAudience) else len(audience.members)
        return self._page(request, size, audience.page)

    def _page(
        self, request: Request, size: int, page: Callable[[int, int], list[User]]
    ) -> Response:
        query = request.query_params
        limit, cursor = query.get("limit", str(_PAGE)), query.get("cursor", "0")
        if set(query) - {"limit", "cursor"} or not (limit.isdigit() and cursor.isdigit()):
            self.violations["query"] += 1
            return _fail(400, "unknown parameter, or not a number")
        if not 1 <= int(limit) <= _PAGE:
            self.violations["limit"] += 1
            return _fail(400, f"limit must be from 1 to {_PAGE}")
        end = int(cursor) + int(limit)
        users = [user.view() for user in page(int(cursor), int(limit))]
        body = {"status": "success", "data": users, "next": str(end) if end < size else None}
        return JSON(body)

    async def _rewards(self, request: Request) -> Response:
        return _success(rewards())

    async def _tiers(self, request: Request) -> Response:
        return _success(tiers())

    async def _report(self, request: Request) -> Response:
        kind, secret = self._points_event
        if request.headers.get("authorization") != f"Bearer {secret}":
            self.violations["event_secret"] += 1
            return _fail(401, "rejected")
        body = await self._body(request)
        if body is None or set(body) - {"reportedAt"} != {"type", "subject", "payload"}:
            self.violations["event"] += 1
            return _fail(400, "not an event")
        user = self.users.get(str(body["subject"]))
        if body["type"] != kind or user is None:
            return _fail(404, "no such event type or user")
        payload = body["payload"]
        shape = {"amount": int, "reason": str, "idempotencyKey": str}
        if not isinstance(payload, dict) or {k: type(v) for k, v in payload.items()} != shape:
            self.violations["payload"] += 1
            return _fail(400, "the payload does not match the type's schema")
        user.adjust_points(payload["amount"])
        self._adjusted[payload["idempotencyKey"]] += 1
        properties = {key: payload[key] for key in ("amount", "reason")}
        self.waiting.append(PendingEvent("POINTS_ADJUSTED", user, properties))
        id = f"event-{self._adjusted.total()}"
        return _success({"id": id, **body})

    async def _body(self, request: Request) -> dict[str, Any] | None:
        """The JSON object in the body; None for other content or another content type."""
        if request.headers.get("content-type", "").partition(";")[0] != "application/json":
            self.violations["content_type"] += 1
            return None
        try:
            body = json.loads(await request.body())
        except ValueError:
            return None
        return body if isinstance(body, dict) else None


def _success(data: Any) -> Response:
    return JSON({"status": "success", "data": data})


def _fail(status: int, message: str) -> Response:
    return JSON({"status": "fail", "data": None, "message": message}, status)


async def _no_route(_: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    return _fail(status, "no such route")
