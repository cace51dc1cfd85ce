"""Server-sent events."""

from __future__ import annotations

from collections.abc import AsyncIterator

from starlette.responses import StreamingResponse

HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}


def event_stream(events: AsyncIterator[tuple[str, bytes] | None]) -> StreamingResponse:
    """Sends (name, JSON) as they come; None is a comment, which keeps the connection open."""
    return StreamingResponse(_encoded(events), media_type="text/event-stream", headers=HEADERS)


async def _encoded(events: AsyncIterator[tuple[str, bytes] | None]) -> AsyncIterator[bytes]:
    yield b"retry: 2000\n\n"
    async for event in events:
        if event is None:
            yield b": nothing has changed\n\n"
        else:
            name, data = event
            yield b"event: %s\ndata: %s\n\n" % (name.encode(), data)
