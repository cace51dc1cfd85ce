"""Plain ASGI: reads a bounded body, sends a short JSON answer, and limits the bodies of an app."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import orjson

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

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


class DeferredApp:
    """An app that `build` makes, in a thread, when the first request comes."""

    def __init__(self, build: Callable[[], ASGIApp]) -> None:
        self._build = build
        self._building = asyncio.Lock()
        self._app: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._building:
            if self._app is None:
                self._app = await asyncio.to_thread(self._build)
            app = self._app
        await app(scope, receive, send)


class BodyLimit:
    """An app that reads bodies itself, of which none is larger than MAX_BODY: 413 (guarantee 14).
    A larger one is not read to its end."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > MAX_BODY:
            await _refuse_body(send)
            return
        size, started = 0, False

        async def limited() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > MAX_BODY:
                raise TooLarge
            return message

        async def answer(message: Message) -> None:
            nonlocal started
            if started or size <= MAX_BODY:  # what it makes of the error is not sent
                started = True
                await send(message)

        with contextlib.suppress(TooLarge):
            await self._app(scope, limited, answer)
        if size > MAX_BODY and not started:
            await _refuse_body(send)


async def _refuse_body(send: Send) -> None:
    detail = "body: larger than 1 MiB"
    problem = {"title": "Content Too Large", "status": 413, "detail": detail}
    kind = (b"content-type", b"application/problem+json")
    await send_response(send, 413, orjson.dumps(problem), kind)


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
