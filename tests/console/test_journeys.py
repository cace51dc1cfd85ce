"""What a person does in a browser from beginning to end, at a real daemon and its sandboxes.

Needs Debian's Chromium, as test_browser.py does."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, expect
from playwright.sync_api import expect as expect_sync
from playwright.sync_api import sync_playwright

from connector.cli import demo_tour
from connector.sandbox import JeriCommerceSandbox
from tests.crash.conftest import Daemon, Platforms
from tests.paths import ROOT
from tests.platforms.plugins.daemon import Running, running
from tests.waiting import until

from .accessibility import faults_of
from .test_daemon import CONFIG

TOUR = f"""\
{re.sub('mapping = ".*"', 'mapping = "strict.toml"', CONFIG).replace("acme", demo_tour.SOURCE)}
[connections.actions]
secret = "the_secret_of_the_flow"
"""
PEOPLE = 60
_PATIENT = 60_000
"""ms. Two processes, two sandboxes and a browser share the machine."""
_MAIN = """
from connector import cli
from connector.pipeline import import_jobs
import_jobs._LOST_REQUEST_GRACE_MS = 500  # instead of a minute: writes cut off by a kill are resent
cli.main()
"""


class Watched:
    """A page, and everything it complained about or loaded from elsewhere."""

    def __init__(self, page: Any, url: str) -> None:
        self.faults: list[str] = []
        page.on("console", lambda m: self.faults.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("request", lambda r: None if r.url.startswith(url) else self._foreign(r.url))

    def _foreign(self, url: str) -> None:
        self.faults.append(f"request to {url}")


@pytest.fixture
async def tour(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restore_logging_config: None
) -> AsyncIterator[tuple[Running, JeriCommerceSandbox]]:
    """A daemon as the demo prepares it."""
    strict = demo_tour.MAPPING.replace('"jeri', f'"{ROOT / "mappings"}/jeri')
    (tmp_path / "strict.toml").write_text(strict)
    double = JeriCommerceSandbox()
    platforms = {demo_tour.SOURCE: double.app}
    async with running(tmp_path, TOUR, platforms, {}, monkeypatch) as daemon:
        url = f"http://127.0.0.1:{daemon.app.port}"
        await demo_tour.prepare(double, url, "the_secret_of_the_flow")
        yield daemon, double


async def test_a_failed_record_and_an_uncertain_action_are_settled_by_clicking(
    tour: tuple[Running, JeriCommerceSandbox], browser: Browser
) -> None:
    daemon, double = tour
    url, found = f"http://127.0.0.1:{daemon.app.port}", []
    context = await browser.new_context(base_url=url, bypass_csp=True)
    page = await context.new_page()
    page.set_default_timeout(_PATIENT)
    watched = Watched(page, url)
    await page.goto("/")
    await expect(page.locator("#verdict")).to_contain_text("2 things need you")
    found += await faults_of(page)
    item = page.locator("#todo li").filter(has_text="M20")
    await item.get_by_role("link", name="Failed").click()
    await page.get_by_role("row").filter(has_text="Quiz completed").get_by_role("link").click()
    await page.get_by_role("button", name="Send events named Quiz completed").click()
    await expect(page.get_by_role("status").first).to_contain_text("are sent from now on")
    await expect(page.locator("main")).to_contain_text("This record would now pass: retry it.")
    await expect(page.locator("main")).not_to_contain_text("let its event through")
    await expect(page.get_by_role("group", name="Request")).to_contain_text("Quiz completed")
    found += await faults_of(page)
    await page.goto("/dead-letters")
    await expect(page.locator("#causes")).to_contain_text("1 of these 1 would now pass")
    found += await faults_of(page)
    await page.get_by_role("button", name="Retry all matching").click()
    await page.get_by_role("button", name="Retry all matching").click()
    await expect(page.locator("#causes")).to_contain_text("Nothing failed")
    await daemon.until(lambda: list(daemon.klaviyo.unique_ids().values()) == [1])
    await page.goto("/attention")
    attention = page.locator("#attention")
    await expect(attention).to_contain_text(f"Give 25 points: {double.people[0].email}")
    await expect(attention).to_contain_text("Quiz bonus")
    await expect(attention).not_to_contain_text("A10")
    await page.get_by_role("button", name="It was applied").click()
    await expect(page.locator("#attention")).to_contain_text("Nothing needs you.")
    assert [change.amount for change in double.ledger] == [25]
    await page.goto("/people")
    await page.get_by_label("E-mail or id").fill(double.people[0].email)
    await page.get_by_role("button", name="Find person").click()
    await page.get_by_role("button", name="Compare with both sides").click()
    await expect(page.get_by_role("columnheader", name="Klaviyo now")).to_be_visible()
    found += await faults_of(page)
    assert watched.faults == []
    assert found == []


@pytest.fixture
def platforms() -> Iterator[Platforms]:
    running = Platforms(PEOPLE)
    yield running
    running.stop()


@pytest.fixture
def killable(platforms: Platforms, tmp_path: Path, root: Path) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path, platforms, root / "mappings", main=_MAIN)
    text = daemon.config.read_text()
    daemon.config.write_text(text.replace("program =", "rate_per_second = 20\nprogram ="))
    yield daemon
    daemon.clean()


@pytest.mark.timeout(300)
def test_an_open_page_follows_a_backfill_over_a_kill_of_the_daemon(
    killable: Daemon, platforms: Platforms, chromium: str
) -> None:
    double = platforms.jericommerce
    platforms.klaviyo.make_list("VIP", *(person.email for person in double.people))
    killable.start()
    until("the daemon is ready", killable.ready, 60)
    url = f"http://127.0.0.1:{killable.port}"
    with sync_playwright() as playwright:
        browser = playwright.chromium.connect_over_cdp(chromium)
        page = browser.new_page(base_url=url)
        page.set_default_timeout(_PATIENT)
        expect_sync.set_options(timeout=_PATIENT)
        page.goto("/backfills")
        page.get_by_role("combobox", name="People").select_option("klaviyo-list")
        page.get_by_label("List or segment").fill("VIP")
        page.get_by_role("button", name="Start backfill").click()
        expect_sync(page.locator("#running")).to_contain_text("Backfill 1 of demo: running")
        until("some are read", lambda: len(double.read_log) >= PEOPLE // 4, 60)
        killable.kill()
        expect_sync(page.locator("#live-state")).to_contain_text("reconnecting")
        killable.start()
        until("the daemon is ready", killable.ready, 60)
        expect_sync(page.locator("#history")).to_contain_text("done")
        expect_sync(page.locator("#running")).to_have_text(re.compile(r"^\s*$"))
        browser.close()
    stale = [
        person.email
        for person in double.people
        if (platforms.klaviyo.profile(person.email) or {})["properties"]["balance"]
        != person.balance
    ]
    assert stale == []
