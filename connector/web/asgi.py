"""Plain ASGI for hot paths: reads a bounded body, sends a short JSON answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

if TYPE_CHECKING:
    from starlette.types import Receive, Send

MAX_BODY = 1_048_576
JSON = (b"content-type", b"application/json")
RETRY_AFTER = (b"retry-after", b"5")


class TooLarge(Exception):
    """The body is larger than MAX_BODY."""


class ClientDisconnected(Exception):
    """The caller disconnected before the end of the body."""


async def read_body(headers: dict[str, str], receive: Receive) -> bytes:
    """The whole body. Raises TooLarge, before reading if content-length is too large already, and
    ClientDisconnected."""
    declared = headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > MAX_BODY:
        raise TooLarge
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientDisconnected
        part = message.get("body", b"")
        size += len(part)
        if size > MAX_BODY:
            raise TooLarge
        if not message.get("more_body"):
            return b"".join((*parts, part)) if parts else part
        parts.append(part)


async def send_json(
    send: Send, status: int, payload: dict[str, str], *headers: tuple[bytes, bytes]
) -> None:
    await send_response(send, status, orjson.dumps(payload), JSON, *headers)


async def send_response(
    send: Send, status: int, body: bytes, *headers: tuple[bytes, bytes]
) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body})
