"""`/status`: what `connector status --json` prints."""

from __future__ import annotations

from fastapi import APIRouter

from connector.service.status import Status
from connector.web.api.context import Services, Viewer
from connector.web.api.problems import RESPONSES

router = APIRouter(tags=["status"], responses=RESPONSES)


@router.get("/status")
async def show_status(services: Services, caller: Viewer) -> Status:
    """Connections, lanes, what waits, what needs a person."""
    return await services.commands.latest_status()
