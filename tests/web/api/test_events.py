"""The stream of changes, over a real socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from connector.runtime.changes import TOPICS
from connector.web.server import Server
from tests.callers import caller_of
from tests.waiting import async_until

from .conftest import VIEWER, ApiHarness

ALL_TOPICS = f"data: {json.dumps({'topics': sorted(TOPICS)}, separators=(',', ':'))}"


@pytest.fixture
async def server(harness: ApiHarness) -> AsyncIterator[Server]:
    server = Server(harness.app, "127.0.0.1", 0, grace=5, key="server.port")
    await server.start()
    yield server
    harness.changes.close()
    await server.stop()


async def test_a_change_is_announced_and_a_stop_ends_the_stream(
    harness: ApiHarness, server: Server
) -> None:
    lines: list[str] = []
    opened = asyncio.Event()

    async def watch() -> None:
        url = f"http://127.0.0.1:{server.port}/api/v1/events"
        async with (
            caller_of(headers=VIEWER) as http,
            http.stream("GET", url, timeout=30) as answer,
        ):
            assert answer.headers["content-type"].startswith("text/event-stream")
            async for line in answer.aiter_lines():
                lines.append(line)
                if line == ALL_TOPICS:
                    opened.set()

    watching = asyncio.create_task(watch())
    async with asyncio.timeout(20):
        await opened.wait()
        for _ in range(100):
            harness.changes.publish("status")
        harness.changes.publish("approvals")
        expected = 'data: {"topics":["approvals","status"]}'
        await async_until("the change is announced", lambda: expected in lines)
        assert lines.count("event: change") == 2
        harness.changes.close()
        await watching
    assert not harness.changes.watched


async def test_a_stranger_may_not_watch(harness: ApiHarness) -> None:
    async with harness.client() as http:
        assert (await http.get("/api/v1/events")).status_code == 401
