"""Servers on loopback that break a connection at a chosen point."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from connector.net.http import Http
from connector.testing.fakes.clock import FakeClock

ACCEPTED = b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n"

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def listening(handler: Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """Host and port of a server that runs `handler` for each connection."""
    talking: set[asyncio.Task[None]] = set()

    async def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        talking.add(task)
        try:
            await handler(reader, writer)
        except asyncio.CancelledError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(on_connection, "127.0.0.1", 0, ssl=tls)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        for task in talking:
            task.cancel()
        server.close()


@asynccontextmanager
async def raw_server(
    handler: Handler, *, scheme: str = "http", tls: ssl.SSLContext | None = None, **more: Any
) -> AsyncIterator[Http]:
    """An Http that calls a server which runs `handler` for each connection."""
    async with listening(handler, tls) as address:
        http = make_http(f"{scheme}://{address}", **more)
        try:
            yield http
        finally:
            await http.aclose()


def make_http(base_url: str, **more: Any) -> Http:
    return Http(base_url, vendor="klaviyo", clock=FakeClock(), credential=dict, **more)


async def read_request(reader: asyncio.StreamReader) -> bytes:
    """The head of one request, which is read with its body."""
    head = await reader.readuntil(b"\r\n\r\n")
    if length := re.search(rb"content-length: (\d+)", head.lower()):
        await reader.readexactly(int(length[1]))
    return head


def reset(writer: asyncio.StreamWriter) -> None:
    """Break the connection with a RST."""
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
