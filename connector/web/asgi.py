"""Plain ASGI for hot paths: reads a bounded body, sends a short JSON answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

if TYPE_CHECKING:
    from starlette.types import Receive, Send

MAX_BODY = 1_048_576
MAX_BODIES = 67_108_864
"""Bytes of all bodies that are being received at a time: a caller is not authenticated yet then."""
JSON = (b"content-type", b"application/json")
RETRY_AFTER = (b"retry-after", b"5")


class TooLarge(Exception):
    """The body is larger than MAX_BODY."""


class TooMany(Exception):
    """The bodies that are being received are larger than allowed together."""


class ClientDisconnected(Exception):
    """The caller disconnected before the end of the body."""


class Bodies:
    """The bytes of bodies that are being received."""

    def __init__(self, limit: int = MAX_BODIES) -> None:
        self.left = limit

    def take(self, size: int) -> None:
        if size > self.left:
            raise TooMany
        self.left -= size

    def give_back(self, size: int) -> None:
        self.left += size


async def read_body(headers: dict[str, str], receive: Receive, bodies: Bodies) -> bytes:
    """The whole body. Raises TooLarge, before reading if content-length is too large already,
    TooMany and ClientDisconnected."""
    declared = headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > MAX_BODY:
        raise TooLarge
    parts: list[bytes] = []
    size = taken = 0
    try:
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
            bodies.take(len(part))
            taken += len(part)
            parts.append(part)
    finally:
        bodies.give_back(taken)


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
