"""The console over a store in memory."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import pytest
from playwright.async_api import Browser as PlaywrightBrowser
from playwright.async_api import async_playwright, expect

from connector.app.setup import connection_setup
from connector.config import Config, Connection
from connector.config.models import Console as ConsoleConfig
from connector.console import Console, ConsoleServices
from connector.service.webhook_builder import FlowTarget
from tests.waiting import PATIENCE
from tests.web.api.conftest import ApiHarness, make_api

from .chromium import CHROMIUM, chromium_in

__all__ = ["make_api"]

CONNECTION = Connection(name="acme", source="jericommerce", mapping="gone/jericommerce.toml")
FLOWS = FlowTarget(
    address="http://127.0.0.1:8787/flows/acme",
    title="JeriCommerce",
    offers=frozenset({"increase", "decrease", "push"}),
    secret="a-flow-secret",
    max_amount=10_000,
    repeat_window=90_000,
    key_retention=34_560_000,
)
_TOKEN = re.compile(r'name="csrf_token" value="([^"]+)"')


class Browser:
    """A browser without script: follows redirects, keeps cookies, submits forms with their
    token."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http

    async def get(self, path: str) -> httpx.Response:
        return await self.http.get(path)

    async def submit(self, page: str, action: str, **fields: Any) -> httpx.Response:
        """Submit a form of `page` to `action`."""
        found = _TOKEN.search((await self.http.get(page)).text)
        assert found, f"{page} has no form"
        return await self.http.post(action, data={"csrf_token": found[1], **fields})

    async def sign_in(self, password: str) -> httpx.Response:
        return await self.submit("/sign-in", "/sign-in", password=password)


class ConsoleHarness:
    """A console, and browsers that look at it."""

    def __init__(self, api: ApiHarness) -> None:
        self.api = api
        self.sent: list[tuple[str, bytes]] = []

        def config() -> Config:
            return Config(connections=(CONNECTION,))

        services = ConsoleServices(
            api.commands,
            api.access,
            api.changes,
            api.seal,
            api.clock,
            config,
            self._flow_target,
            lambda name: frozenset(("events", "profiles", "segments", "actions")),
            self._send,
            connection_setup(api.store, api.clock, config, {}, api.changes),
        )
        self.app = Console(services)
        self.browsers: list[httpx.AsyncClient] = []

    def _flow_target(self, name: str) -> FlowTarget:
        if name != CONNECTION.name:
            raise KeyError(name)
        return FLOWS

    async def _send(self, url: str, headers: Any, body: bytes) -> tuple[int, str]:
        self.sent.append((url, body))
        return 202, '{"accepted":1}'

    def browser(self, peer: str = "127.0.0.1", **options: Any) -> Browser:
        transport = httpx.ASGITransport(app=self.app, client=(peer, 1))
        http = httpx.AsyncClient(
            transport=transport, base_url="http://127.0.0.1", follow_redirects=True, **options
        )
        self.browsers.append(http)
        return Browser(http)


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a browser."""
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    with chromium_in(tmp_path_factory.mktemp("chromium")) as address:
        yield address


@pytest.fixture
async def browser(chromium: str) -> AsyncIterator[PlaywrightBrowser]:
    """That browser, without pages. Others may use the machine as well, so a page has time."""
    expect.set_options(timeout=PATIENCE * 1000)
    async with async_playwright() as playwright:
        found = await playwright.chromium.connect_over_cdp(chromium)
        yield found
        await found.close()


@pytest.fixture
async def make_console(make_api: Callable[..., Any]) -> AsyncIterator[Callable[..., Any]]:
    """Makes a console with this `[console]`."""
    made: list[ConsoleHarness] = []

    async def make(config: ConsoleConfig) -> ConsoleHarness:
        made.append(ConsoleHarness(await make_api(config)))
        return made[-1]

    yield make
    for harness in made:
        for http in harness.browsers:
            await http.aclose()


@pytest.fixture
async def console(make_console: Callable[..., Any]) -> ConsoleHarness:
    """Without a password, so that this machine is the operator."""
    found: ConsoleHarness = await make_console(ConsoleConfig())
    return found


@pytest.fixture
async def guarded(make_console: Callable[..., Any]) -> ConsoleHarness:
    """With a password for each role."""
    config = ConsoleConfig(password=["change"], viewer_password=["look"])
    found: ConsoleHarness = await make_console(config)
    return found
