"""Errors of the API as `application/problem+json` (RFC 9457): what happened and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from connector.domain.errors import ConfigError, ConnectorError, Problem, StoreError
from connector.runtime import log
from connector.web.access import AccessDenied, Throttled

MEDIA_TYPE = "application/problem+json"
_log = log.get("api")


class ProblemDocument(BaseModel):
    """`type` is `urn:connector:problem:CODE` where there is a problem code (docs/problems/), else
    `about:blank`. `faults`: one line for each fault of an input."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: str | None = None
    faults: list[str] = []


RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": ProblemDocument, "content": {MEDIA_TYPE: {}}}
    for status in (400, 401, 403, 404, 409, 422, 503)
}
"""What every operation may answer besides its result."""


class ApiError(Exception):
    """An answer that is not a success: `detail` says what was wrong and what to do."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        problem: Problem | None = None,
        faults: Sequence[str] = (),
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.problem = problem
        self.faults = faults


def register(app: FastAPI) -> None:
    """Answer every error of `app` as a problem document."""

    @app.exception_handler(ApiError)
    async def api_error(request: Request, error: ApiError) -> JSONResponse:
        return respond(error.status, error.detail, problem=error.problem, faults=error.faults)

    @app.exception_handler(AccessDenied)
    async def access_denied(request: Request, error: AccessDenied) -> JSONResponse:
        return denied(error)

    @app.exception_handler(Throttled)
    async def throttled(request: Request, error: Throttled) -> JSONResponse:
        headers = {"retry-after": str(max(1, round(error.wait)))}
        return respond(429, str(error), headers=headers)

    @app.exception_handler(StoreError)
    async def store_error(request: Request, error: StoreError) -> JSONResponse:
        headers = {"retry-after": "5"}
        return respond(503, error.detail, problem=error.problem, headers=headers)

    @app.exception_handler(ConfigError)
    async def config_error(request: Request, error: ConfigError) -> JSONResponse:
        return respond(422, "the settings are not valid", faults=error.faults)

    @app.exception_handler(ConnectorError)
    async def connector_error(request: Request, error: ConnectorError) -> JSONResponse:
        return respond(409, str(error), problem=error.problem)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        # The input itself is not repeated: it may hold an address or a secret.
        faults = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        if isinstance(error.body, bytes):
            # The body was not read as JSON, so faults of its content would mislead.
            faults = ["header.content-type: allowed application/json"]
        return respond(422, "the request is not valid", faults=faults)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        return respond(error.status_code, str(error.detail), headers=error.headers)

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        _log.error("api_failed", route=request.url.path, error=repr(error))
        return respond(500, "an error of the connector: see its log")


def denied(error: AccessDenied) -> JSONResponse:
    headers = {"www-authenticate": "Bearer"} if error.status == 401 else None
    return respond(error.status, error.detail, headers=headers)


def respond(
    status: int,
    detail: str,
    *,
    problem: Problem | None = None,
    faults: Sequence[str] = (),
    headers: Any = None,
) -> JSONResponse:
    document = ProblemDocument(
        type=f"urn:connector:problem:{problem.value}" if problem else "about:blank",
        title=problem.meaning if problem else HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        code=problem.value if problem else None,
        faults=list(faults),
    )
    return JSONResponse(document.model_dump(), status, headers=headers, media_type=MEDIA_TYPE)
