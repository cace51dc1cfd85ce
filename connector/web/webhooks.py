"""`POST /webhooks/{connection}[/{secret}]`: verified, parsed, committed, and only then 202
(INTERFACE 4). Plain ASGI, for this is the hot path: routing and request objects would cost more
than all that is done here (bench/README.md)."""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import TYPE_CHECKING

from connector.domain.errors import Malformed, Problem, StoreError, Unauthorised
from connector.pipeline.intake import Intake
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

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

PREFIX = "/webhooks/"


class WebhookApp:
    """The doors for loyalty platforms."""

    def __init__(
        self,
        find: Callable[[str], ConnectionRuntime | None],
        intake: Intake,
        clock: Clock,
        metrics: Metrics,
        *,
        broken: Container[str] = (),
    ) -> None:
        self._find = find
        self._broken = broken
        self._intake = intake
        self._clock = clock
        self._reject = RejectionResponder("webhook", metrics)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        name, _, secret = str(scope["path"])[len(PREFIX) :].partition("/")
        runtime = self._find(name)
        if name in self._broken:
            problem, detail = Problem.PLUGIN_BROKEN, "this connection stands still, try again"
            await self._reject(send, name, 503, "not_stored", detail, problem, RETRY_AFTER)
        elif runtime is None or runtime.webhook_endpoint is None or "/" in secret:
            await send_json(send, 404, {"detail": "no such connection"})
        elif scope["method"] != "POST":
            payload = {"detail": "a webhook is posted"}
            await send_json(send, 405, payload, (b"allow", b"POST"))
        elif not runtime.enabled:
            await self._reject(send, name, 409, "disabled", "this connection is disabled")
        else:
            await self._accept(runtime, secret or None, scope, receive, send)

    async def _accept(
        self,
        runtime: ConnectionRuntime,
        secret: str | None,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        assert runtime.webhook_endpoint is not None
        name = runtime.name
        headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
        try:
            body = await read_body(headers, receive)
        except TooLarge:
            problem = Problem.WEBHOOK_TOO_LARGE
            await self._reject(send, name, 413, "too_large", "more than 1 MiB", problem)
            return
        except ClientDisconnected:
            detail = "the caller left before the body's end"
            await self._reject(send, name, 400, "malformed", detail)
            return
        try:
            page = runtime.webhook_endpoint.page(headers, body, secret, self._clock.now())
            result = await self._intake.page(page)
        except Unauthorised as error:
            await self._reject(send, name, 401, "signature", error.detail, error.problem)
        except Malformed as error:
            await self._reject(send, name, 400, "malformed", error.detail, error.problem)
        except StoreError as error:
            if error.problem is Problem.STORE_REFUSED:
                detail = "what it holds can never be stored"
                await self._reject(send, name, 400, "malformed", detail, error.problem)
                return
            detail = "not stored, try again"
            await self._reject(send, name, 503, "not_stored", detail, error.problem, RETRY_AFTER)
        else:
            payload = b'{"accepted":%d,"duplicates":%d}' % (result.accepted, result.duplicates)
            await send_response(send, 202, payload, JSON)
