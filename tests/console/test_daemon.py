"""The console of a running daemon: what its forms change is in use at once, and audited."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from connector.sandbox import JeriCommerceSandbox
from tests.paths import ROOT
from tests.platforms.plugins.daemon import running

from .conftest import Browser

CONFIG = f"""\
[store]
url = "sqlite:///state.db"

[server]
port = 0

[[connections]]
name = "acme"
source = "jericommerce"
mapping = "{ROOT / "mappings" / "jericommerce.toml"}"

[connections.settings]
base_url = "${{JERICOMMERCE_URL}}"
program = "demo"
api_key = "jeri_sandbox"
webhook_secret = "jeri_webhook_secret"

[connections.klaviyo]
private_key = "pk_sandbox"
"""
PAGE = "/connections/acme"


async def test_modules_and_connections_are_switched_without_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restore_logging_config: None
) -> None:
    platforms = {"jericommerce": JeriCommerceSandbox().app}
    async with (
        running(tmp_path, CONFIG, platforms, {}, monkeypatch) as daemon,
        httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{daemon.app.port}", follow_redirects=True, timeout=30
        ) as http,
    ):
        browser = Browser(http)

        async def submit(path: str, **fields: str) -> str:
            return (await browser.submit(PAGE, f"{PAGE}/{path}", **fields)).text

        assert "Actions off." in await submit("modules", module="actions", on="no")
        assert "actions" not in daemon.app.config.connection("acme").modules
        assert "<h1>Deactivate acme?</h1>" in await submit("enabled", on="no")
        assert "acme is deactivated." in await submit("enabled", on="no", confirmed="yes")
        assert not daemon.app.runtimes["acme"].enabled
        assert "acme is active." in await submit("enabled", on="yes")
        link = {"audience": "vip", "list": "VIP", "confirmed": "yes"}
        refused = await submit("audiences/add", **link)
        assert "connections.acme.audiences" in refused
        audit = (await browser.get("/audit?connection=acme")).text
        assert audit.count("setting_changed enabled") == 2
        assert "setting_changed modules" in audit
        use = (await browser.get("/use-in-klaviyo/acme")).text
        assert "jericommerce_tier_name" in use
        assert "platform=ios" in use
