"""The API as an ASGI application."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, FastAPI

from connector import __version__
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
