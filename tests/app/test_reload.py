"""What a reload takes over from the configuration without a restart."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from connector.app.connections import Candidate
from connector.app.daemon import App
from connector.domain.errors import ConfigError, Problem
from connector.domain.lanes import LaneState
from connector.pipeline.lease import STORE_RESOURCE
from connector.platforms.jericommerce.api import JeriCommerceApi
from connector.sandbox import JeriCommerceSandbox, KlaviyoSandbox, Traffic
from tests.paths import ROOT
from tests.platforms.plugins.daemon import Running, running
from tests.waiting import async_until

from .start import World, opened

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


# ── what a reload leaves alone ───────────────────────────────────────────────────────────────────


class Two:
    """A daemon with the connections `one` and `two`, each to an account of its own."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.one, self.two = (
            KlaviyoSandbox(limits=False, account_id=f"ACCT0{n}", key=f"pk_{n}") for n in (1, 2)
        )
        self.texts: dict[str, str] = {}

    async def configure(self) -> None:
        self.texts["one"] = await self.world.connection_to(self.one, "pk_1", name="one")
        self.texts["two"] = await self.world.connection_to(self.two, "pk_2", name="two")
        self.write()

    def write(self) -> None:
        self.world.configure(*self.texts.values())


@pytest.fixture
async def two(tmp_path: Path, silenced_logs: None) -> AsyncIterator[Two]:
    async with opened(tmp_path) as world:
        world.answer()
        made = Two(world)
        await made.configure()
        yield made


async def both_run(app: App) -> None:
    await async_until("both run", lambda: app.connections.running == {"one", "two"})


async def test_a_connection_that_has_not_changed_runs_on(two: Two) -> None:
    async with two.world.running() as app:
        await both_run(app)
        kept, replaced = app.runtimes["one"], app.runtimes["two"]
        two.world.platform_gate.open.clear()
        id = await two.world.post("one")
        await async_until("its person is read", lambda: two.world.platform_gate.waiting)
        two.texts["two"] = two.texts["two"].replace(
            'source = "jericommerce"\n', 'source = "jericommerce"\nmodules = ["events"]\n'
        )
        two.write()
        assert (await app.reload())["reloaded"]
        assert app.runtimes["one"] is kept
        assert app.runtimes["two"] is not replaced
        assert list(app.runtimes) == ["one", "two"]
        assert two.world.platform_gate.waiting, "the read is still under way"
        two.world.answer()
        await async_until("its event is delivered", lambda: two.one.recorded(id) == 1)
        other = await two.world.post("two")
        await async_until("the other delivers", lambda: two.two.recorded(other) == 1)


async def test_connections_are_added_and_removed_beside_one_that_runs_on(two: Two) -> None:
    async with two.world.running() as app:
        await both_run(app)
        kept = app.runtimes["one"]
        removed = two.texts.pop("two")
        two.write()
        await app.reload()
        assert app.runtimes == {"one": kept}
        two.texts = {"two": removed, **two.texts}
        two.write()
        await app.reload()
        await both_run(app)
        assert app.runtimes["one"] is kept
        assert list(app.runtimes) == ["two", "one"]
        id = await two.world.post("two")
        await async_until("it is delivered", lambda: two.two.recorded(id) == 1)


async def test_an_edited_mapping_replaces_the_connections_that_use_it(two: Two) -> None:
    other = two.world.folder / "other.toml"
    other.write_text(two.world.mapping.read_text())
    two.texts["two"] = two.texts["two"].replace(str(two.world.mapping), str(other))
    two.write()
    async with two.world.running() as app:
        await both_run(app)
        kept, before = app.runtimes["one"], app.runtimes["two"].mapping
        other.write_text(other.read_text().replace('prefix = ""', 'prefix = "Loyalty "'))
        await app.reload()
        assert app.runtimes["one"] is kept
        assert app.runtimes["two"].mapping != before


async def test_a_blocked_lane_tries_again_after_a_reload_and_not_after_a_setting(two: Two) -> None:
    async with two.world.running() as app:
        await both_run(app)
        kept, blocked = app.runtimes["one"], app.runtimes["two"]
        state = LaneState("blocked", Problem.KLAVIYO_KEY)
        blocked.events.load_state(state)
        await app.reload(requested=False)
        assert app.runtimes["two"] is blocked
        await app.reload()
        assert app.runtimes["two"] is not blocked
        assert app.runtimes["one"] is kept


async def test_a_section_that_concerns_all_replaces_all(two: Two) -> None:
    async with two.world.running() as app:
        await both_run(app)
        before = set(map(id, app.runtimes.values()))
        two.world.file.write_text(two.world.file.read_text().replace('"20ms"', '"30ms"'))
        await app.reload()
        assert not before & set(map(id, app.runtimes.values()))


async def test_a_reload_names_the_sections_that_need_a_restart(two: Two) -> None:
    """The free disk space that the store needs is looked at again and again."""
    async with two.world.running() as app:
        text = two.world.file.read_text()
        for line, sections in (('min_free = "2MB"', []), ('migrate = "manual"', ["store"])):
            two.world.file.write_text(text.replace("[store]", f"[store]\n{line}"))
            assert (await app.reload())["needs_restart"] == sections


async def test_a_refused_configuration_leaves_the_shares_of_an_account(two: Two) -> None:
    """Of two connections to one account the smaller share counts."""
    two.texts["two"] = two.texts["one"].replace('"one"', '"two"') + "rate_share = 0.1\n"
    two.texts["two"] = two.texts["two"].replace(
        'source = "jericommerce"\n', 'source = "jericommerce"\nmodules = ["actions"]\n'
    )
    two.write()

    def allowed() -> int:
        return max(use.allowed for use in app.connections.quota())

    async with two.world.running() as app:
        await both_run(app)
        smaller = allowed()
        shared = two.texts["two"]
        two.texts["two"] = shared.replace(
            str(two.world.mapping), str(ROOT / "mappings" / "yotpo.toml")
        )
        two.write()
        with pytest.raises(ConfigError):
            await app.reload()
        assert allowed() == smaller
        two.texts.pop("two")
        two.write()
        await app.reload()
        assert allowed() > smaller


async def test_of_two_reloads_at_once_the_later_one_counts(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replica follows settings while a person orders a reload: the one that has read the older
    configuration must not end last."""
    async with two.world.running() as app:
        await both_run(app)
        build, built, gate = app.connections.build, asyncio.Event(), asyncio.Event()

        async def first_build(*args: Any, **options: Any) -> Candidate:
            monkeypatch.setattr(app.connections, "build", build)
            built.set()
            await gate.wait()
            return await build(*args, **options)

        monkeypatch.setattr(app.connections, "build", first_build)
        async with asyncio.TaskGroup() as reloads:
            reloads.create_task(app.reload())
            await built.wait()
            two.texts["two"] = two.texts["two"].replace(
                'source = "jericommerce"\n', 'source = "jericommerce"\nmodules = ["events"]\n'
            )
            two.write()
            later = reloads.create_task(app.reload())
            for _ in range(100):  # it builds and replaces, if it is not held up
                await asyncio.sleep(0.005)
                if later.done():
                    break
            gate.set()
        assert app.config.connection("two").modules == ("events",)
        assert app.runtimes["two"].modules == ("events",)


SEGMENT = '[[connections.segments]]\nsegment = "{0}"\ntarget = "{0}"\n'


async def linked(app: App) -> set[str]:
    return {group.name for group in await app.store.member_groups.all("two")}


async def test_a_lease_that_is_taken_while_connections_are_replaced_leaves_the_new_links(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Takeover puts the links of the connections into use as they are then."""
    text = two.texts["two"]
    two.texts["two"] = text + SEGMENT.format("old")
    two.write()
    async with two.world.running() as app:
        await both_run(app)
        build = app.connections.build

        async def build_and_take(*args: Any, **options: Any) -> Candidate:
            candidate = await build(*args, **options)
            await app.connections.refresh(STORE_RESOURCE)
            return candidate

        monkeypatch.setattr(app.connections, "build", build_and_take)
        two.texts["two"] = text + SEGMENT.format("new")
        two.write()
        await app.reload()
        assert await linked(app) == {"new"}


async def test_a_refused_configuration_leaves_the_links(two: Two) -> None:
    text = two.texts["two"]
    two.texts["two"] = text + SEGMENT.format("old")
    two.write()
    async with two.world.running() as app:
        await both_run(app)
        two.texts["two"] = text + SEGMENT.format("new")
        two.texts["one"] = two.texts["one"].replace("mapping.toml", "missing.toml")
        two.write()
        with pytest.raises(ConfigError):
            await app.reload()
        assert await linked(app) == {"old"}


async def test_a_client_that_cannot_be_closed_keeps_no_connection_from_its_successor(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    close = JeriCommerceApi.aclose

    async def broken(api: JeriCommerceApi) -> None:
        await close(api)
        raise ValueError("a platform's package")

    monkeypatch.setattr(JeriCommerceApi, "aclose", broken)
    async with two.world.running() as app:
        await both_run(app)
        old = app.runtimes["two"]
        two.texts["two"] = two.texts["two"].replace(
            'source = "jericommerce"\n', 'source = "jericommerce"\nmodules = ["events"]\n'
        )
        two.write()
        await app.reload()
        assert app.runtimes["two"] is not old
        id = await two.world.post("two")
        await async_until("it is delivered", lambda: two.two.recorded(id) == 1)
