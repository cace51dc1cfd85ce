"""A Klaviyo account is connected and disconnected in the console."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from connector.domain.oauth import KLAVIYO_OAUTH
from connector.sandbox import JeriCommerceSandbox, KlaviyoSandbox, serve
from tests.oauth.conftest import Rig

from .conftest import Browser

SETTINGS = "/connections/acme/settings"


@pytest.fixture
async def rig(tmp_path: Path, restore_logging_config: None) -> AsyncIterator[Rig]:
    klaviyo, jericommerce = KlaviyoSandbox(limits=False), JeriCommerceSandbox()
    servers = await serve({"klaviyo": (klaviyo.app, 0), "jericommerce": (jericommerce.app, 0)})
    urls = {name: servers.url(name) for name in servers.ports}
    found = Rig(tmp_path, klaviyo, jericommerce, urls)
    found.write()
    yield found
    await servers.aclose()


async def test_an_account_is_connected_and_disconnected(rig: Rig) -> None:
    async with (
        rig.daemon() as app,
        httpx.AsyncClient(base_url=rig.url, follow_redirects=True, timeout=30) as http,
    ):
        browser = Browser(http)
        page = await browser.get(SETTINGS)
        assert "no account is connected" in page.text
        # A browser follows a form's redirects only to where the page allows it.
        assert (
            f"form-action 'self' {rig.url} {rig.urls['klaviyo']};"
            in (page.headers["content-security-policy"])
        )
        tested = await browser.submit(SETTINGS, SETTINGS, what="test")
        assert "Not accepted: Klaviyo key" in tested.text

        rig.klaviyo.oauth.consent = "allow"
        done = await browser.submit(SETTINGS, "/connections/acme/connect")
        assert "acme is connected to the Klaviyo account" in done.text
        assert f'<a href="{SETTINGS}">Back to the console</a>' in done.text
        page = await browser.get(SETTINGS)
        assert "connected to" in page.text
        assert await app.store.secrets.get("acme", KLAVIYO_OAUTH)
        tested = await browser.submit(SETTINGS, SETTINGS, what="test")
        assert "Both sides accept the credentials." in tested.text

        asked = await browser.submit(SETTINGS, "/connections/acme/disconnect")
        assert "<h1>Disconnect acme from Klaviyo?</h1>" in asked.text
        assert await app.store.secrets.get("acme", KLAVIYO_OAUTH)
        ended = await browser.submit(SETTINGS, "/connections/acme/disconnect", confirmed="yes")
        assert "acme is disconnected from Klaviyo." in ended.text
        assert await app.store.secrets.get("acme", KLAVIYO_OAUTH) is None


async def test_a_new_connection_keeps_what_was_entered_while_a_person_signs_in(rig: Rig) -> None:
    async with (
        rig.daemon() as app,
        httpx.AsyncClient(base_url=rig.url, timeout=30) as http,
    ):
        browser = Browser(http)
        form = "/connections/new?source=jericommerce"
        page = await browser.get(form)
        assert ">Connect Klaviyo<" in page.text
        fields = {"source": "jericommerce", "name": "shop", "settings.program": "demo"}
        answer = await browser.submit(
            form, "/connections/new", what="connect", **fields, **{"klaviyo.auth": "oauth"}
        )
        assert answer.headers["location"] == "/oauth/klaviyo/start?connection=shop"
        shop = app.config.connection("shop")
        assert (shop.klaviyo.auth, shop.enabled, shop.settings.program) == ("oauth", False, "demo")
        # Whoever pastes a key means it, whichever choice is marked.
        pasted = {"klaviyo.auth": "oauth", "klaviyo.private_key": "pk_sandbox"}
        await browser.submit(
            "/connections/new?name=shop", "/connections/new", what="test", **fields, **pasted
        )
        assert app.config.connection("shop").klaviyo.auth == "private-key"
