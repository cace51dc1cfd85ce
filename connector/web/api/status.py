"""`/status`: what `connector status --json` prints."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from connector.service.status import STORE_HEADER, Status
from connector.web.api.context import Services, Viewer
from connector.web.api.problems import RESPONSES

router = APIRouter(tags=["status"], responses=RESPONSES)


@router.get("/status")
async def show_status(
    services: Services, caller: Viewer, request: Request, response: Response
) -> Status:
    """Connections, lanes, what waits, what needs a person. At most a second old; with
    `cache-control: no-cache` as of now."""
    response.headers[STORE_HEADER] = services.config().store.identity
    fresh = request.headers.get("cache-control") == "no-cache"
    return await services.commands.latest_status(fresh=fresh)
