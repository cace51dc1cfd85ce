"""The API over a store in memory, with a loop that carries commands out as the daemon does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from connector.config import Config
from connector.config.models import Console
from connector.domain.errors import Problem
from connector.domain.lanes import DeliveryMode, Lane
from connector.domain.outcomes import Dead
from connector.domain.records import Page, Record
from connector.platforms.jericommerce import PLATFORM
from connector.ports import Fence, RetryPolicy
from connector.runtime.changes import TOPICS, ChangeFeed
from connector.runtime.clock import SystemClock
from connector.runtime.encryption import Seal
from connector.service import Commands
from connector.service.webhook_builder import FlowTarget, InvalidStep
from connector.testing.fakes.store import InlineDatabase, memory_store
from connector.web.access import Access
from connector.web.api.app import Api
from connector.web.api.context import ApiServices
from connector.web.sessions import Sessions

OPERATOR = {"authorization": "Bearer op-token"}
VIEWER = {"authorization": "Bearer view-token"}
FLOW_SECRET = "flow_secret_of_acme"
_A_YEAR = 365 * 86_400_000


class ApiHarness:
    """A store, the service on it, and the API."""

    def __init__(self, console: Console) -> None:
        self.clock = SystemClock()
        self.store = memory_store(InlineDatabase())
        self.changes = ChangeFeed(self.clock)
        self.commands = Commands(
            self.store, self.clock, on_executed=lambda: self.changes.publish(*TOPICS)
        )
        seal = Seal(self.clock, (), lifetime=3600)
        self.seal = seal
        self.access = Access(lambda: console, self.clock, Sessions(seal))
        self.app = Api(
            ApiServices(self.commands, self.access, self.changes, seal, Config, self._flow_target)
        )
        self.lane: Lane
        self.fence: Fence

    def _flow_target(self, connection: str) -> FlowTarget:
        if connection == "closed":
            raise InvalidStep("connection 'closed' has no [connections.actions] table")
        if connection != "acme":
            raise KeyError(connection)
        return FlowTarget(
            address="https://loyalty.example.com/flows/acme",
            title="JeriCommerce",
            offers=PLATFORM.offers,
            secret=FLOW_SECRET,
            max_amount=10_000,
            repeat_window=25 * 3600,
            key_retention=400 * 86_400,
            birthdate="birthdate",
        )

    async def open(self) -> None:
        self.lane = await self.store.lanes.ensure("acme", "klaviyo", "event")
        fence = await self.store.leases.acquire("store", "one", now=self.clock.now(), ttl=_A_YEAR)
        assert isinstance(fence, Fence)
        self.fence = fence

    async def execute_commands(self) -> None:
        while True:
            await self.commands.execute_pending()
            await asyncio.sleep(0.005)

    async def dead_letters(self, *keys: str, problem: Problem = Problem.KLAVIYO_REFUSED) -> None:
        """Store records with these keys, and let all of them die."""
        now = self.clock.now()
        records = [
            Record(key, f"test:{key}", "Balance changed", now, b"{}", email=f"{key}@example.com")
            for key in keys
        ]
        await self.store.outbox.append([Page(self.lane, "webhook", records, now)])
        claim = await self.store.outbox.claim(
            self.lane, self.fence, now=now, limit=1_000, mode=DeliveryMode.BATCH, mapping="v1"
        )
        assert claim
        dead = [Dead(entry.seq, problem) for entry in claim.entries]
        await self.store.outbox.settle(claim, dead, now=now, policy=RetryPolicy(1))

    def client(self, peer: str = "127.0.0.1", **options: Any) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(app=self.app, client=(peer, 1), raise_app_exceptions=False)
        return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", **options)


@pytest.fixture
async def make_api() -> AsyncIterator[Callable[[Console], Any]]:
    """Makes an API with this `[console]`."""
    tasks: list[asyncio.Task[None]] = []

    async def make(console: Console) -> ApiHarness:
        harness = ApiHarness(console)
        await harness.open()
        tasks.append(asyncio.create_task(harness.execute_commands()))
        return harness

    yield make
    for task in tasks:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.fixture
async def harness(make_api: Callable[[Console], Any]) -> ApiHarness:
    """With a token for an operator and one for a viewer."""
    tokens = (SecretStr("ci:operator:op-token"), SecretStr("board:viewer:view-token"))
    found: ApiHarness = await make_api(Console(password=["secret"], api_tokens=tokens))
    return found


@pytest.fixture
async def operator(harness: ApiHarness) -> AsyncIterator[httpx.AsyncClient]:
    async with harness.client("203.0.113.9", headers=OPERATOR) as client:
        yield client


@pytest.fixture
async def viewer(harness: ApiHarness) -> AsyncIterator[httpx.AsyncClient]:
    async with harness.client("203.0.113.9", headers=VIEWER) as client:
        yield client
