"""The demo's page that breaks and heals Klaviyo."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from connector.cli.demo_panel import BREAKS, Panel
from connector.cli.demo_shop import Shop
from connector.sandbox import KlaviyoSandbox
from connector.service import Commands
from connector.testing.fakes.clock import FakeClock
from connector.testing.fakes.store import memory_store

KEY = {"authorization": "Klaviyo-API-Key pk_sandbox", "revision": "2026-10-15"}


def client(app: Any, base: str, **options: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url=base, **options)


@pytest.fixture
async def klaviyo() -> KlaviyoSandbox:
    return KlaviyoSandbox(limits=False)


@pytest.fixture
async def remote(klaviyo: KlaviyoSandbox) -> AsyncIterator[httpx.AsyncClient]:
    async with client(klaviyo.app, "http://klaviyo.test", headers=KEY) as http:
        yield http


@pytest.fixture
async def panel(klaviyo: KlaviyoSandbox) -> AsyncIterator[httpx.AsyncClient]:
    commands = Commands(memory_store(), FakeClock())
    app = Panel(klaviyo, commands.latest_status, Shop()).app
    async with client(app, "http://panel.test", follow_redirects=True) as http:
        yield http


@pytest.mark.parametrize(
    ("name", "status"), [("key", 401), ("revoked", 401), ("throttle", 429), ("error", 500)]
)
async def test_klaviyo_is_broken_until_it_is_healed(
    panel: httpx.AsyncClient, remote: httpx.AsyncClient, name: str, status: int
) -> None:
    assert (await remote.get("/api/accounts")).status_code == 200
    page = await panel.post(f"/break/{name}")
    assert f"Break and heal Klaviyo: {BREAKS[name].state}" in page.text
    assert [(await remote.get("/api/accounts")).status_code for _ in range(2)] == [status] * 2
    assert "it is well" in (await panel.post("/heal")).text
    assert (await remote.get("/api/accounts")).status_code == 200


async def test_one_break_replaces_another(
    panel: httpx.AsyncClient, remote: httpx.AsyncClient
) -> None:
    await panel.post("/break/key")
    await panel.post("/break/error")
    assert (await remote.get("/api/accounts")).status_code == 500


async def test_another_site_in_the_same_browser_breaks_nothing(
    panel: httpx.AsyncClient, remote: httpx.AsyncClient
) -> None:
    elsewhere = {"sec-fetch-site": "cross-site"}
    assert (await panel.post("/break/key", headers=elsewhere)).status_code == 404
    assert (await panel.post("/break/other")).status_code == 404
    assert (await remote.get("/api/accounts")).status_code == 200


async def test_a_revoked_key_stays_rejected_and_a_new_one_is_offered(
    klaviyo: KlaviyoSandbox, panel: httpx.AsyncClient, remote: httpx.AsyncClient
) -> None:
    first = (await panel.post("/break/revoked")).text
    assert "pk_sandbox_2" in first
    again = (await panel.post("/break/revoked")).text
    assert "pk_sandbox_3" in again

    async def status(key: str) -> int:
        headers = {"authorization": f"Klaviyo-API-Key {key}"}
        return (await remote.get("/api/accounts", headers=headers)).status_code

    assert [await status(f"pk_sandbox{n}") for n in ("", "_2", "_3")] == [401, 401, 200]
    await panel.post("/heal")
    assert [await status(f"pk_sandbox{n}") for n in ("", "_2", "_3")] == [200, 200, 200]
    assert klaviyo.state()["violations"] == {}
