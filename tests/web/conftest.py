"""The ASGI apps of a daemon on a store in memory, without a socket."""

from __future__ import annotations

import io
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any, cast

import httpx
import pytest
import structlog
from sqlalchemy import select

from connector.domain.lanes import Lane, LaneId
from connector.pipeline import intake as taking
from connector.pipeline.intake import Intake
from connector.platforms.jericommerce import PLATFORM
from connector.platforms.jericommerce.settings import Settings
from connector.runtime import log
from connector.runtime.metrics import Metrics
from connector.sandbox import JeriCommerceSandbox, Traffic
from connector.service import Commands, ConnectionRuntime
from connector.store.tables import outbox
from connector.testing.fakes.clock import FakeClock
from connector.testing.fakes.store import InlineDatabase, memory_store
from connector.web.health import Health
from connector.web.server import application
from connector.web.webhooks import WebhookApp

SECRET = "jeri_webhook_secret"


class WebHarness:
    """What a platform calls, what a person asks, and what stands behind both."""

    def __init__(self, lane: Lane, database: InlineDatabase) -> None:
        self.database, self.clock, self.lane = database, FakeClock(), lane
        self.store = store = memory_store(database)
        self.metrics = Metrics("test")
        self.arrived: list[LaneId] = []
        self.trouble: list[str] = []
        self.scrapes = 0
        self.runtimes: dict[str, ConnectionRuntime] = {}
        self.intake = Intake(store, self.clock, self.metrics, on_ready=self.arrived.append)
        self.commands = Commands(
            store, self.clock, runtimes=self.runtimes, problems=lambda: list(self.trouble)
        )
        self.health = Health(self.clock, self.metrics, self.commands, self._scrape)
        webhooks = WebhookApp(self.runtimes.get, self.intake, self.clock, self.metrics)
        self.shared = application(webhooks, self.health, admin=True)
        self.public = application(webhooks, self.health, admin=False)
        self.admin = application(None, self.health, admin=True)

    async def _scrape(self) -> None:
        self.scrapes += 1
        self.metrics.set_backlog(await self.store.reports.backlog(), self.clock.now())
        self.metrics.set_dead_letters(await self.store.reports.dead_by_cause())

    def connect(self, name: str, *, enabled: bool = True, pushes: bool = True) -> None:
        """A connection to JeriCommerce. Its lane is not run: nothing here delivers."""
        settings = Settings(program="demo", api_key="jeri_sandbox", webhook_secret=(SECRET,))
        assert PLATFORM.webhook
        self.runtimes[name] = ConnectionRuntime(
            name=name,
            title=PLATFORM.title,
            enabled=enabled,
            mapping="v1",
            account=None,
            events=cast(Any, None),
            webhook_endpoint=taking.WebhookEndpoint(self.lane, PLATFORM.webhook(settings))
            if pushes
            else None,
        )

    def stored(self) -> list[str]:
        """The unique ids in the outbox."""
        return list(
            self.database.execute(lambda c: c.execute(select(outbox.c.unique_id)).scalars())
        )

    def refused(self) -> dict[str, float]:
        """Reason → how many webhooks were refused for it."""
        [family] = self.metrics.rejected.collect()
        return {s.labels["reason"]: s.value for s in family.samples if s.value}


@pytest.fixture
async def harness() -> WebHarness:
    database = InlineDatabase()
    lane = await memory_store(database).lanes.ensure("acme", "klaviyo", "event")
    made = WebHarness(lane, database)
    made.connect("acme")
    made.connect("resting", enabled=False)
    made.connect("pollable", pushes=False)
    return made


@pytest.fixture
async def http(harness: WebHarness) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(harness.shared), base_url="http://connector.test"
    ) as caller:
        yield caller


@pytest.fixture
def traffic() -> Traffic:
    """Only makes signed webhooks."""
    return Traffic(JeriCommerceSandbox(), "unused")


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """Everything that is logged, as it would be written."""
    out, before = io.StringIO(), structlog.get_config()
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    log.configure(format="json", level="debug", stream=out)
    yield out
    structlog.configure(**before)
    root.handlers[:] = handlers
    root.setLevel(level)
