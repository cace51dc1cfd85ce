"""A start waits for no remote API (guarantee 13): webhooks are taken at once, lanes wait for their
account."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from sqlalchemy import select

from connector.app import accounts
from connector.app.daemon import App
from connector.app.wiring.accounts import Account
from connector.domain.errors import DeliveryError, Problem, StoreError
from connector.domain.lanes import Millis
from connector.domain.profile_state import address_hash
from connector.domain.records import State
from connector.runtime import log
from connector.sandbox import KlaviyoSandbox
from connector.store.tables import outbox
from tests.waiting import async_until, free_port

from .start import World, address_of_who_joins_when_named, opened

ACCOUNTS = "/api/accounts"


@pytest.fixture
async def world(
    tmp_path: Path, silenced_logs: None, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[World]:
    monkeypatch.setattr(accounts, "_RETRY_BASE", 0.05)
    monkeypatch.setattr(accounts, "_RETRY_MAX", 0.2)
    async with opened(tmp_path) as made:
        yield made


async def states(world: World) -> list[int]:
    query = select(outbox.c.state).order_by(outbox.c.seq)
    return await world.app.store.database.read(lambda c: list(c.execute(query).scalars()))


def modes(world: World) -> set[str]:
    return {lane.state.mode for lane in world.app.runtimes["acme"].dispatchers}


async def test_webhooks_are_taken_while_no_remote_api_answers(world: World) -> None:
    async with world.running():
        id = await world.post()
        assert world.klaviyo_gate.given_up == [], "the start has waited until a time-out"
        await async_until("the account is asked for", lambda: world.klaviyo_gate.waiting)
        assert world.klaviyo_gate.waiting == [ACCOUNTS], "nothing is sent before it is known"
        assert await states(world) == [State.READY]
        world.answer()
        await async_until("it is delivered", lambda: world.klaviyo.recorded(id) == 1)
        assert await world.attention() == ""


async def test_an_account_that_was_never_named_is_waited_for_and_shown(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accounts, "_TIMEOUT", 0.1)
    log.configure(level="info")
    with structlog.testing.capture_logs() as logs:
        await _wait_for_the_account(world)
    waits = ("connection_waits", "connection_continues")
    assert [line["event"] for line in logs if line["event"] in waits] == list(waits)


async def _wait_for_the_account(world: World) -> None:
    async with world.running():
        id = await world.post()
        await async_until("it is asked for again", lambda: len(world.klaviyo_gate.given_up) > 1)
        assert "acme: Klaviyo does not say which account" in await world.attention()
        assert set(world.klaviyo_gate.given_up) == {ACCOUNTS}
        world.answer()
        await async_until("it is delivered", lambda: world.klaviyo.recorded(id) == 1)
        assert await world.attention() == ""


async def test_an_account_that_was_named_before_is_assumed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.answer()
    async with world.running():
        await async_until("it is named", lambda: world.app.connections.running)
    world.silence()
    monkeypatch.setattr(accounts, "_TIMEOUT", 0.1)
    log.configure(level="warning")
    with structlog.testing.capture_logs() as logs:
        async with world.running() as app:
            assert app.runtimes["acme"].account == "SANDBX"
            await async_until("its lanes start", lambda: world.app.connections.running)
    [line] = [line for line in logs if line["event"] == "klaviyo_account_unreadable"]
    assert (line["problem"], line["assumed"]) == ("N30", "SANDBX")
    assert "N30" not in line["detail"]
    async with world.running() as app:
        id = await world.post()
        await async_until("it is sent", lambda: "/api/events" in world.klaviyo_gate.waiting)
        world.answer()
        await async_until("it is delivered", lambda: world.klaviyo.recorded(id) == 1)
        await async_until("it is confirmed", lambda: app.connections.accounts["acme"].confirmed)


async def test_the_links_of_the_configuration_are_in_use_from_the_start(world: World) -> None:
    """Whatever Klaviyo answers: platforms report who joins before that, and where it names the
    account that is known already, nothing is built again."""

    def link(name: str) -> None:
        segment = f'[[connections.segments]]\nsegment = "{name}"\ntarget = "{name}"\n'
        world.configure(world.connection() + segment)

    async def linked(app: App) -> set[str]:
        return {group.name for group in await app.store.member_groups.all()}

    link("never named")
    async with world.running() as app:
        assert await linked(app) == {"never named"}
    world.answer()
    async with world.running() as app:
        await async_until("it runs", lambda: app.connections.running)
        assert await linked(app) == {"never named"}
    link("named before")
    async with world.running() as app:
        assert await linked(app) == {"named before"}


async def test_who_joins_an_audience_while_the_account_is_named_is_compared_within_it(
    world: World,
) -> None:
    world.configure(world.audience())
    async with world.running() as app:
        address = await address_of_who_joins_when_named(world, app)
        assert address == address_hash("SANDBX", "ada@example.com")


async def test_nothing_is_sent_to_another_account_than_before(world: World) -> None:
    world.answer()
    async with world.running():
        await async_until("it is named", lambda: world.app.connections.running)
    other = KlaviyoSandbox(limits=False, key="pk_other", account_id="OTHER1")
    world.configure(await world.connection_to(other, "pk_other"))
    async with world.running() as app:
        id = await world.post()
        await async_until("the lanes are paused", lambda: "paused" in modes(world))
        assert Problem.KLAVIYO_ACCOUNT.value in await world.attention()
        assert other.recorded(id) == 0
        assert (await app.commands.execute("resume", {"connection": "acme"}))[0]
        await async_until("it is delivered", lambda: other.recorded(id) == 1)


async def test_another_account_is_adopted_once_all_is_forgotten_of_the_earlier_one(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.answer()
    async with world.running():
        await async_until("it is named", lambda: world.app.connections.running)
    other = KlaviyoSandbox(limits=False, key="pk_other", account_id="OTHER1")
    world.configure(await world.connection_to(other, "pk_other"))
    async with world.running() as app:
        await async_until("the lanes are paused", lambda: "paused" in modes(world))

        async def fails(connection: str, *, now: Millis) -> None:
            raise StoreError(Problem.STORE_UNAVAILABLE, "cut off")

        with monkeypatch.context() as patch:
            patch.setattr(app.store.member_groups, "reset_account", fails)
            done, result = await app.commands.execute("resume", {"connection": "acme"})
        assert not done, result
        assert "paused" in modes(world)
        assert await app.store.facts.pinned_accounts() == {"acme": "SANDBX"}


async def test_an_account_in_question_stays_so_over_a_restart_without_an_answer(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.answer()
    async with world.running():
        await async_until("it is named", lambda: world.app.connections.running)
    other = KlaviyoSandbox(limits=False, key="pk_other", account_id="OTHER1")
    world.configure(await world.connection_to(other, "pk_other"))
    async with world.running():
        await async_until("the lanes are paused", lambda: "paused" in modes(world))
    other.faults.add("accounts", "status", status=503)
    monkeypatch.setattr(accounts, "_TIMEOUT", 0.1)
    async with world.running():
        await async_until("it runs as assumed", lambda: world.app.connections.running)
        assert "paused" in modes(world)
        id = await world.post()
        assert other.recorded(id) == 0


async def test_another_account_that_is_noticed_late_pauses_the_lanes(world: World) -> None:
    world.answer()
    async with world.running():
        await async_until("it is named", lambda: world.app.connections.running)
    other = KlaviyoSandbox(limits=False, key="pk_other", account_id="OTHER1")
    world.configure(await world.connection_to(other, "pk_other"))
    other.faults.add("accounts", "status", status=403)
    async with world.running():
        await async_until("it runs as assumed", lambda: world.app.connections.running)
        other.faults.clear()
        await async_until("the lanes are paused", lambda: "paused" in modes(world))
        assert world.app.runtimes["acme"].account == "OTHER1"


async def test_a_refused_key_blocks_the_lanes_and_not_the_intake(world: World) -> None:
    world.answer()
    world.klaviyo.faults.add("*", "status", status=401)
    async with world.running():
        id = await world.post()
        await async_until("the lanes are blocked", lambda: "blocked" in modes(world))
        world.klaviyo.faults.clear()
        await async_until("it is delivered", lambda: world.klaviyo.recorded(id) == 1)
        await async_until(
            "the account is known", lambda: world.app.runtimes["acme"].account == "SANDBX"
        )


async def test_remote_apis_that_refuse_connections_hold_up_no_start(world: World) -> None:
    port = free_port()
    nowhere = f"http://127.0.0.1:{port}"
    world.configure(world.connection(klaviyo=nowhere, platform=nowhere))
    async with world.running():
        id = await world.post()
        await world.servers.start("late", world.klaviyo.app, port)
        await async_until("it is delivered", lambda: world.klaviyo.recorded(id) == 1)


async def test_a_look_up_that_waits_for_quota_keeps_its_cause(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where connections are refused, the cause must not become a time-out once the quota of a
    minute is used up."""
    monkeypatch.setattr(accounts, "_TIMEOUT", 0.3)
    nowhere = f"http://127.0.0.1:{free_port()}"
    world.configure(world.connection(klaviyo=nowhere))
    found: list[Problem] = []
    show = accounts.AccountLookups._unreadable

    async def note(self: accounts.AccountLookups, asked: Account, error: DeliveryError) -> None:
        found.append(error.problem)
        await show(self, asked, error)

    monkeypatch.setattr(accounts.AccountLookups, "_unreadable", note)
    async with world.running():
        # A second's quota is one call, so that of these two one has waited for it in vain.
        await async_until("it is looked up twice", lambda: len(found) >= 2)
        assert set(found) == {Problem.NOT_CONNECTED}
        shown = await world.attention()
        assert "N20 acme: Klaviyo does not say" in shown
        assert "then `connector resume acme` tries at once" in shown


async def test_a_person_who_resumes_need_not_wait_until_the_account_is_asked_for_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accounts, "_TIMEOUT", 1.5)  # a second's quota is one call
    monkeypatch.setattr(accounts, "_RETRY_BASE", 600.0)
    monkeypatch.setattr(accounts, "_RETRY_MAX", 600.0)
    async with world.running() as app:
        await async_until("it waits", lambda: app._problems.items("account acme"))
        world.answer()
        done, resumed = await app.commands.execute("resume", {"connection": "acme"})
        assert done, resumed
        await async_until("it runs", lambda: app.connections.running)


async def test_a_backfill_that_begins_while_the_account_is_named_is_carried_out(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command reached the connection that was built for no account, and its run was stored when
    the one for the account had looked for runs already."""
    async with world.running() as app:
        backfills: Any = app.store.backfills
        begin, find, set_state = backfills.begin, backfills.find, backfills.set_state
        looks, states = 0, []

        async def counted(*args: Any, **options: Any) -> Any:
            nonlocal looks
            found = await find(*args, **options)
            looks += 1
            return found

        async def late(*args: Any, **options: Any) -> Any:
            world.answer()
            await async_until("it is built again, and looks", lambda: looks == 2)
            return await begin(*args, **options)

        async def noted(id: int, state: str, **options: Any) -> Any:
            states.append(state)
            return await set_state(id, state, **options)

        monkeypatch.setattr(backfills, "find", counted)
        monkeypatch.setattr(backfills, "set_state", noted)
        monkeypatch.setattr(backfills, "begin", late)
        order = {"connection": "acme", "source": "seen", "dry_run": True}
        done, result = await app.commands.execute("backfill", order)
        assert done, result
        assert app.connections.running == {"acme"}

        await async_until("it is carried out", lambda: "done" in states)


async def test_connections_of_one_key_ask_once_and_all_run(world: World) -> None:
    shadow = world.connection("second").replace("source =", 'mode = "shadow"\nsource =', 1)
    world.configure(world.connection(), shadow)
    async with world.running() as app:
        await world.post()
        await world.post("second")
        await async_until("the account is asked for", lambda: world.klaviyo_gate.waiting)
        assert world.klaviyo_gate.waiting == [ACCOUNTS]
        world.answer()
        await async_until("both run", lambda: app.connections.running == {"acme", "second"})


async def test_two_keys_of_one_account_that_write_the_same_are_noticed(world: World) -> None:
    same = KlaviyoSandbox(limits=False, key="pk_second")
    second = await world.connection_to(same, "pk_second", name="second")
    world.configure(world.connection(), second)
    world.answer()
    async with world.running() as app:
        await async_until("one of them runs", lambda: app.connections.running)
        await async_until("the other waits", lambda: app._problems.items("account "))
        assert "writes to the same Klaviyo account" in await world.attention()
        assert len(app.connections.running) == 1
        await world.post()
        await world.post("second")


async def test_until_idle_says_which_connection_waits_for_its_account(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accounts, "_TIMEOUT", 0.1)
    async with world.running() as app:
        [line] = await app.until_idle()
    assert "Klaviyo does not say which account" in line


async def test_a_reload_while_the_account_is_asked_for_is_no_fault_of_klaviyo(
    world: World,
) -> None:
    async with world.running() as app:
        id = await world.post()
        await async_until("the account is asked for", lambda: world.klaviyo_gate.waiting)
        assert (await app.reload())["reloaded"]
        # The first call would be repeated, by a client that the reload has closed.
        world.klaviyo.faults.add("accounts", "status", status=503, count=1)
        world.answer()
        assert await app.until_idle() == []
        assert world.klaviyo.recorded(id) == 1
