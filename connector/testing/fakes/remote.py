"""A remote API in this process whose answers to writes a test scripts."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import orjson

from connector.testing.fakes.ports import App

Answer = Callable[[App, Any, Any, Any], Awaitable[None]]
"""Answers one request: (the application behind, scope, receive, send)."""

_JSON = (b"content-type", b"application/json")


def respond(status: int, *headers: tuple[bytes, bytes], body: Any = None) -> Answer:
    """This status with a JSON body. The application does not see the request."""

    async def answer(app: App, scope: Any, receive: Any, send: Any) -> None:
        found = [_JSON, *headers]
        await send({"type": "http.response.start", "status": status, "headers": found})
        await send({"type": "http.response.body", "body": orjson.dumps(body or {"errors": []})})

    return answer


def challenge() -> Answer:
    """A 403 with a web page, as of a gateway."""

    async def answer(app: App, scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-type", b"text/html")]
        await send({"type": "http.response.start", "status": 403, "headers": headers})
        await send({"type": "http.response.body", "body": b"<html>"})

    return answer


def lose(error: type[Exception] = ConnectionResetError, *, applied: bool = False) -> Answer:
    """No answer: ConnectionResetError, ConnectionRefusedError or TimeoutError (see
    connector.net.http.in_process). With `applied` the application got the request."""

    async def answer(app: App, scope: Any, receive: Any, send: Any) -> None:
        if applied:
            await app(scope, receive, _discard)
        raise error

    return answer


async def _discard(message: Any) -> None: ...


class ScriptedRemote:
    """An ASGI application in front of another. A write takes the next of `script`, else `default`,
    else it reaches the application; a read takes `reads`, else it reaches it. While `open` is
    cleared, writes wait."""

    def __init__(self, app: App) -> None:
        self._app = app
        self.script: deque[Answer] = deque()
        self.default: Answer | None = None
        self.reads: Answer | None = None
        self.open = asyncio.Event()
        self.open.set()
        self.requests: list[tuple[str, str]] = []
        """(method, path) of every request, in the order of their arrival."""
        self.bodies: list[bytes] = []
        """The body of every write that was not lost on its way."""

    @property
    def writes(self) -> Sequence[str]:
        """The paths of all writes."""
        return [path for method, path in self.requests if method != "GET"]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.requests.append((scope["method"], scope["path"]))
        if scope["method"] == "GET":
            answer = self.reads
        else:
            await self.open.wait()
            answer = self.script.popleft() if self.script else self.default
            receive = self._keep_body(receive)
        if answer is None:
            return await self._app(scope, receive, send)
        await answer(self._app, scope, receive, send)

    def _keep_body(self, receive: Any) -> Any:
        body = bytearray()

        async def received() -> Any:
            message = await receive()
            body.extend(message.get("body", b""))
            if not message.get("more_body"):
                self.bodies.append(bytes(body))
            return message

        return received


def accept_writes(app: App) -> App:
    """An application that answers every write with 202 and passes reads to `app`: for endpoints
    that no sandbox has yet."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["method"] == "GET":
            return await app(scope, receive, send)
        await respond(202, body={"data": {}})(app, scope, receive, send)

    return application
