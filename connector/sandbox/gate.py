"""The layer around a sandbox's app: authorization, rate limits, fault injection, request counts.

It wraps the Starlette app because a fault may apply a request and then drop, truncate or delay the
response, which a route handler cannot do.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from connector.sandbox.faults import Fault, Faults
from connector.sandbox.limits import Header

TRANSPORT = "connector.sandbox.transport"
"""Key in the ASGI scope's `extensions` for the connection's transport, set by `serve.py`."""

_CHALLENGE = (
    b"<!DOCTYPE html><html><head><title>Just a moment...</title></head><body>"
    b"<h1>Checking if the site connection is secure</h1></body></html>"
)
_UNCOUNTED = frozenset((401, 429))
"""Refusals that come before quota is counted: they have no headers of it."""
_RESET_NOT_CLOSE = struct.pack("ii", 1, 0)


class JSON(Response):
    """A JSON response, encoded by orjson."""

    media_type = "application/json"

    def render(self, content: object) -> bytes:
        return orjson.dumps(content)


@dataclass(frozen=True, slots=True)
class Operation:
    """`label`: method and route template. `endpoint`: the short name that faults use."""

    label: str
    endpoint: str


class Platform(Protocol):
    """What the gate needs from the platform."""

    def operation(self, method: str, path: str) -> Operation:
        """The operation of a request; unknown paths share one."""

    def authorize(
        self, scope: Scope, operation: Operation
    ) -> tuple[Response | None, Sequence[Header]]:
        """The response if the request is rejected, and headers for every response."""

    def refusal(self, status: int, pointers: Sequence[str]) -> Response:
        """An error response in the platform's format."""

    def locate(self, body: bytes, match: str) -> Sequence[str]:
        """Where the body contains `match`, in the platform's notation."""

    def state(self) -> dict[str, object]:
        """Counters for `GET /_sandbox/state`."""


class Gate:
    """An ASGI app around `inner`. `requests` counts responses by operation and status; "reset" if
    there was no response."""

    def __init__(self, inner: ASGIApp, platform: Platform, faults: Faults) -> None:
        self._inner = inner
        self._platform = platform
        self._faults = faults
        self.requests: defaultdict[str, Counter[str]] = defaultdict(Counter)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith("/_sandbox/"):
            await self._inner(scope, receive, send)
            return
        body = await _read(receive)
        if body is None:
            return  # the client disconnected before the body was complete
        operation = self._platform.operation(scope["method"], scope["path"])
        rejected, headers = self._platform.authorize(scope, operation)
        counter = self.requests[operation.label]
        out = _Out(send, headers, counter)
        if rejected is not None:
            await rejected(scope, receive, out)
            return
        fault = self._faults.pick(operation.endpoint, scope["method"], body)
        if fault is None:
            await self._inner(scope, _replay(body), out)
            return
        if fault.kind == "html403" or fault.status in _UNCOUNTED:
            out = _Out(send, (), counter)
        await self._inject(fault, scope, body, receive, out)

    async def _inject(
        self, fault: Fault, scope: Scope, body: bytes, receive: Receive, out: _Out
    ) -> None:
        answer: list[Message] = []
        if fault.takes_effect:

            async def capture(message: Message) -> None:
                answer.append(message)

            await self._inner(scope, _replay(body), capture)

        match fault.kind:
            case "reset_before" | "reset_after":
                out.counter["reset"] += 1
                await _close_connection(scope, receive, reset=True)
            case "truncate":
                await _truncate(scope, receive, out, answer)
            case "stall":
                if await _client_disconnected(receive, fault.seconds):
                    out.counter["reset"] += 1
                    return
                if not answer:
                    await self._platform.refusal(fault.status or 503, ())(scope, receive, out)
                for message in answer:
                    await out(message)
            case "empty_job_id":
                for message in _without_id(answer):
                    await out(message)
            case "html403":
                await Response(
                    _CHALLENGE,
                    403,
                    {"cf-mitigated": "challenge", "server": "cloudflare"},
                    "text/html; charset=UTF-8",
                )(scope, receive, out)
            case "poison":
                where = self._platform.locate(body, fault.match or "") if fault.pointer else ()
                await self._platform.refusal(400, where)(scope, receive, out)
            case "status":
                response = self._platform.refusal(fault.status or 500, ())
                if fault.retry_after is not None:
                    response.headers["retry-after"] = str(fault.retry_after)
                await response(scope, receive, out)


class _Out:
    """Forwards messages, adds headers to the response and counts its status."""

    def __init__(self, send: Send, headers: Sequence[Header], counter: Counter[str]) -> None:
        self._send = send
        self._headers = headers
        self.counter = counter

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.counter[str(message["status"])] += 1
            if self._headers:
                message = {**message, "headers": [*message["headers"], *self._headers]}
        await self._send(message)


def control_routes(platform: Platform, faults: Faults) -> list[Route]:
    """`/_sandbox/state` and `/_sandbox/faults`, the same for every platform."""

    async def state(_: Request) -> Response:
        return JSON(platform.state())

    async def add(request: Request) -> Response:
        try:
            given = orjson.loads(await request.body())
            if not isinstance(given, dict):
                raise ValueError("a fault is a JSON object")
            faults.parse(given)
        except ValueError as error:
            return JSON({"error": str(error)}, 400)
        return JSON({"faults": len(faults)}, 201)

    async def clear(_: Request) -> Response:
        faults.clear()
        return Response(status_code=204)

    return [
        Route("/_sandbox/state", state, methods=["GET"]),
        Route("/_sandbox/faults", add, methods=["POST"]),
        Route("/_sandbox/faults", clear, methods=["DELETE"]),
    ]


async def _read(receive: Receive) -> bytes | None:
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


def _replay(body: bytes) -> Callable[[], Awaitable[Message]]:
    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


async def _client_disconnected(receive: Receive, seconds: float) -> bool:
    """Wait up to `seconds`; True as soon as the client has disconnected."""
    try:
        async with asyncio.timeout(seconds):
            while (await receive())["type"] != "http.disconnect":
                pass
    except TimeoutError:
        return False
    return True


async def _close_connection(scope: Scope, receive: Receive, *, reset: bool) -> None:
    """Close the connection: by a TCP reset, or after flushing what was written."""
    transport: asyncio.Transport | None = (scope.get("extensions") or {}).get(TRANSPORT)
    if transport is None:
        raise ConnectionResetError("the sandbox reset the connection")
    if reset:
        connection = transport.get_extra_info("socket")
        # Without this the kernel would send FIN instead of RST.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_NOT_CLOSE)
        transport.abort()
    else:
        transport.close()
    while (await receive())["type"] != "http.disconnect":
        pass


def _without_id(answer: Sequence[Message]) -> list[Message]:
    """The same response with "" as `data.id`; an error response is unchanged."""
    start = next(m for m in answer if m["type"] == "http.response.start")
    body = b"".join(m.get("body", b"") for m in answer if m["type"] == "http.response.body")
    try:
        parsed = orjson.loads(body)
        parsed["data"]["id"] = ""
    except (ValueError, KeyError, TypeError):
        return list(answer)
    body = orjson.dumps(parsed)
    headers = [h for h in start["headers"] if h[0].lower() != b"content-length"]
    headers.append((b"content-length", str(len(body)).encode()))
    return [{**start, "headers": headers}, {"type": "http.response.body", "body": body}]


async def _truncate(scope: Scope, receive: Receive, out: _Out, answer: Sequence[Message]) -> None:
    start = next(m for m in answer if m["type"] == "http.response.start")
    body = b"".join(m.get("body", b"") for m in answer if m["type"] == "http.response.body")
    body = body or b'{"data":{"type":"nothing"}}'
    headers = [h for h in start["headers"] if h[0].lower() != b"content-length"]
    headers.append((b"content-length", str(len(body)).encode()))
    await out({**start, "headers": headers})
    await out({"type": "http.response.body", "body": body[: len(body) // 2], "more_body": True})
    await _close_connection(scope, receive, reset=False)
