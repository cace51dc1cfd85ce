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
from connector.service import Line
from connector.web.wire import (
    JSON,
    RETRY_AFTER,
    Left,
    Refusals,
    TooLarge,
    answer,
    read_body,
    send_out,
)

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

PREFIX = "/webhooks/"


class Hooks:
    """The doors for loyalty platforms."""

    def __init__(
        self,
        find: Callable[[str], Line | None],
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
        self._refuse = Refusals("webhook", metrics)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        name, _, secret = str(scope["path"])[len(PREFIX) :].partition("/")
        line = self._find(name)
        if name in self._broken:
            problem, detail = Problem.PLUGIN_BROKEN, "this connection stands still, try again"
            await self._refuse(send, name, 503, "not_stored", detail, problem, RETRY_AFTER)
        elif line is None or line.door is None or "/" in secret:
            await answer(send, 404, {"detail": "no such connection"})
        elif scope["method"] != "POST":
            said = {"detail": "a webhook is posted"}
            await answer(send, 405, said, (b"allow", b"POST"))
        elif not line.enabled:
            await self._refuse(send, name, 409, "disabled", "this connection is disabled")
        else:
            await self._take(line, secret or None, scope, receive, send)

    async def _take(
        self, line: Line, secret: str | None, scope: Scope, receive: Receive, send: Send
    ) -> None:
        assert line.door is not None
        name = line.name
        headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
        try:
            body = await read_body(headers, receive)
        except TooLarge:
            problem = Problem.WEBHOOK_TOO_LARGE
            await self._refuse(send, name, 413, "too_large", "more than 1 MiB", problem)
            return
        except Left:
            detail = "the caller left before the body's end"
            await self._refuse(send, name, 400, "malformed", detail)
            return
        try:
            page = line.door.page(headers, body, secret, self._clock.now())
            result = await self._intake.page(page)
        except Unauthorised as error:
            await self._refuse(send, name, 401, "signature", error.detail, error.problem)
        except Malformed as error:
            await self._refuse(send, name, 400, "malformed", error.detail, error.problem)
        except StoreError as error:
            if error.problem is Problem.STORE_REFUSED:
                detail = "what it holds can never be stored"
                await self._refuse(send, name, 400, "malformed", detail, error.problem)
                return
            detail = "not stored, try again"
            await self._refuse(send, name, 503, "not_stored", detail, error.problem, RETRY_AFTER)
        else:
            said = b'{"accepted":%d,"duplicates":%d}' % (result.accepted, result.duplicates)
            await send_out(send, 202, said, JSON)
