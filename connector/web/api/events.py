"""`/events`: a stream of what has changed, for open pages (server-sent events)."""

from __future__ import annotations

from collections.abc import AsyncIterator

import orjson
from fastapi import APIRouter
from fastapi.responses import StreamingResponse

from connector.web.api.context import Services, Viewer
from connector.web.api.problems import RESPONSES

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
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return StreamingResponse(_stream(services), media_type="text/event-stream", headers=headers)


async def _stream(services: Services) -> AsyncIterator[bytes]:
    yield b"retry: 2000\n\n"
    async for topics in services.changes.changes():
        if topics:
            yield b"event: change\ndata: " + orjson.dumps({"topics": topics}) + b"\n\n"
        else:
            yield b": nothing has changed\n\n"
