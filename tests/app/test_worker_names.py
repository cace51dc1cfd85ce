"""Workers of a connection have names of their own in the log, in status and at /healthz."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from connector.sandbox.wll.server import WllSandbox
from tests.paths import ROOT
from tests.platforms.plugins.daemon import running

CONFIG = """\
[store]
url = "sqlite:///state.db"

[server]
port = 0

[[connections]]
name = "acme"
source = "wll"
mapping = "{mapping}"

[connections.settings]
base_url = "${{WLL_URL}}/v1"
auth_url = "${{WLL_URL}}/oauth/token"
api_key = "wll_sandbox"
client_id = "wll_client"
client_secret = "wll_client_secret"
webhook_secret = "wll_webhook_secret"

[connections.klaviyo]
private_key = "pk_sandbox"

[[connections.audiences]]
audience = "Gold"
list = "Gold members"

[[connections.audiences]]
audience = "Silver"
list = "Silver members"
"""


async def test_workers_of_a_connection_have_names_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restore_logging_config: None
) -> None:
    config = CONFIG.format(mapping=ROOT / "mappings" / "wll.toml")
    async with running(tmp_path, config, {"wll": WllSandbox().app}, {}, monkeypatch):
        names = [task.get_name() for task in asyncio.all_tasks() if " acme" in task.get_name()]
    assert "scan acme audience Gold" in names
    assert len(set(names)) == len(names), sorted(names)
