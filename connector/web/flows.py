"""`POST /flows/{connection}/{route}`: proved, read whole, committed, and only then 202 (INTERFACE
4). Plain ASGI like the webhooks: a campaign of 50,000 people arrives at once.

Klaviyo repeats 429, 500, 502 and 503 for a day and skips a call for good after any other code. So
whatever is our trouble is 503, and whatever a repeat cannot mend is 4xx.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container
from typing import TYPE_CHECKING, cast

from connector.actions.flow_endpoint import FlowEndpoint
from connector.actions.requests import Route
from connector.domain.actions import Conflict
from connector.domain.errors import Malformed, Problem, StoreError
from connector.ports import Clock
from connector.runtime.metrics import Metrics
from connector.service import ConnectionRuntime
from connector.web.asgi import (
    JSON,
    RETRY_AFTER,
    ClientDisconnected,
    RejectionResponder,
    TooLarge,
    read_body,
    send_json,
    send_response,
)
from connector.web.throttle import Throttle, client_address

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

PREFIX = "/flows/"


class FlowApp:
    """The doors for Klaviyo's flows. `closed` says why nothing may be stored, if so; `broken` are
    connections whose package fails."""

    def __init__(
        self,
        find: Callable[[str], ConnectionRuntime | None],
        clock: Clock,
        metrics: Metrics,
        *,
        closed: Callable[[], Problem | None] = lambda: None,
        broken: Container[str] = (),
    ) -> None:
        self._find = find
        self._broken = broken
        self._metrics = metrics
        self._closed = closed
        self._throttle = Throttle(clock)
        self._reject = RejectionResponder("flow call", metrics)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        name, _, route = str(scope["path"])[len(PREFIX) :].partition("/")
        runtime = self._find(name)
        headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
        if name in self._broken:
            problem, detail = Problem.PLUGIN_BROKEN, "this connection stands still, try again"
            await self._reject(send, name, 503, "not_stored", detail, problem, RETRY_AFTER)
        elif runtime is None or runtime.flow_endpoint is None:
            await send_json(send, 404, {"detail": "no such connection"})
        elif scope["method"] != "POST":
            await send_json(send, 405, {"detail": "a flow's call is posted"}, (b"allow", b"POST"))
        elif await self._authorized(runtime.name, runtime.flow_endpoint, scope, headers, send):
            await self._route(runtime, runtime.flow_endpoint, route, headers, receive, send)

    async def _authorized(
        self, name: str, endpoint: FlowEndpoint, scope: Scope, headers: dict[str, str], send: Send
    ) -> bool:
        """Whether the caller has the secret; else he has been answered."""
        address = client_address(scope, headers)
        wait = self._throttle.wait(address)
        if wait > 0:
            self._metrics.record_rejected(name, "throttled")
            problem = Problem.FLOW_THROTTLED
            payload = {"detail": problem.meaning, "problem": problem.value}
            after = (b"retry-after", str(math.ceil(wait)).encode())
            await send_json(send, 429, payload, after)
        elif not endpoint.is_authorized(headers):
            self._throttle.failed(address)
            detail = "header api-key is missing or wrong: [connections.actions] secret"
            await self._reject(send, name, 401, "flow_secret", detail, Problem.FLOW_SECRET)
        else:
            return True
        return False

    async def _route(
        self,
        runtime: ConnectionRuntime,
        endpoint: FlowEndpoint,
        route: str,
        headers: dict[str, str],
        receive: Receive,
        send: Send,
    ) -> None:
        name = runtime.name
        if not runtime.enabled or not endpoint.on:
            detail = "this connection takes nothing now: it or its actions are switched off"
            await self._reject(send, name, 503, "disabled", detail, None, RETRY_AFTER)
        elif route not in endpoint.routes:
            offered = ", ".join(f"{PREFIX}{name}/{r}" for r in endpoint.routes) or "none"
            detail = f"{runtime.title} does not offer this; offered: {offered}"
            await self._reject(send, name, 404, "malformed", detail)
        else:
            await self._accept(name, endpoint, cast(Route, route), headers, receive, send)

    async def _accept(
        self,
        name: str,
        endpoint: FlowEndpoint,
        route: Route,
        headers: dict[str, str],
        receive: Receive,
        send: Send,
    ) -> None:
        try:
            body = await read_body(headers, receive)
            requests = endpoint.parse_actions(route, headers, body)
            if closed := self._closed():
                raise StoreError(closed)
            receipt = await endpoint.submit("flow", requests)
        except TooLarge:
            problem = Problem.WEBHOOK_TOO_LARGE
            await self._reject(send, name, 413, "too_large", "more than 1 MiB", problem)
        except ClientDisconnected:
            detail = "the caller left before the body's end"
            await self._reject(send, name, 400, "malformed", detail)
        except Malformed as error:
            await self._reject(send, name, 400, "malformed", error.detail, error.problem)
        except StoreError as error:
            detail = "not stored, try again"
            await self._reject(send, name, 503, "not_stored", detail, error.problem, RETRY_AFTER)
        else:
            if isinstance(receipt, Conflict):
                detail = (
                    f"item {receipt.item}: this key was used for another action; nothing stored"
                )
                problem = Problem.FLOW_CONFLICT
                await self._reject(send, name, 409, "conflict", detail, problem)
                return
            counts = (receipt.accepted, receipt.duplicates, receipt.held)
            payload = b'{"accepted":%d,"duplicates":%d,"held":%d}' % counts
            await send_response(send, 202, payload, JSON)
