"""Plain ASGI for the hot paths: a bounded body in, a short JSON out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

if TYPE_CHECKING:
    from starlette.types import Receive, Send

MAX_BODY = 1_048_576
JSON = (b"content-type", b"application/json")
RETRY_AFTER = (b"retry-after", b"5")


class TooLarge(Exception):
    """More than MAX_BODY."""


class ClientDisconnected(Exception):
    """The caller went away in mid-body."""


async def read_body(headers: dict[str, str], receive: Receive) -> bytes:
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
