"""Names of what is linked and sent: what exists at both sides is offered, also for a mistyped
one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from connector.sandbox import JeriCommerceSandbox
from tests.platforms.plugins.daemon import Running, running

from .conftest import Browser
from .test_daemon import CONFIG

LINKS = "/connections/acme/links"
ADD = "/connections/acme/segments/add"


@dataclass
class Site:
    daemon: Running
    browser: Browser


@pytest.fixture
async def site(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restore_logging_config: None
) -> AsyncIterator[Site]:
    platforms = {"jericommerce": JeriCommerceSandbox().app}
    async with (
        running(tmp_path, CONFIG, platforms, {}, monkeypatch) as daemon,
        httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{daemon.app.port}", follow_redirects=True, timeout=30
        ) as http,
    ):
        for name in ("Winback 90 days", "VIP", "Lapsed"):
            daemon.klaviyo.make_segment(name, "ana@example.com")
        daemon.klaviyo.make_list("Newsletter")
        yield Site(daemon, Browser(http))


async def test_a_mistyped_segment_is_answered_with_those_that_exist(site: Site) -> None:
    page = (await site.browser.get(LINKS)).text
    for name in ("Winback 90 days", "VIP", "Lapsed"):
        assert f'<option value="{name}">' in page
    asked = (await site.browser.submit(LINKS, ADD, segment="winback 90 day", target="spring")).text
    assert "there is no segment winback 90 day, did you mean" in asked
    assert "available: Lapsed, VIP, Winback 90 days" in asked
    assert ">Use Winback 90 days</button>" in asked
    assert ">Save anyway</button>" in asked
    right = {"segment": "Winback 90 days", "target": "spring"}
    assert ">Save</button>" in (await site.browser.submit(LINKS, ADD, **right)).text


async def test_a_backfill_offers_the_names_of_its_connection(site: Site) -> None:
    page = (await site.browser.get("/backfills")).text
    for name in ("Newsletter", "VIP"):
        assert f'<option value="{name}">' in page
    start = {"connection": "acme", "source": "klaviyo-segment", "what": "VPI"}
    refused = await site.browser.submit("/backfills", "/backfills", **start)
    assert "did you mean &#39;VIP&#39;?; available: Lapsed, VIP" in refused.text
    assert refused.url.query == b"connection=acme", "the next start is of the same one"
