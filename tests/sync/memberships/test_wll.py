"""White Label Loyalty's audiences kept as lists, end to end: the daemon on sockets, its webhooks,
and WLL's own events for joins and leaves."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from connector.sandbox import WllSandbox
from tests.paths import MAPPINGS
from tests.platforms.plugins.daemon import Running, running

CONFIG = """\
[store]
url = "sqlite:///state/connector.db"

[server]
port = 0
shutdown_timeout = "1s"

[log]
level = "error"

[[connections]]
name = "acme"
source = "wll"
mapping = "mappings/wll.toml"

[connections.settings]
base_url = "${WLL_URL}/v1"
auth_url = "${WLL_URL}/oauth/token"
api_key = "wll_sandbox"
client_id = "wll_client"
client_secret = "wll_client_secret"
webhook_secret = "wll_webhook_secret"
join_event = "AUDIENCE_JOINED"
leave_event = "AUDIENCE_LEFT"

[connections.klaviyo]
private_key = "pk_sandbox"

[[connections.audiences]]
audience = "Gold"
list = "Gold members"
every = "1h"
"""


@pytest.fixture
def wll() -> WllSandbox:
    made = WllSandbox(people=12)
    for user in made.users:
        user.earned = 0
    for user in made.people[:4]:
        user.earned = 10**6
    made.refresh()
    made.waiting.clear()
    return made


@pytest.fixture
async def daemon(
    tmp_path: Path, wll: WllSandbox, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Running]:
    shutil.copytree(MAPPINGS, tmp_path / "mappings")
    best = next(a for a in wll.audiences.values() if wll.people[0].id in getattr(a, "members", ()))
    config = CONFIG.replace('"Gold"', f'"{best.name}"')
    async with running(tmp_path, config, {"wll": wll.app}, {}, monkeypatch) as found:
        yield found


def current_members(daemon: Running) -> set[str]:
    id = daemon.klaviyo.list_ids().get("Gold members")
    return set(daemon.klaviyo.list_members(id)) if id else set()


async def test_an_audience_is_synced_to_a_list_by_scan_and_by_event(
    daemon: Running, wll: WllSandbox
) -> None:
    people = wll.people
    await daemon.until(lambda: current_members(daemon) == {p.email for p in people[:4]})
    people[0].earned, people[5].earned = 0, 10**6
    wll.refresh()
    rng = random.Random(1)
    while wll.waiting:
        webhook = wll.next_webhook(rng)
        secret = webhook.suffix.removeprefix("/")
        assert (await daemon.post("acme", webhook.body, webhook.headers, secret))[0] == 202
    await daemon.until(
        lambda: current_members(daemon) == {p.email for p in (*people[1:4], people[5])}
    )
    while True:
        [link] = await daemon.app.commands.links()
        if not link["waiting"]:
            break
        await asyncio.sleep(0.01)
    assert (link["here"], link["both"], link["problem"]) == (4, 4, None)
    assert daemon.klaviyo.overlapping_writes == 0
    assert not daemon.klaviyo.violations
