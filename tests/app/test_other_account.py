"""Another Klaviyo account, and what is not switched on while a person confirms it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from connector.app import accounts
from connector.app.daemon import App
from connector.app.wiring.accounts import Account
from connector.ports import Approval
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


async def test_another_account_is_noticed_while_a_look_up_of_another_connection_crashes(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accounts, "_TIMEOUT", 0.1)
    read = accounts.AccountLookups._read

    async def read_but_of_second(lookups: accounts.AccountLookups, account: Account) -> str:
        if "pk_second" in account.credential:
            raise RuntimeError("planted")
        return await read(lookups, account)

    monkeypatch.setattr(accounts.AccountLookups, "_read", read_but_of_second)
    async with world.running() as app:
        await async_until("it is named", lambda: app.connections.running)
    world.klaviyo.account_id = "OTHER1"
    world.configure(world.connection(), world.connection("second", key="pk_second"))
    world.silence()
    async with world.running() as app:
        await async_until("it runs as before", lambda: app.connections.running)
        world.answer()
        await async_until("the lanes are paused", lambda: in_question(world))


async def requests(app: App) -> Sequence[Approval]:
    """What waits for approval, once something does."""
    for _ in range(500):
        if found := await app.store.approvals.find():
            return found
        await asyncio.sleep(0.01)
    raise AssertionError("nothing waits for approval")


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


async def test_a_backfill_asks_again_before_it_continues_at_the_other_account(
    world: World, tmp_path: Path
) -> None:
    people = [f"person{number}@example.com" for number in range(60)]
    for email in people:
        world.platform.add(email)
    file = tmp_path / "people.csv"
    file.write_text("email\n" + "\n".join(people))
    start = {"connection": "acme", "source": "emails", "what": str(file)}
    async with world.running() as app:
        await async_until("it runs", lambda: app.connections.running)
        world.platform_gate.open.clear()
        done, result = await app.commands.execute("backfill", start)
        assert done, result
        await async_until("someone is read", lambda: world.platform_gate.waiting)
    other = KlaviyoSandbox(limits=False, key="pk_other", account_id="OTHER1")
    other.flows.add("Now gold", "live", "Added to List", other.make_segment("Gold"))
    world.configure(await world.connection_to(other, "pk_other"))
    async with world.running() as app:
        await async_until("the lanes are paused", lambda: in_question(world))
        done, resumed = await app.commands.execute("resume", {"connection": "acme"})
        assert done, resumed
        asked = await requests(app)
        assert (asked[0].what, asked[0].detail["account"]) == ("backfill", "OTHER1")
        world.answer()
        await world.post()
        await async_until("another profile is written", profiles_of(other))
        # Those whose read was in flight may be among them.
        assert not all(map(other.profile, people))
        assert (await app.commands.backfill(result["backfill"]))["state"] == "waiting"
        done, decided = await app.commands.execute("approve", {"id": asked[0].id, "by": "ana"})
        assert done, decided
        await async_until("all are written", lambda: all(map(other.profile, people)))
