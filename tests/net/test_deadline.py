"""Every call ends: a remote API that trickles its answer holds up no lane."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from connector.domain.errors import AmbiguousError, Problem
from connector.net.http import CallStats, Http, get
from connector.runtime.clock import SystemClock
from connector.testing.fakes.clock import run_pending

_GUARD = 20.0
"""Seconds after which a call that does not end fails the test."""


class TricklingServer:
    """Answers 200 and then sends a byte now and then for as long as it is listened to."""

    def __init__(self) -> None:
        self.closed = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n")
            while not reader.at_eof():
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.01)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.closed.set()
            writer.close()


@pytest.fixture
async def trickling() -> AsyncIterator[tuple[TricklingServer, str]]:
    made = TricklingServer()
    listener = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    yield made, f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    listener.close()


async def test_a_call_ends_at_its_deadline_however_the_answer_trickles(
    trickling: tuple[TricklingServer, str],
) -> None:
    server, url = trickling
    seen: list[CallStats] = []
    http = Http(
        url,
        vendor="platform",
        clock=SystemClock(),
        credential=dict,
        timeout=5.0,
        deadline=0.2,
        on_call=seen.append,
    )
    async with asyncio.timeout(_GUARD):
        with pytest.raises(AmbiguousError) as caught:
            await http.call("POST", "/events", route="POST /events", content=b"{}")
        await server.closed.wait()
    assert caught.value.problem is Problem.TIMED_OUT
    assert [call.status for call in seen] == [None]
    await http.aclose()


async def test_a_cancelled_call_stays_cancelled(trickling: tuple[TricklingServer, str]) -> None:
    _, url = trickling
    http = Http(url, vendor="platform", clock=SystemClock(), credential=dict)
    call = asyncio.create_task(http.call("GET", "/", route="GET /"))
    await run_pending()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await http.aclose()


async def test_a_health_check_ends_too(
    trickling: tuple[TricklingServer, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, url = trickling
    monkeypatch.setattr("connector.net.http._GET_DEADLINE", 0.2)
    async with asyncio.timeout(_GUARD):
        assert await get(url) == (0, "no answer: TimeoutError")
