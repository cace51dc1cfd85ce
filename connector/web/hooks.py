"""`POST /webhooks/{connection}`: verified, parsed, committed, and only then 202 (INTERFACE 4)."""

from __future__ import annotations

from collections.abc import Callable

import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from connector import log
from connector.errors import Malformed, Problem, StoreError, Unauthorised
from connector.intake import Intake
from connector.metrics import Metrics
from connector.operate import Line
from connector.ports import Clock

MAX_BODY = 1_048_576
_RETRY_AFTER = "5"


class Hooks:
    """The doors for loyalty platforms."""

    def __init__(
        self,
        find: Callable[[str], Line | None],
        intake: Intake,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._clock = clock
        self._find = find
        self._intake = intake
        self._metrics = metrics
        self._log = log.get("hooks")

    async def receive(self, request: Request) -> Response:
        name = request.path_params["connection"]
        line = self._find(name)
        if line is None or line.door is None:
            return _answer(404, "no such connection")
        if not line.enabled:
            return self._refuse(name, 409, "disabled", "this connection is disabled")
        try:
            body = await _read(request)
        except ClientDisconnect:
            return self._refuse(name, 400, "malformed", "the caller left before the body's end")
        if body is None:
            return self._refuse(
                name, 413, "too_large", "more than 1 MiB", Problem.WEBHOOK_TOO_LARGE
            )
        headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in request.headers.raw}
        try:
            secret = request.path_params.get("secret")
            page = line.door.page(headers, body, secret, self._clock.now())
            result = await self._intake.page(page)
        except Unauthorised as error:
            return self._refuse(name, 401, "signature", error.detail, error.problem)
        except Malformed as error:
            return self._refuse(name, 400, "malformed", error.detail, error.problem)
        except StoreError as error:
            refusal = self._refuse(name, 503, "not_stored", "not stored, try again", error.problem)
            refusal.headers["retry-after"] = _RETRY_AFTER
            return refusal
        return Response(
            b'{"accepted":%d,"duplicates":%d}' % (result.accepted, result.duplicates),
            status_code=202,
            media_type="application/json",
        )

    def _refuse(
        self, connection: str, status: int, reason: str, detail: str, problem: Problem | None = None
    ) -> Response:
        self._metrics.turned_away(connection, reason)
        self._log.warning(
            "webhook refused",
            connection=connection,
            status=status,
            problem=problem.value if problem else None,
            detail=detail,
        )
        return _answer(status, detail, problem)


async def _read(request: Request) -> bytes | None:
    """The body, or None when it is larger than we take. Raises ClientDisconnect."""
    declared = request.headers.get("content-length", "0")
    if declared.isdigit() and int(declared) > MAX_BODY:
        return None
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY:
            return None
        parts.append(part)
    return b"".join(parts)


def _answer(status: int, detail: str, problem: Problem | None = None) -> Response:
    said = {"detail": detail} | ({"problem": problem.value} if problem else {})
    return Response(orjson.dumps(said), status_code=status, media_type="application/json")
