"""`connector demo` as a visitor meets it: a process, and a browser that has only its pages.

Needs Debian's Chromium, as test_browser.py does."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, expect

from tests.processes import Process
from tests.waiting import async_until

from .accessibility import faults_of

_ADDRESS = re.compile(r"^(console|tour): +(\S+)/", re.MULTILINE)


@pytest.fixture
async def demo(tmp_path: Path) -> AsyncIterator[dict[str, str]]:
    """A running demo: the addresses that it prints. The environment names a real account."""
    printed = tmp_path / "printed"
    environ = {"TMPDIR": str(tmp_path), "KLAVIYO_BASE_URL": "https://klaviyo.invalid"}
    environ |= {"CONNECTOR_CONSOLE_PASSWORD": "of-the-real-one", "COLUMNS": "40"}
    with printed.open("w") as out:
        process = Process(["demo", "--rate", "4"], cwd=tmp_path, env=environ, stdout=out)
    try:
        await async_until("it prints", lambda: len(_ADDRESS.findall(printed.read_text())) == 2)
        lines = printed.read_text()
        assert "what to try, a shop to connect, Klaviyo to break\n" in lines, "a pipe has no width"
        yield dict(_ADDRESS.findall(lines))
    finally:
        process.terminate()
        process.wait(60)


async def _value(shop: Page, row: str) -> str:
    return await shop.get_by_role("row", name=row).locator("code").inner_text()


@pytest.mark.timeout(180)
async def test_a_visitor_adds_a_connection_with_what_the_pages_say(
    demo: dict[str, str], browser: Browser
) -> None:
    context = await browser.new_context(bypass_csp=True, viewport={"width": 360, "height": 740})
    shop = await context.new_page()
    await shop.goto(demo["tour"])
    await shop.get_by_role("link", name="Add a connection").click()
    found = await faults_of(shop)
    assert await shop.evaluate("document.documentElement.scrollWidth") <= 360
    await expect(shop.get_by_role("cell", name="no profile")).to_have_count(8)
    page = await context.new_page()
    await page.goto(demo["console"])
    await page.get_by_role("button", name="Add connection").click()
    await page.get_by_role("link", name="Yotpo").click()
    await expect(page.get_by_label("Name")).to_have_value("yotpo-2")
    await page.get_by_label("GUID").fill(await _value(shop, "GUID"))
    await page.get_by_label("API key").fill(await _value(shop, "API key"))
    await page.get_by_text("More settings of Yotpo").click()
    await page.get_by_label("Base URL").fill(await _value(shop, "Base URL"))
    await page.get_by_label("Private key").fill(await _value(shop, "Private key"))
    await page.get_by_role("button", name="Test credentials").click()
    await expect(page.get_by_text("Both sides accept the credentials.")).to_be_visible()
    await page.get_by_role("button", name="Save").click()
    await page.get_by_role("button", name="Show address").click()
    address = (await page.locator("#webhook-url").inner_text()).strip()
    await page.get_by_role("link", name="Continue").click()

    await shop.get_by_label("Webhook address").fill("https://example.com/webhooks/yotpo-2")
    await shop.get_by_role("button", name="Send events there").click()
    await expect(shop.get_by_role("alert")).to_contain_text("no webhook address of the connector")
    await shop.get_by_label("Webhook address").fill(address)
    await shop.get_by_role("button", name="Send events there").click()
    await expect(page.locator("#first-delivery")).to_contain_text("First delivery received")
    await expect(shop.get_by_role("cell", name="no profile")).to_have_count(0)
    await expect(shop.get_by_role("status")).to_contain_text("events were accepted")
    found += await faults_of(shop)
    assert found == []
    await context.close()


@pytest.mark.timeout(180)
async def test_a_revoked_key_is_replaced_by_the_one_that_the_tour_names(
    demo: dict[str, str], browser: Browser
) -> None:
    context = await browser.new_context(bypass_csp=True)
    tour, page = await context.new_page(), await context.new_page()
    await page.goto(f"{demo['console']}/connections/yotpo")
    await expect(page.get_by_text("Working").first).to_be_visible()
    await tour.goto(demo["tour"])
    await tour.get_by_role("button", name="Revoke the key").click()
    found = await faults_of(tour)
    await expect(page.locator("main")).to_contain_text("Klaviyo rejected the key")
    await page.locator("#state").get_by_role("link", name="Settings").click()
    key = await tour.locator("li.on code").first.inner_text()
    await page.get_by_label("Private key").fill(key)
    await page.get_by_role("button", name="Save").click()
    await expect(page.get_by_text("1 changed, and in effect.")).to_be_visible()
    await page.get_by_role("link", name="State").click()
    await expect(page.get_by_text("Working").first).to_be_visible()
    assert found == []
    await context.close()
