"""`POST /webhooks/{connection}[/{secret}]`, for loyalty platforms."""

from __future__ import annotations

from typing import TYPE_CHECKING

from connector.domain.errors import Problem, StoreError
from connector.domain.records import Appended
from connector.pipeline.webhook_endpoint import WebhookEndpoint
from connector.service import ConnectionRuntime
from connector.web.endpoints import EndpointApp, Rejection

if TYPE_CHECKING:
    from starlette.types import Scope


class WebhookApp(EndpointApp[WebhookEndpoint, Appended]):
    """Webhooks of all connections. A signature covers the body, which is read before the check."""

    prefix = "/webhooks/"
    rejected_event = "webhook_rejected"
    unauthorized_reason = "signature"

    def _endpoint_of(self, runtime: ConnectionRuntime, path: str) -> WebhookEndpoint | None:
        return None if "/" in path else runtime.webhook_endpoint

    def _check(
        self,
        runtime: ConnectionRuntime,
        endpoint: WebhookEndpoint,
        path: str,
        scope: Scope,
        headers: dict[str, str],
    ) -> None:
        if not runtime.enabled:
            raise Rejection(409, f"connection {runtime.name}: disabled", reason="disabled")

    def _answer(self, receipt: Appended) -> bytes:
        return b'{"accepted":%d,"duplicates":%d}' % (receipt.accepted, receipt.duplicates)

    def _not_stored(self, error: StoreError) -> Rejection:
        if error.problem is Problem.STORE_REFUSED:
            detail = "body: holds a value that the database can never store"
            return Rejection(400, detail, reason="malformed", problem=error.problem)
        return super()._not_stored(error)
