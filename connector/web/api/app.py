"""The API as an ASGI application."""

from __future__ import annotations

import threading
from functools import cache
from typing import Any

from fastapi import APIRouter, Depends, FastAPI
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from connector import __version__
from connector.web.access import AccessDenied
from connector.web.api import (
    audit,
    backfills,
    connections,
    dead_letters,
    decisions,
    events,
    orders,
    people,
    problems,
    status,
    webhook_builder,
)
from connector.web.api.context import ApiServices, only_known_query
from connector.web.storable import is_storable_url

PREFIX = "/api/v1"
_one_at_a_time = threading.Lock()


class Api:
    """`/api/v1/…`, with its document at `/api/openapi.json`. A stranger is refused before a path is
    looked up or a body read (guarantee 14)."""

    def __init__(self, services: ApiServices) -> None:
        self._services = services
        self._app = _built()

    def openapi(self) -> dict[str, Any]:
        """The document."""
        return self._app.openapi()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app: ASGIApp = self._app
        if scope["type"] == "http" and scope["path"].startswith(f"{PREFIX}/"):
            try:
                self._services.access.identify(HTTPConnection(scope))
            except AccessDenied as error:
                app = problems.denied(error)
            else:
                if not is_storable_url(scope):
                    app = problems.respond(400, "the URL has a character that cannot be stored")
        state = {**scope.get("state", {}), "services": self._services}
        await app({**scope, "state": state}, receive, send)


def prepare() -> None:
    """What the first request would wait for: most of a second with the import of this module."""
    _built()


def _built() -> FastAPI:
    """`_routes`, built once: two threads would change the warnings of the process for each other,
    and take twice as long."""
    with _one_at_a_time:
        return _routes()


@cache
def _routes() -> FastAPI:
    """The operations, which find their services in the state of a request."""
    app = FastAPI(
        title="Loyalty connector",
        version=__version__,
        description="What `connector` can show and do, as JSON. A bearer token of `[console] "
        "api_tokens`, or the console's session.",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        separate_input_output_schemas=False,
    )
    problems.register(app)
    router = APIRouter(prefix=PREFIX, dependencies=[Depends(only_known_query)])
    for part in (
        status,
        connections,
        dead_letters,
        decisions,
        backfills,
        people,
        webhook_builder,
        audit,
        orders,
        events,
    ):
        router.include_router(part.router)
    app.include_router(router)

    @app.get("/api/openapi.json", include_in_schema=False)
    async def document() -> dict[str, Any]:
        return app.openapi()

    return app
