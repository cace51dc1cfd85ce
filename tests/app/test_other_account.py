"""Another Klaviyo account, and what is not switched on while a person confirms it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from connector.sandbox import KlaviyoSandbox
from tests.waiting import async_until

from .start import World, opened


@pytest.fixture
async def world(tmp_path: Path, silenced_logs: None) -> AsyncIterator[World]:
    async with opened(tmp_path) as found:
        found.answer()
        yield found


def profiles_of(klaviyo: KlaviyoSandbox) -> Callable[[], Any]:
    """Looks whether a profile with fields of ours is there."""
    return lambda: any(each.get("properties") for each in klaviyo.profiles_by_id.values())


def only_events(connection: str) -> str:
    return connection.replace("source =", 'modules = ["events"]\nsource =', 1)


def in_question(world: World) -> bool:
    runtime = world.app.runtimes["acme"]
    return runtime.account == "OTHER1" and runtime.events.state.mode == "paused"


@pytest.mark.parametrize("noticed_with", ["events", "all"])
async def test_profiles_of_a_module_that_is_off_are_sent_to_the_other_account_later(
    world: World, noticed_with: str
) -> None:
    async with world.running():
        await world.post()
        await async_until("the profile is written", profiles_of(world.klaviyo))
    other = KlaviyoSandbox(limits=False, key="pk_other", account_id="OTHER1")
    everything = await world.connection_to(other, "pk_other")
    if noticed_with == "all":
        world.configure(everything)
        async with world.running():
            await async_until("the lanes are paused", lambda: in_question(world))
    world.configure(only_events(everything))
    async with world.running() as app:
        await async_until("the lanes are paused", lambda: in_question(world))
        done, result = await app.commands.execute("resume", {"connection": "acme"})
        assert done, result
    world.configure(everything)
    async with world.running():
        await async_until("the profile is written", profiles_of(other))
