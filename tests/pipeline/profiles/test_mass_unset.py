"""Removing a field from many people at once waits for approval where live flows may depend on it
(guarantee 9)."""

from __future__ import annotations

from typing import Any

import pytest

from connector.domain.errors import Problem
from connector.domain.records import State

from .conftest import Configs, Environment
from .test_unanswered_jobs import observe

PEOPLE = 400


def with_tier(env: Environment) -> int:
    found = (env.klaviyo.profile(f"p{n}@example.com") or {} for n in range(PEOPLE))
    return sum("tier" in profile["properties"] for profile in found if profile)


async def start(configs: Configs, *, live: bool = True, **changes: Any) -> Environment:
    """A running connection whose people have a tier at Klaviyo."""
    env = Environment(configs(**changes), job_delay=1.0)
    await env.start()
    if live:
        segment = env.klaviyo.make_segment("Gold")
        env.klaviyo.flows.add("Now gold", "live", "Added to List", segment)
    await observe(env, range(PEOPLE), tier="Gold", balance=1)
    await env.run_until_idle()
    assert with_tier(env) == PEOPLE
    return env


async def decide(env: Environment, approved: bool) -> None:
    [approval] = await env.store.approvals.find()
    now = env.clock.now()
    assert await env.store.approvals.decide(approval.id, approved=approved, by="ana", now=now)
    env.runtime.wake()
    await env.run_until_idle()


async def test_a_field_is_not_removed_from_many_people_before_a_person_approves(
    configs: Configs,
) -> None:
    env = await start(configs)
    env.clock.move(1.0)
    await observe(env, range(PEOPLE), tier=None, balance=1)
    await env.clock.advance(300.0)
    left = with_tier(env)
    assert PEOPLE - 80 <= left < PEOPLE, "the first ones of a day need no approval"
    [approval] = await env.store.approvals.find()
    assert (approval.what, approval.subject) == ("mass_unset", "tier")
    assert approval.detail["people"] == left
    assert approval.detail["live_flows"] == ["Now gold"]
    [stuck] = await env.store.dead_letters.groups()
    assert stuck[1:] == (State.HELD, Problem.MASS_UNSET.value, left)

    # Everything else of these people is written meanwhile.
    env.clock.move(1.0)
    await observe(env, range(PEOPLE - 5, PEOPLE), tier=None, balance=2)
    await env.clock.advance(30.0)
    last = env.klaviyo.profile(f"p{PEOPLE - 1}@example.com")
    assert last
    assert last["properties"] == {"tier": "Gold", "balance": 2}

    await env.kill()
    await env.start()
    await env.clock.advance(120.0)
    assert with_tier(env) == left
    await decide(env, approved=True)
    assert with_tier(env) == 0
    assert await env.store.approvals.find(pending=False) == []
    await env.kill()


async def test_a_rejected_removal_leaves_the_field_and_a_new_value_ends_the_hold(
    configs: Configs,
) -> None:
    env = await start(configs)
    env.clock.move(1.0)
    await observe(env, range(PEOPLE), tier=None, balance=1)
    await env.clock.advance(300.0)
    left = with_tier(env)
    await decide(env, approved=False)
    await env.clock.advance(3600.0)
    assert with_tier(env) == left
    assert await env.store.approvals.find() == []
    await observe(env, range(PEOPLE), tier="Gold", balance=1)
    await env.run_until_idle()
    assert with_tier(env) == PEOPLE
    assert await env.store.dead_letters.groups() == []
    await env.kill()


async def test_without_a_live_flow_the_field_is_removed(configs: Configs) -> None:
    env = await start(configs, live=False)
    env.clock.move(1.0)
    await observe(env, range(PEOPLE), tier=None, balance=1)
    await env.clock.advance(600.0)
    assert with_tier(env) == 0
    assert await env.store.approvals.find(pending=False) == []
    await env.kill()


@pytest.mark.parametrize("people", [50, PEOPLE])
async def test_a_few_removals_among_many_writes_ask_no_one(configs: Configs, people: int) -> None:
    env = await start(configs)
    env.clock.move(1.0)
    await observe(env, range(people // 5), tier=None, balance=1)
    await observe(env, range(people // 5, PEOPLE), tier="Gold", balance=2)
    await env.run_until_idle()
    assert with_tier(env) == PEOPLE - people // 5
    assert await env.store.approvals.find(pending=False) == []
    await env.kill()


async def test_what_waits_is_removed_once_the_flow_guard_is_switched_off(configs: Configs) -> None:
    env = await start(configs)
    env.clock.move(1.0)
    await observe(env, range(PEOPLE), tier=None, balance=1)
    await env.clock.advance(300.0)
    assert with_tier(env) >= PEOPLE - 80
    await env.kill()
    klaviyo = env.config.connections[0].klaviyo.model_copy(update={"flow_guard": "off"})
    connection = env.config.connections[0].model_copy(update={"klaviyo": klaviyo})
    env.config = env.config.model_copy(update={"connections": (connection,)})
    await env.start()
    await env.run_until_idle()
    await env.clock.advance(120.0)
    await env.run_until_idle()
    assert with_tier(env) == 0
    assert await env.store.approvals.find() == []
    await env.kill()
