"""Setting a connection up in a real browser: the whole way, with the keyboard alone, and without
script."""

from __future__ import annotations

import asyncio
import json
from importlib import import_module
from pkgutil import iter_modules
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Browser, Page, expect
from playwright.async_api import Route as Intercepted
from starlette.routing import Route

from connector.console import pages
from connector.ports import DeadLetterFilter

from .accessibility import faults_of
from .test_setup import DRAFT, FORM, LINKS, NEW, Site, site

__all__ = ["site"]

ENTERED = {
    "API key": "wll_sandbox",
    "Client ID": "wll_client",
    "Client secret": "wll_client_secret",
    "Private key": "pk_sandbox",
}


class Visitor:
    """A browser that signed in, and what its pages complained about or loaded from elsewhere."""

    def __init__(self, site: Site, browser: Browser) -> None:
        self.site = site
        self.url = f"http://127.0.0.1:{site.daemon.app.port}"
        self.faults: list[str] = []
        self._browser = browser

    async def page(self, *, signed_in: bool = True, **options: Any) -> Page:
        context = await self._browser.new_context(base_url=self.url, **options)
        page = await context.new_page()
        page.on("console", lambda m: self.faults.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("request", lambda r: None if r.url.startswith(self.url) else self._foreign(r.url))
        if not signed_in:
            return page
        await page.goto(NEW)
        await page.get_by_label("Password").fill("change")
        await page.get_by_role("button", name="Sign in").click()
        await expect(page.get_by_role("heading", name="Add connection")).to_be_visible()
        return page

    def _foreign(self, url: str) -> None:
        self.faults.append(f"request to {url}")

    async def fill(self, page: Page) -> None:
        """Everything but the buttons."""
        url = self.site.daemon.urls["wll"]
        await page.get_by_label("Name").fill("club")
        await page.get_by_text("More settings of White Label Loyalty").click()
        await page.get_by_label("Base URL").fill(f"{url}/v1")
        await page.get_by_label("Auth URL").fill(f"{url}/oauth/token")
        for label, text in ENTERED.items():
            await page.get_by_label(label).fill(text)


async def test_a_person_sets_a_connection_up_and_its_data_arrives(
    site: Site, browser: Browser
) -> None:
    visitor = Visitor(site, browser)
    page = await visitor.page()
    await page.get_by_role("link", name="White Label Loyalty").click()
    await visitor.fill(page)
    await page.get_by_label("API key").fill("mistyped")
    await page.get_by_role("button", name="Test credentials").click()
    await expect(page.get_by_text("Not accepted: WLL key")).to_be_visible()
    # The browser itself logs that a page answered 4xx; this one did not.
    assert visitor.faults == []
    await page.get_by_label("API key").fill("wll_sandbox")
    await page.get_by_role("button", name="Test credentials").click()
    await expect(page.get_by_text("Both sides accept the credentials.")).to_be_visible()
    await page.get_by_role("button", name="Save").click()
    await expect(page.get_by_text("club is saved and active.")).to_be_visible()

    await page.get_by_role("button", name="Show address").click()
    address = (await page.locator("#webhook-url").inner_text()).strip()
    await page.get_by_role("link", name="Continue").click()
    waiting = page.locator("#first-delivery")
    await expect(waiting).to_contain_text("Waiting for the first delivery")
    user = site.wll.people[0]
    event = {"type": "CASHBACK_REGISTERED", "reportedAt": "2026-11-01T10:00:00Z"}
    body = json.dumps({**event, "subject": user.auth, "payload": {"amount": 5}}).encode()
    refused = await site.daemon.post("club", body, {}, "another")
    assert refused[0] == 401
    await expect(waiting).to_contain_text("A delivery was refused")
    secret = urlsplit(address).path.rsplit("/", 1)[1]
    assert (await site.daemon.post("club", body, {}, secret))[0] == 202
    await expect(waiting).to_contain_text("First delivery received")

    await page.get_by_role("link", name="Choose audience and list").click()
    await page.get_by_label("Audience").fill("Silver")
    await page.get_by_label("Klaviyo list").fill("Silver members")
    await page.get_by_role("button", name="Check audience").click()
    await expect(page.get_by_text("a new list")).to_be_visible()
    await page.get_by_role("button", name="Save").click()
    members = sorted(person.email for person in site.wll.people if person.tier[0] == "Silver")
    await expect(page.locator("#links")).to_contain_text("in sync")
    klaviyo = site.daemon.klaviyo
    on_list = klaviyo.list_members(klaviyo.list_ids()["Silver members"])
    assert sorted(on_list) == members
    assert klaviyo.profile(user.email)

    await page.goto(f"{LINKS}/fields")
    await page.get_by_label("E-mail or id").fill(user.email)
    await page.get_by_label("wll_tier_name").uncheck()
    await expect(page.locator("#preview")).to_contain_text("no longer written")
    assert visitor.faults == []


async def test_an_older_preview_never_replaces_a_newer_one(site: Site, browser: Browser) -> None:
    await site.add("save")
    visitor = Visitor(site, browser)
    page = await visitor.page()
    await page.goto(f"{LINKS}/fields")
    newer_shown, older_ended = asyncio.Event(), asyncio.Event()
    older_ended.set()

    async def answer(route: Intercepted) -> None:
        older = "fields=wll_tier_name" in (route.request.post_data or "")
        if older:
            # The page may abort it so early that it never comes here.
            older_ended.clear()
            await newer_shown.wait()
        text = f"<div id=preview>the {'older' if older else 'newer'} one</div>"
        await route.fulfill(body=text, content_type="text/html")
        if older:
            older_ended.set()

    await page.route(f"**{LINKS}/fields", answer)
    # To click the box is to leave the field, so both ask for a preview.
    await page.get_by_label("E-mail or id").fill("ana@example.com")
    await page.get_by_label("wll_tier_name").uncheck()
    await expect(page.locator("#preview")).to_contain_text("the newer one")
    newer_shown.set()
    await older_ended.wait()
    await page.evaluate("fetch(location.href).then((answer) => answer.text())")
    await expect(page.locator("#preview")).to_contain_text("the newer one")
    assert visitor.faults == []


async def test_the_pages_have_no_accessibility_fault_and_fit_a_phone(
    site: Site, browser: Browser
) -> None:
    await site.add("test", settings__api_key="mistyped")
    link = {"audience": "Silver", "list": "Silver members", "create_list": "yes"}
    visitor, found = Visitor(site, browser), []
    page = await visitor.page(bypass_csp=True, viewport={"width": 360, "height": 740})

    async def look(*paths: str) -> None:
        for path in paths:
            await page.goto(path)
            found.extend(await faults_of(page))
            assert await page.evaluate("document.documentElement.scrollWidth") <= 360, path

    await look(NEW, FORM, f"{NEW}?name=club")
    await site.add("save", f"{NEW}?name=club")
    await site.browser.submit(f"{LINKS}/links", f"{LINKS}/audiences/add", confirmed="yes", **link)
    await look(f"{NEW}?name=club", f"{LINKS}/fields", f"{LINKS}/links", f"{LINKS}/settings")
    assert found == []
    assert visitor.faults == []


POINTS = {
    "settings__points_event_type": "FLOW_POINTS",
    "settings__points_event_secret": "wll_points_secret",
}
HEAVIEST = 60_000
"""Bytes: a page with its style and script, as transferred to a browser that has seen none of it."""


async def transferred(page: Page, path: str) -> int:
    """Bytes of the answers, with their headers, that showing this page takes."""
    devtools = await page.context.new_cdp_session(page)
    sizes: list[float] = []
    devtools.on("Network.loadingFinished", lambda e: sizes.append(e["encodedDataLength"]))
    await devtools.send("Network.enable")
    await devtools.send("Network.setCacheDisabled", {"cacheDisabled": True})
    await page.goto(path, wait_until="load")
    await devtools.detach()
    return round(sum(sizes))


def shown_pages() -> list[Route]:
    """The routes that answer a browser with a page of its own."""
    modules = [import_module(m.name) for m in iter_modules(pages.__path__, f"{pages.__name__}.")]
    routes = [route for module in modules for route in module.routes]
    parts = {"/overview/stream", "/people/{key}/compare"}
    return [route for route in routes if "GET" in route.methods and route.path not in parts]


@pytest.mark.timeout(180)
async def test_no_page_is_heavy_or_asks_another_host(site: Site, browser: Browser) -> None:
    """Every page, with the data of a small shop."""
    await site.add("save", **POINTS)
    app, people = site.daemon.app, site.wll.people
    await app.connections.until_confirmed("club")
    for person in people:
        await site.event(person)
    await app.until_idle()
    await site.event(people[0], at="1990-01-01T00:00:00Z")
    await app.until_idle()
    [letter] = await app.commands.dead_letters(DeadLetterFilter(), 10)
    visitor = Visitor(site, browser)
    paths = [
        "/",
        "/attention",
        "/dead-letters",
        f"/dead-letters/{letter.id}",
        "/backfills",
        "/people",
        "/audit",
        "/webhook-builder?connection=club&amount=5&reason=Test",
        "/use-in-klaviyo/club",
        NEW,
        f"{NEW}?source=yotpo",
        DRAFT,
        LINKS,
        *(f"{LINKS}/{tab}" for tab in ("fields", "links", "settings")),
    ]
    page = await visitor.page(signed_in=False)
    weights = {"/sign-in": await transferred(page, "/sign-in")}
    page = await visitor.page()
    await page.goto("/people")
    await page.get_by_label("E-mail or id").fill(people[0].email)
    await page.get_by_role("button", name="Find person").click()
    await expect(page.get_by_role("heading", name=people[0].email)).to_be_visible()
    for path in (*paths, page.url):
        size = await transferred(page, path)
        weights[urlsplit(page.url).path] = max(size, weights.get(urlsplit(page.url).path, 0))
    missing = [r.path for r in shown_pages() if not any(map(r.path_regex.match, weights))]
    assert missing == []
    assert {path: size for path, size in weights.items() if not 5_000 < size <= HEAVIEST} == {}
    assert visitor.faults == []


async def test_each_copy_button_copies_what_is_beside_it(site: Site, browser: Browser) -> None:
    await site.add("save", **POINTS)
    page = await Visitor(site, browser).page(permissions=["clipboard-read", "clipboard-write"])
    copied = []
    for path, *buttons in (
        ("/webhook-builder?connection=club&amount=5&reason=Test",),
        ("/use-in-klaviyo/club",),
        (LINKS + "/settings", "Show webhook address"),
    ):
        await page.goto(path)
        for button in buttons:
            await page.get_by_role("button", name=button).click()
        await expect(page.locator("[data-copy]").first).to_be_visible()
        for button in await page.locator("[data-copy]").all():
            label = await button.inner_text()
            await button.click()
            await expect(button).to_have_text("Copied")
            beside = page.locator(f"#{await button.get_attribute('data-copy')}")
            text = await page.evaluate("navigator.clipboard.readText()")
            assert text == await beside.text_content(), label
            assert text.strip() == text != "", label
            copied.append(label)
    assert copied[:3] == ["Copy URL", "Copy headers", "Copy body"]
    assert copied[-1] == "Copy address"
    assert len(copied) > 4, "and those of texts for e-mails"


async def strike(page: Page, key: str) -> None:
    await page.keyboard.down(key)
    await page.keyboard.up(key)


async def select_all(page: Page) -> None:
    await page.keyboard.down("Control")
    await strike(page, "a")
    await page.keyboard.up("Control")


async def tab_to(page: Page, name: str) -> None:
    """Move the focus by the Tab key to what has this accessible name."""
    for _ in range(120):
        await strike(page, "Tab")
        focused = page.locator(":focus")
        if await focused.count():
            label = await focused.evaluate(
                "e => (e.labels?.length ? [...e.labels].map(l => l.innerText).join() "
                ": e.innerText || '').trim()"
            )
            if label.startswith(name):
                return
    raise AssertionError(f"no Tab leads to {name}")


async def test_a_connection_is_set_up_with_the_keyboard_alone(site: Site, browser: Browser) -> None:
    page = await Visitor(site, browser).page()
    await tab_to(page, "White Label Loyalty")
    await strike(page, "Enter")
    await expect(page.get_by_role("heading", name="Add White Label Loyalty")).to_be_visible()
    await tab_to(page, "Name")
    await select_all(page)
    await page.keyboard.type("club")
    await tab_to(page, "API key")
    await page.keyboard.type("wll_sandbox")
    await tab_to(page, "Client ID")
    await page.keyboard.type("wll_client")
    await tab_to(page, "Client secret")
    await page.keyboard.type("wll_client_secret")
    await tab_to(page, "More settings")
    await strike(page, "Enter")
    url = site.daemon.urls["wll"]
    for label, text in (("Base URL", f"{url}/v1"), ("Auth URL", f"{url}/oauth/token")):
        await tab_to(page, label)
        await select_all(page)
        await page.keyboard.type(text)
    await tab_to(page, "Private key")
    await page.keyboard.type("pk_sandbox")
    await tab_to(page, "Save")
    await strike(page, "Enter")
    await expect(page.get_by_text("club is saved and active.")).to_be_visible()
    assert site.daemon.app.runtimes["club"].enabled


async def test_a_connection_is_set_up_without_script(site: Site, browser: Browser) -> None:
    visitor = Visitor(site, browser)
    page = await visitor.page(java_script_enabled=False)
    await page.get_by_role("link", name="White Label Loyalty").click()
    await visitor.fill(page)
    await page.get_by_role("button", name="Save").click()
    await expect(page.get_by_text("club is saved and active.")).to_be_visible()
    await page.get_by_role("link", name="Choose audience and list").click()
    await page.get_by_label("Audience").fill("Silver")
    await page.get_by_label("Klaviyo list").fill("Silver members")
    await page.get_by_role("button", name="Check audience").click()
    await page.get_by_role("button", name="Save").click()
    await expect(page.get_by_text("Silver → Silver members is saved.")).to_be_visible()
    assert visitor.faults == []
