"""`/events`: a stream of what has changed, for open pages (server-sent events)."""

from __future__ import annotations

from collections.abc import AsyncIterator

import orjson
from fastapi import APIRouter
from fastapi.responses import StreamingResponse

from connector.web.api.context import Services, Viewer
from connector.web.api.problems import RESPONSES
from connector.web.event_stream import event_stream

router = APIRouter(tags=["events"], responses=RESPONSES)


@router.get(
    "/events",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {}}}},
)
async def watch(services: Services, caller: Viewer) -> StreamingResponse:
    """`event: change` with `data: {"topics": […]}` within two seconds of a change. The data
    itself is in the lists. A comment keeps the connection open every 15 s; it ends when the process
    stops."""
    return event_stream(_changes(services))


async def _changes(services: Services) -> AsyncIterator[tuple[str, bytes] | None]:
    async for topics in services.changes.changes():
        yield ("change", orjson.dumps({"topics": topics})) if topics else None
