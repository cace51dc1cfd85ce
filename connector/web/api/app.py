"""The API as an ASGI application."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, FastAPI
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from connector import __version__
from connector.web.access import Access, AccessDenied
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
from connector.web.api.context import ApiServices
from connector.web.storable import is_storable_url

PREFIX = "/api/v1"


def api(services: ApiServices) -> FastAPI:
    """`/api/v1/…`, with its document at `/api/openapi.json`."""
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
    app.state.services = services
    app.add_middleware(Gate, access=services.access)
    problems.register(app)
    router = APIRouter(prefix=PREFIX)
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


class Gate:
    """Refuses a stranger before a path is looked up or a body read (guarantee 14)."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        if scope["type"] == "http" and scope["path"].startswith(f"{PREFIX}/"):
            try:
                self._access.identify(HTTPConnection(scope))
            except AccessDenied as error:
                app = problems.denied(error)
            else:
                if not is_storable_url(scope):
                    app = problems.respond(400, "the URL has a character that cannot be stored")
        await app(scope, receive, send)
