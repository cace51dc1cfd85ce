"""The stream of changes of a running daemon: what an open page learns of, and how it ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from connector.app.daemon import App
from connector.domain.errors import Problem
from connector.domain.lanes import Lane, LaneId, Millis
from connector.domain.memberships import Link
from connector.runtime.changes import TOPICS, ChangeFeed
from connector.runtime.clock import SystemClock
from connector.runtime.metrics import Metrics
from connector.service.changes import StoreChanges
from tests.callers import caller_of
from tests.platforms.plugins.daemon import running
from tests.waiting import async_until

CONFIG = """\
[store]
url = "sqlite:///state.db"
min_free = "1MB"

[server]
port = 0
"""


class Page:
    """An open page: the topics that were announced to it, one set for each announcement."""

    def __init__(self) -> None:
        self.announced: list[set[str]] = []
        self.ended = False

    async def watch(self, port: int) -> None:
        url = f"http://127.0.0.1:{port}/api/v1/events"
        async with caller_of() as http, http.stream("GET", url, timeout=60) as answer:
            async for line in answer.aiter_lines():
                if line.startswith("data: "):
                    self.announced.append(set(json.loads(line.removeprefix("data: "))["topics"]))
        self.ended = True

    async def until(self, topic: str) -> None:
        """Wait for the next announcement of this topic, and forget all before it."""
        await async_until(
            f"{topic} is announced", lambda: any(topic in topics for topics in self.announced)
        )
        self.announced.clear()


@asynccontextmanager
async def open_page(app: App) -> AsyncIterator[Page]:
    page = Page()
    watching = asyncio.create_task(page.watch(app.port))
    yield page
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)


@pytest.fixture
async def app(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restore_logging_config: None
) -> AsyncIterator[App]:
    async with running(tmp_path, CONFIG, {}, {}, monkeypatch) as made:
        yield made.app


async def test_what_workers_change_is_announced(app: App) -> None:
    now = app.clock.now()
    async with open_page(app) as page:
        await page.until("connections")
        await app.store.approvals.request("acme", "removal", "Gold", {"people": 9}, now=now)
        await page.until("approvals")
        run = await app.store.backfills.begin("acme", "seen", {}, now=now)
        await page.until("backfills")
        await app.store.backfills.set_state(run.id, "done", now=now)
        await page.until("backfills")
        lane = await app.store.lanes.ensure("acme", "klaviyo", "membership")
        await app.store.member_groups.set_links(lane, [Link("Gold", "Gold members")], account="a")
        await page.until("status")
        group = (await app.store.member_groups.all())[0]
        await app.store.member_groups.set_problem(group.id, Problem.GROUP_NOT_FOUND, "gone")
        await page.until("status")


async def test_what_is_refused_and_what_an_import_job_did_is_announced() -> None:
    metrics, announced = Metrics("1"), []
    metrics.on_change = announced.append
    metrics.record_rejected("acme", "signature", Millis(1))
    lane = Lane(LaneId(1), "acme", "klaviyo", "profile")
    metrics.record_job_closed(lane, 5, 0, Millis(1))
    metrics.record_job_closed(lane, 5, 1, Millis(1))
    assert announced == ["status", "status", "dead-letters"]


async def test_a_page_learns_of_what_changed_while_it_connected() -> None:
    feed = ChangeFeed(SystemClock())
    async for topics in feed.changes():
        assert set(topics) == set(TOPICS)
        break


async def test_nothing_is_read_while_no_page_is_open() -> None:
    no_store: Any = None
    await StoreChanges(no_store, ChangeFeed(SystemClock())).compare()
