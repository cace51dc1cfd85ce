"""The console in a real browser: without an accessibility fault, without an error, live.

Needs Debian's Chromium (`make test` installs it where it may); without it these tests are skipped.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from playwright.async_api import Browser, BrowserContext, Page, expect

from connector.web.server import Server
from tests.waiting import async_until

from .accessibility import faults_of
from .conftest import ConsoleHarness

PAGES = [
    "/",
    "/attention",
    "/dead-letters",
    "/dead-letters/1",
    "/backfills",
    "/people",
    "/audit",
    "/webhook-builder?connection=acme&amount=5&reason=Test",
    "/connections/acme",
]


class Site:
    """The console on a real port, and what its pages complained about or loaded from elsewhere."""

    def __init__(self, console: ConsoleHarness, server: Server, browser: Browser) -> None:
        self.console = console
        self.url = f"http://127.0.0.1:{server.port}"
        self._browser = browser
        self.faults: list[str] = []
        self._contexts: list[BrowserContext] = []

    async def page(self, **options: Any) -> Page:
        context = await self._browser.new_context(base_url=self.url, **options)
        self._contexts.append(context)
        page = await context.new_page()
        page.on("console", lambda m: self.faults.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("request", lambda r: None if r.url.startswith(self.url) else self._foreign(r.url))
        return page

    async def close(self) -> None:
        for context in self._contexts:
            await context.close()

    def _foreign(self, url: str) -> None:
        self.faults.append(f"request to {url}")


@pytest.fixture
async def site(console: ConsoleHarness, browser: Browser) -> AsyncIterator[Site]:
    """Without a fault at the end."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        api = scope["path"].startswith("/api/")
        await (console.api.app if api else console.app)(scope, receive, send)

    await console.api.dead_letters(*"abc")
    await console.api.store.approvals.request(
        "acme", "backfill", "3", {"people": 12}, now=console.api.clock.now()
    )
    server = Server(app, "127.0.0.1", 0, grace=5, key="server.port")
    await server.start()
    found = Site(console, server, browser)
    yield found
    # Before the server: a page whose stream ends tries to connect again.
    await found.close()
    console.api.changes.close()
    await server.stop()
    assert found.faults == []


async def test_no_page_has_an_accessibility_fault_in_either_theme(site: Site) -> None:
    page, found = await site.page(bypass_csp=True), []
    for path in PAGES:
        await page.goto(path)
        found += await faults_of(page)
    assert found == []


async def test_a_phone_shows_every_page_without_scrolling_sideways(site: Site) -> None:
    page = await site.page(viewport={"width": 360, "height": 740})
    for path in PAGES:
        await page.goto(path)
        width = await page.evaluate("document.documentElement.scrollWidth")
        assert width <= 360, path
    await page.goto("/connections/acme")
    lanes = page.locator("#lanes")
    assert await lanes.evaluate("box => box.scrollWidth <= box.clientWidth")


async def test_an_open_page_shows_a_change_and_keeps_what_is_being_typed(site: Site) -> None:
    page = await site.page()
    await page.goto("/dead-letters")
    await expect(page.locator("#live-state")).to_contain_text("live")
    await page.get_by_label("Contains").fill("half a w")
    await site.console.api.dead_letters("d")
    site.console.api.changes.publish("dead-letters")
    await expect(page.locator("#causes")).to_contain_text("4")
    assert await page.get_by_label("Contains").input_value() == "half a w"
    focused = await page.evaluate("document.activeElement.name")
    assert focused == "q"


async def test_the_overview_is_sent_what_changed_and_asks_for_nothing(site: Site) -> None:
    page = await site.page()
    await page.goto("/")
    await expect(page.locator("#live-state")).to_contain_text("live")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    await site.console.api.dead_letters("d")
    site.console.api.changes.publish("dead-letters")
    await expect(page.locator("#todo")).to_contain_text("4 failed events")
    assert asked == []


async def enter(page: Page) -> None:
    await page.keyboard.down("Enter")
    await page.keyboard.up("Enter")


async def test_records_are_retried_with_the_keyboard_alone(site: Site) -> None:
    page = await site.page()
    await page.goto("/dead-letters")
    await page.get_by_role("button", name="Retry all matching").focus()
    await enter(page)
    await expect(page.get_by_role("heading", name="Retry 3 records?")).to_be_visible()
    await page.get_by_role("button", name="Retry all matching").focus()
    await enter(page)
    await expect(page.get_by_role("status").first).to_contain_text("3 records will be sent again.")


async def test_everything_works_without_script(site: Site) -> None:
    page = await site.page(java_script_enabled=False)
    await page.goto("/attention")
    await page.get_by_role("button", name="Approve").click()
    await expect(page.get_by_text("Question 1: approve.")).to_be_visible()
    await page.goto("/people")
    await page.get_by_label("E-mail or id").fill("a@example.com")
    await page.get_by_role("button", name="Find person").click()
    await expect(page.get_by_role("heading", name="a@example.com")).to_be_visible()


async def test_streams_of_open_pages_end_with_the_process(site: Site) -> None:
    pages = [await site.page() for _ in range(3)]
    for page in pages:
        await page.goto("/")
        await expect(page.locator("#live-state")).to_contain_text("live")
    assert site.console.api.changes.watched
    site.console.api.changes.close()
    await async_until("no stream is open", lambda: not site.console.api.changes.watched)
    for page in pages:
        await page.close()
