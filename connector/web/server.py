"""The ASGI app of a port, and uvicorn in the daemon's event loop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import resource
import socket
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import uvicorn
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from connector.domain.errors import ConfigError
from connector.web.asgi import BodyLimit
from connector.web.health import Health
from connector.web.protocol import Limits, limited_protocol

_BACKLOG = 2048
_MIN_GRACE = 0.5
"""Seconds for the commit of a call that was read already."""
_CLOSING = 0.01
_OTHER_FILES = 512
"""Open files besides the connections of the ports: the store, outgoing connections, libraries."""
_HEALTH_PATHS = ("/livez", "/readyz", "/healthz", "/metrics")


class PrefixApp(Protocol):
    """An ASGI app for all paths below `prefix`."""

    @property
    def prefix(self) -> str: ...

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...


def application(
    health: Health,
    endpoints: Sequence[PrefixApp] = (),
    *,
    admin: bool,
    api: ASGIApp | None = None,
    console: ASGIApp | None = None,
) -> ASGIApp:
    """The ASGI app of one port: health, and the endpoints that it is given.

    `admin`: metrics as well, which only operators may read, `api` below `/api/`, and `console`
    for every other path.
    """
    routes = [
        Route("/livez", health.livez),
        Route("/readyz", health.readyz),
        Route("/healthz", health.healthz),
    ]
    if admin:
        routes.append(Route("/metrics", health.metrics))
    pages = Starlette(routes=routes)
    api = BodyLimit(api) if api else None
    console = BodyLimit(console) if console else None

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            for endpoint in endpoints:
                if scope["path"].startswith(endpoint.prefix):
                    await endpoint(scope, receive, send)
                    return
            if admin and api and scope["path"].startswith("/api/"):
                return await api(scope, receive, send)
            if admin and console and scope["path"] not in _HEALTH_PATHS:
                return await console(scope, receive, send)
        await pages(scope, receive, send)

    return app


def allow_connections(count: int) -> bool:
    """Raise this process's limit of open files, where the system permits it, so that `count`
    connections and as many that are being refused do not exhaust it. Whether that is so now."""
    needed = 2 * count + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return soft == resource.RLIM_INFINITY or soft >= needed


class _Embedded(uvicorn.Server):
    """A server that stops at once and ends with the last answer: uvicorn looks for both ten times a
    second."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.accepting = asyncio.Event()
        self.stopping = asyncio.Event()

    async def main_loop(self) -> None:
        counter = 0
        while not await self.on_tick(counter):
            counter = (counter + 1) % 864_000
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.stopping.wait(), 0.1)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for listener in (*self.servers, *(sockets or ())):
            listener.close()
        state = self.server_state
        for connection in list(state.connections):
            connection.shutdown()
        await asyncio.sleep(0)
        left: Any = self.config.timeout_graceful_shutdown
        while (state.connections or state.tasks) and left > 0:
            await asyncio.sleep(_CLOSING)
            left -= _CLOSING
        for task in state.tasks:
            task.cancel()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.accepting.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the daemon, which stops intake first and lanes last."""
        yield


class Server:
    """One port. `key` is its configuration key. Without an `app`, `/livez` answers 200 and every
    other path 503; `app` may be set later. `grace` is in seconds."""

    def __init__(
        self,
        app: ASGIApp | None,
        host: str,
        port: int,
        *,
        grace: float,
        key: str,
        limits: Limits | None = None,
    ) -> None:
        self.app = app
        config = uvicorn.Config(
            self._answer,
            host=host,
            port=port,
            log_config=None,
            access_log=False,
            interface="asgi3",
            lifespan="off",
            loop="none",
            http=limited_protocol(limits or Limits()),
            ws="none",
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=max(1, round(grace)),
            timeout_keep_alive=65,
        )
        self._server = _Embedded(config)
        self.key = key
        self._host, self._port = host, port
        self.port = port
        """The port that is listened on, also after port 0 was requested."""
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen. Raises ConfigError for a port in use or a host of another machine."""
        # uvicorn ends the process when it cannot bind, so it gets a socket that listens already.
        # Binding alone is not enough: two sockets can bind one port with SO_REUSEADDR.
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        listener = socket.socket(family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((self._host, self._port))
            listener.listen(_BACKLOG)
        except OSError as error:
            listener.close()
            raise ConfigError([self._fault(error)]) from error
        self.port = int(listener.getsockname()[1])
        self._task = asyncio.create_task(self._server.serve(sockets=[listener]))
        accepting = asyncio.create_task(self._server.accepting.wait())
        await asyncio.wait({accepting, self._task}, return_when=asyncio.FIRST_COMPLETED)
        accepting.cancel()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        alive = scope["path"] == "/livez"
        early = PlainTextResponse("starting\n", 200 if alive else 503, {"retry-after": "5"})
        await (self.app or early)(scope, receive, send)

    def _fault(self, error: OSError) -> str:
        """The configuration key to change, and why."""
        where = f"{self._host}:{self._port}"
        if error.errno == errno.EADDRINUSE:
            return f"{self.key}: {where} is taken by another program, allowed a free port"
        key = self.key if isinstance(error, PermissionError) else "server.host"
        return f"{key}: {where} cannot be listened on: {error.strerror or error}"

    async def stop(self, grace: float | None = None) -> None:
        """Accept no new requests and answer those in flight, within the grace period, or what is
        left of it."""
        if grace is not None:
            left: Any = max(_MIN_GRACE, grace)
            self._server.config.timeout_graceful_shutdown = left
        self._server.should_exit = True
        self._server.stopping.set()
        if self._task:
            await self._task
