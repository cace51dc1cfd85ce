"""Serves sandboxes on loopback sockets in the running event loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Generator, Mapping
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from connector.sandbox.gate import TRANSPORT

HOST = "127.0.0.1"
_GRACE = 1.0
_KEEP_ALIVE = 65
"""Seconds until an idle connection is closed, which breaks a request that is sent just then."""


class _Protocol(HttpToolsProtocol):
    """Puts the transport into the scope, so that a fault can break the connection."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        extensions: dict[str, Any] = {TRANSPORT: self.transport}
        self.scope["extensions"] = extensions


class _Server(uvicorn.Server):
    """A server that does not handle the signals of the process."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.stopping = asyncio.Event()

    async def main_loop(self) -> None:
        # As in uvicorn, but it returns at once when the server stops.
        counter = 0
        while not await self.on_tick(counter):
            counter = (counter + 1) % 864_000
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.stopping.wait(), 0.1)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        if self.server_state.tasks:
            _, late = await asyncio.wait(self.server_state.tasks, timeout=_GRACE)
            if late:
                # A stalled request ends as soon as its connection does.
                for connection in list(self.server_state.connections):
                    connection.transport.abort()
                await asyncio.wait(late, timeout=_GRACE)
        # One iteration of the loop, in which the transports close.
        await asyncio.sleep(0)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


class Servers:
    """Running servers. `ports` maps a name to its port on 127.0.0.1."""

    def __init__(self) -> None:
        self.ports: dict[str, int] = {}
        self._running: list[tuple[_Server, asyncio.Task[None]]] = []

    def url(self, name: str) -> str:
        """The base URL of a server, without a trailing slash."""
        return f"http://{HOST}:{self.ports[name]}"

    async def start(self, name: str, app: ASGIApp, port: int) -> None:
        """Start an app; returns once it accepts connections. Raises OSError for a port in use."""
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
        except OSError as error:
            listener.close()
            reason = f"port {port} for the sandbox of {name}: {error.strerror}"
            raise OSError(error.errno, reason) from None
        config = uvicorn.Config(
            app,
            http=_Protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE,
        )
        server = _Server(config)
        task = asyncio.create_task(server.serve(sockets=[listener]), name=f"sandbox {name}")
        self._running.append((server, task))
        while not server.started:
            if task.done():
                await task
                raise OSError(f"the {name} sandbox did not start")
            await asyncio.sleep(0)
        self.ports[name] = listener.getsockname()[1]

    async def aclose(self) -> None:
        """Stop all servers. Requests in flight have one second before they are aborted."""
        for server, _ in self._running:
            server.should_exit = True
            server.stopping.set()
        await asyncio.gather(*(task for _, task in self._running))
        self._running.clear()


async def serve(apps: Mapping[str, tuple[ASGIApp, int]]) -> Servers:
    """Serve each app on 127.0.0.1 at its port (0: any free port). If one fails, all are stopped."""
    servers = Servers()
    try:
        for name, (app, port) in apps.items():
            await servers.start(name, app, port)
    except BaseException:
        await servers.aclose()
        raise
    return servers
