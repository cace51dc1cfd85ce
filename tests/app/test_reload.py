"""What a reload takes over from the configuration without a restart."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from connector.app.daemon import App
from connector.sandbox import JeriCommerceSandbox, Traffic
from tests.paths import ROOT
from tests.platforms.plugins.daemon import Running, running

CONFIG = """\
[store]
url = "sqlite:///state.db"

[server]
port = 0

[delivery]
reconfirm_after = "30d"

[[connections]]
name = "acme"
source = "jericommerce"
mapping = "{mapping}"

[connections.settings]
base_url = "${{JERICOMMERCE_URL}}"
program = "demo"
api_key = "jeri_sandbox"
webhook_secret = "jeri_webhook_secret"

[connections.klaviyo]
private_key = "pk_sandbox"
"""


async def test_a_reload_applies_reconfirm_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restore_logging_config: None
) -> None:
    platform = JeriCommerceSandbox()
    config = CONFIG.format(mapping=ROOT / "mappings" / "jericommerce.toml")
    platforms = {"jericommerce": platform.app}
    async with running(tmp_path, config, platforms, {}, monkeypatch) as daemon:
        headers, body = Traffic(platform, "unused").make_event()
        assert (await daemon.post("acme", body, headers))[0] == 202
        await until_idle(daemon.app)
        first = profile_writes(daemon)
        assert first
        await read_again(daemon.app)
        assert profile_writes(daemon) == first, "nothing changed, so nothing is sent"

        file = tmp_path / "connector.toml"
        file.write_text(config.replace('"30d"', '"0s"'))
        assert (await daemon.app.reload())["reloaded"]
        await read_again(daemon.app)
        assert profile_writes(daemon) == first + 1


async def read_again(app: App) -> None:
    """Read every person at the platform again, as an event would ask for."""
    lane = app.runtimes["acme"].reads
    assert lane
    await app.store.reads.request(lane.lane.id, {1: app.clock.now()}, urgent=True)
    lane.wake()
    await until_idle(app)


async def until_idle(app: App) -> None:
    async with asyncio.timeout(30):
        await app.until_idle()


def profile_writes(daemon: Running) -> int:
    """How often Klaviyo was sent a profile."""
    requests = daemon.klaviyo.state()["requests"]
    assert isinstance(requests, dict)
    return sum(
        sum(statuses.values())
        for route, statuses in requests.items()
        if "profile" in route and not route.startswith("GET ")
    )
