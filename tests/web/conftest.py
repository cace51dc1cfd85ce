"""The ASGI apps of a daemon, on a store in memory and without a socket."""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any, cast

import httpx
import pytest
import structlog
from sqlalchemy import select

from connector.domain.attention import AttentionItem
from connector.domain.lanes import Lane
from connector.pipeline.intake import Intake
from connector.pipeline.webhook_endpoint import WebhookEndpoint
from connector.platforms.jericommerce import PLATFORM
from connector.platforms.jericommerce.settings import Settings
from connector.runtime import log
from connector.runtime.metrics import Metrics
from connector.sandbox import JeriCommerceSandbox, Traffic
from connector.service import Commands, ConnectionRuntime
from connector.service.process import Process
from connector.store.tables import outbox
from connector.testing.fakes.clock import FakeClock
from connector.testing.fakes.lease import FakeLease
from connector.testing.fakes.store import InlineDatabase, memory_store
from connector.web.health import Health
from connector.web.server import application
from connector.web.webhooks import WebhookApp

SECRET = "jeri_webhook_secret"


class WebHarness:
    """A daemon's HTTP side: what platforms and operators call, and the store behind it."""

    def __init__(self) -> None:
        self.database = InlineDatabase()
        self.store = memory_store(self.database)
        self.clock = FakeClock()
        self.metrics = Metrics("test")
        self.lane: Lane
        self.wakes: list[str] = []
        self.problems: list[AttentionItem] = []
        self.scraping = asyncio.Event()
        self.may_scrape = asyncio.Event()
        self.may_scrape.set()
        self.runtimes: dict[str, ConnectionRuntime] = {}
        self.intake = Intake(self.store.outbox, self.store.action_intake)
        self.commands = Commands(
            self.store,
            self.clock,
            process=Process(
                clock=self.clock,
                runtimes=self.runtimes,
                problems=lambda: list(self.problems),
                activity=self.metrics.activity,
            ),
        )
        self.health = Health(self.clock, self.metrics, self.commands, self._scrape)
        webhooks = WebhookApp(self.runtimes.get, self.clock, self.metrics)
        self.shared = application(self.health, [webhooks], admin=True)
        self.public = application(self.health, [webhooks], admin=False)
        self.admin = application(self.health, admin=True)

    async def _scrape(self) -> None:
        self.scraping.set()
        await self.may_scrape.wait()
        self.metrics.set_backlog(await self.store.reports.backlog(), self.clock.now())
        self.metrics.set_dead_letters(await self.store.dead_letters.groups())

    def connect(self, name: str, *, enabled: bool = True, pushes: bool = True) -> None:
        """Add a connection to JeriCommerce. Its lane is not run: nothing here delivers."""
        self.runtimes[name] = ConnectionRuntime(
            name=name,
            title=PLATFORM.title,
            enabled=enabled,
            mapping="v1",
            account=None,
            lease=FakeLease(),
            events=cast(Any, None),
            webhook_endpoint=self._endpoint(name) if pushes else None,
        )

    def _endpoint(self, name: str) -> WebhookEndpoint:
        settings = Settings(program="demo", api_key="jeri_sandbox", webhook_secret=(SECRET,))
        assert PLATFORM.webhook
        return WebhookEndpoint(
            self.lane,
            PLATFORM.webhook(settings),
            self.intake,
            self.clock,
            self.metrics,
            wake=lambda _: self.wakes.append(name),
        )

    def stored(self) -> list[str]:
        """The unique ids of all stored records."""
        return list(
            self.database.execute(lambda c: c.execute(select(outbox.c.unique_id)).scalars())
        )

    def rejected(self) -> dict[str, float]:
        """Reason → how many webhooks were rejected for it."""
        [family] = self.metrics.rejected.collect()
        return {s.labels["reason"]: s.value for s in family.samples if s.value}


@pytest.fixture
async def harness() -> WebHarness:
    made = WebHarness()
    made.lane = await made.store.lanes.ensure("acme", "klaviyo", "event")
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
    """Makes signed webhooks; posts none."""
    return Traffic(JeriCommerceSandbox(), "unused")


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """Everything that is logged, as JSON lines."""
    out, before = io.StringIO(), structlog.get_config()
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    log.configure(format="json", level="debug", stream=out)
    yield out
    structlog.configure(**before)
    root.handlers[:] = handlers
    root.setLevel(level)
