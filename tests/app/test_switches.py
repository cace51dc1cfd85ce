"""A module that is switched off, and shadow mode: what was acknowledged before waits and is sent
when the connection sends again; what is received meanwhile is skipped by a named rule."""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest

from connector.domain.records import State
from connector.sandbox import YotpoSandbox
from connector.store.sql import SqlStore
from connector.store.tables import outbox
from tests.paths import ROOT
from tests.platforms.plugins.daemon import Running, running

CONFIG = """\
[store]
url = "sqlite:///state.db"
[server]
port = 0
shutdown_timeout = "1s"
[delivery]
retry_base = "20ms"
retry_max = "100ms"
[log]
level = "error"

[[connections]]
name = "acme"
source = "yotpo"
mode = "MODE"
modules = MODULES
[connections.settings]
base_url = "${YOTPO_URL}"
guid = "guid-sandbox"
api_key = "yotpo_sandbox"
webhook_secret = "yotpo_webhook_secret"
rate_per_second = 500
[connections.klaviyo]
private_key = "pk_sandbox"
flow_guard = "off"
[connections.actions]
secret = "flow_secret"
look_ups = ["100ms", "1s"]
"""
ALL = ("events", "profiles", "audiences", "segments", "actions")
OFF = {"events": ("profiles", "actions"), "actions": ("events", "profiles")}


def config(mode: str = "live", modules: tuple[str, ...] = ALL) -> str:
    return CONFIG.replace("MODE", mode).replace("MODULES", orjson.dumps(modules).decode())


@dataclass
class Setup:
    """A daemon with one connection, whose configuration the test changes."""

    daemon: Running
    yotpo: YotpoSandbox
    other: YotpoSandbox
    file: Path
    number: int = 0

    async def reload(
        self, mode: str = "live", modules: tuple[str, ...] = ALL, platform: str = "YOTPO_URL"
    ) -> None:
        self.file.write_text(config(mode, modules).replace("YOTPO_URL", platform))
        assert (await self.daemon.app.reload())["reloaded"]

    async def post_event(self) -> str:
        """A webhook about a customer; the unique id of its event."""
        self.number += 1
        body = {
            "id": f"e{self.number}",
            "topic": "swell/points/changed",
            "customer": {"email": "ana@example.com", "third_party_id": "1"},
        }
        answer = await self.daemon.post("acme", orjson.dumps(body), {}, "yotpo_webhook_secret")
        assert answer[0] == 202, answer
        seen = await self.records()
        return max(seen, key=lambda id: seen[id][0])

    async def call(self) -> None:
        self.number += 1
        body = {
            "customer_email": "ana@example.com",
            "point_adjustment_amount": 5,
            "history_title": "Survey",
            "idempotency_key": f"k{self.number}",
        }
        answer = await self.daemon.flow("acme/points/adjust", orjson.dumps(body), "flow_secret")
        assert answer[0] == 202, answer

    async def records(self) -> dict[str, tuple[int, State, str | None, str]]:
        """Unique id → (seq, state, problem, detail)."""
        store = self.daemon.app.store
        assert isinstance(store, SqlStore)
        columns = (outbox.c.unique_id, outbox.c.seq, outbox.c.state, outbox.c.problem)
        query = outbox.select().with_only_columns(*columns, outbox.c.detail)
        rows = await store.database.read(lambda c: list(c.execute(query)))
        return {
            id: (seq, State(state), problem, detail) for id, seq, state, problem, detail in rows
        }

    async def actions(self) -> Counter[tuple[str, str | None, str]]:
        found = await self.daemon.app.store.action_views.find(limit=100)
        return Counter((action.state, action.problem, action.detail) for action in found)

    async def until_states(self, *states: State) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for _ in range(500):
            found = await self.records()
            if [row[1] for row in sorted(found.values())] == list(states):
                return found
            await asyncio.sleep(0.02)
        raise AssertionError(sorted(found.values()))

    async def until_actions(self, *states: str) -> Counter[tuple[str, str | None, str]]:
        found: Counter[tuple[str, str | None, str]] = Counter()
        for _ in range(500):
            found = await self.actions()
            if sorted(state for state, _, _ in found.elements()) == sorted(states):
                return found
            await asyncio.sleep(0.02)
        raise AssertionError(found)


@pytest.fixture
async def setup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, silenced_logs: None
) -> AsyncIterator[Setup]:
    shutil.copytree(ROOT / "mappings", tmp_path / "mappings")
    both = [YotpoSandbox(people=0, rate_per_second=None) for _ in range(2)]
    for sandbox in both:
        ana = sandbox.add("ana@example.com", balance=0)
        ana.adjust_points(10, "Welcome", sandbox.moment())
    yotpo, other = both
    platforms = {"yotpo": yotpo.app, "other": other.app}
    async with running(tmp_path, config(), platforms, {}, monkeypatch) as daemon:
        yield Setup(daemon, yotpo, other, tmp_path / "connector.toml")


SWITCHES = [("live", OFF["events"], "disabled"), ("shadow", ALL, "shadow")]


@pytest.mark.parametrize(("mode", "modules", "reason"), SWITCHES)
async def test_events_wait_while_they_are_not_sent(
    setup: Setup, mode: str, modules: tuple[str, ...], reason: str
) -> None:
    faults = setup.daemon.klaviyo.faults
    faults.add("events", "status", status=503)
    waiting = [await setup.post_event() for _ in range(3)]
    await setup.reload(mode, modules)
    faults.clear()
    await setup.until_states(State.HELD, State.HELD, State.HELD)
    meanwhile = await setup.post_event()
    found = await setup.until_states(State.HELD, State.HELD, State.HELD, State.SKIPPED)
    assert {found[id][2] for id in waiting} == {"L41"}
    assert found[meanwhile][3] == reason
    assert not setup.daemon.klaviyo.unique_ids()
    await setup.reload()
    await setup.until_states(State.ACCEPTED, State.ACCEPTED, State.ACCEPTED, State.SKIPPED)
    assert setup.daemon.klaviyo.unique_ids() == dict.fromkeys(waiting, 1)


@pytest.mark.parametrize(
    ("mode", "modules"), [("live", OFF["actions"]), ("shadow", ALL)], ids=["off", "shadow"]
)
async def test_calls_wait_while_they_are_not_sent(
    setup: Setup, mode: str, modules: tuple[str, ...]
) -> None:
    setup.yotpo.faults.add("points/adjust", "status", status=503)
    for _ in range(3):
        await setup.call()
    await setup.reload(mode, modules)
    setup.yotpo.faults.clear()
    found = await setup.until_actions("held", "held", "held")
    assert {problem for _, problem, _ in found} == {"L41"}
    if mode == "shadow":
        await setup.call()
        found = await setup.until_actions("held", "held", "held", "skipped")
        assert ("skipped", None, "shadow") in found
    assert setup.yotpo.adjusted("Survey") == 0
    await setup.reload()
    skipped = ["skipped"] if mode == "shadow" else []
    await setup.until_actions("applied", "applied", "applied", *skipped)
    assert setup.yotpo.adjusted("Survey") == 3


@pytest.mark.parametrize(
    ("mode", "modules"), [("live", OFF["actions"]), ("shadow", ALL)], ids=["off", "shadow"]
)
async def test_an_uncertain_call_is_looked_up_all_the_same(
    setup: Setup, mode: str, modules: tuple[str, ...]
) -> None:
    """A look-up reads; it sends nothing."""
    setup.yotpo.faults.add("points/adjust", "reset_after", count=1)
    setup.yotpo.faults.add("customers", "status", status=503)
    await setup.call()
    await setup.until_actions("uncertain")
    await setup.reload(mode, modules)
    setup.yotpo.faults.clear()
    await setup.until_actions("applied")
    assert setup.yotpo.adjusted("Survey") == 1


async def test_an_uncertain_call_is_not_sent_again_to_another_account(setup: Setup) -> None:
    """Where the connection's settings have changed, a look-up proves nothing by what it misses."""
    setup.yotpo.faults.add("points/adjust", "reset_after", count=1)
    setup.yotpo.faults.add("customers", "status", status=503)
    await setup.call()
    await setup.until_actions("uncertain")
    await setup.reload(platform="OTHER_URL")
    for _ in range(500):
        if "not found" in str(found := await setup.actions()) or setup.other.adjusted("Survey"):
            break
        await asyncio.sleep(0.02)
    assert setup.yotpo.adjusted("Survey") + setup.other.adjusted("Survey") == 1
    [(state, problem, detail)] = found
    assert (state, problem) == ("uncertain", "A10")
    assert detail == "not found, but [connections.settings] have changed since it was sent"


async def test_profiles_that_wait_are_sent_when_shadow_ends(setup: Setup) -> None:
    await setup.reload("shadow")
    await setup.post_event()
    await setup.until_states(State.SKIPPED)
    await setup.reload()
    await setup.daemon.until(lambda: setup.daemon.properties("ana@example.com"))
