"""`POST /flows/{connection}/{route}`, for webhook steps of Klaviyo flows.

Klaviyo repeats a call for a day after 429, 500, 502 and 503 and skips it for good after any other
status. So a call that a repeat can help is answered 503, and only a call that it cannot is 4xx.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Sequence
from typing import TYPE_CHECKING

from connector.actions.flow_endpoint import FlowEndpoint
from connector.domain.actions import ActionReceipt, Conflict
from connector.domain.errors import Problem, Unauthorised
from connector.ports import Clock
from connector.runtime.metrics import Metrics
from connector.service import ConnectionRuntime
from connector.web.endpoints import EndpointApp, Rejection, unavailable
from connector.web.throttle import Network, Throttle, client_address

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send


class FlowApp(EndpointApp[FlowEndpoint, ActionReceipt | Conflict]):
    """Flow calls of all connections. The secret is checked before the body is read."""

    prefix = "/flows/"
    rejected_event = "flow_call_rejected"
    unauthorized_reason = "flow_secret"

    def __init__(
        self,
        find: Callable[[str], ConnectionRuntime | None],
        clock: Clock,
        metrics: Metrics,
        *,
        broken: Container[str] = (),
        trusted_proxies: Sequence[Network] = (),
    ) -> None:
        super().__init__(find, clock, metrics, broken=broken)
        self._throttle = Throttle(clock)
        self._trusted_proxies = trusted_proxies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Klaviyo skips a call for good after a 404: a slash too many loses no points.
        if scope["path"].endswith("/"):
            scope = {**scope, "path": scope["path"].rstrip("/")}
        await super().__call__(scope, receive, send)

    def _endpoint_of(self, runtime: ConnectionRuntime, path: str) -> FlowEndpoint | None:
        return runtime.flow_endpoint

    def _check(
        self,
        runtime: ConnectionRuntime,
        endpoint: FlowEndpoint,
        path: str,
        scope: Scope,
        headers: dict[str, str],
    ) -> None:
        try:
            endpoint.authorize(headers)
        except Unauthorised as error:
            address = client_address(scope, headers, self._trusted_proxies)
            raise self._throttled(address) or self._unauthorized(error) from None
        name = runtime.name
        if not runtime.enabled or not endpoint.enabled:
            what = "its module actions" if runtime.enabled else "it"
            detail = f"connection {name}: {what} is disabled, nothing is stored"
            raise unavailable(detail, "disabled")
        if path not in endpoint.routes:
            offered = ", ".join(f"{self.prefix}{name}/{route}" for route in endpoint.routes)
            detail = f"path: {runtime.title} does not offer this, allowed {offered or 'none'}"
            raise Rejection(404, detail, reason="malformed", problem=Problem.FLOW_MALFORMED)

    def _throttled(self, address: str) -> Rejection | None:
        """A call with a wrong secret: 429 where its address had too many of them. A right secret
        is never throttled, because many callers may share an address."""
        wait = self._throttle.wait(address)
        if wait <= 0:
            self._throttle.failed(address)
            return None
        problem = Problem.FLOW_THROTTLED
        retry_after = (b"retry-after", str(math.ceil(wait)).encode())
        return Rejection(
            429, problem.meaning, reason="throttled", problem=problem, headers=(retry_after,)
        )

    def _answer(self, receipt: ActionReceipt | Conflict) -> bytes:
        if isinstance(receipt, Conflict):
            detail = (
                f"item {receipt.item}: its idempotency key belongs to a stored action with other "
                "content, so nothing of this call is stored; use a key of its own"
            )
            raise Rejection(409, detail, reason="conflict", problem=Problem.FLOW_CONFLICT)
        counts = (receipt.accepted, receipt.duplicates, receipt.held)
        return b'{"accepted":%d,"duplicates":%d,"held":%d}' % counts
