"""An event carries its person's fields, however long the read takes, within a limit."""

from __future__ import annotations

from typing import Any

from connector.sandbox import Write
from connector.sandbox.jericommerce.people import Person

from .conftest import Configs, Environment


def events_of(env: Environment, person: Person) -> list[Write]:
    return [w for w in env.klaviyo.writes if w.kind == "event" and w.email == person.email]


def carries_balance(write: Write) -> bool:
    return "properties.balance" in write.keys


def unattached(env: Environment) -> int:
    return env.metrics.activity.unattached["acme"]


def slow_reads(env: Environment, seconds: Any) -> None:
    """Each answer of the platform takes so long; a person's first read needs two of them."""
    env.fault_transports["jericommerce"].after = (
        seconds if callable(seconds) else lambda: float(seconds)
    )


async def started(configs: Configs, people: int, **settings: Any) -> Environment:
    env = Environment(configs(**settings), people=people)
    await env.start()
    return env


async def test_an_event_waits_for_a_read_that_takes_longer_than_attach_wait(
    configs: Configs,
) -> None:
    env = await started(configs, 1)
    [ana] = env.platform.people
    slow_reads(env, 2.0)
    await env.send_event("Balance changed", ana)
    await env.clock.advance(3.9)
    assert events_of(env, ana) == []
    await env.clock.advance(0.2)
    assert [carries_balance(write) for write in events_of(env, ana)] == [True]
    assert unattached(env) == 0
    await env.kill()


async def test_no_event_waits_longer_than_attach_wait_max(configs: Configs) -> None:
    env = await started(configs, 1)
    [ana] = env.platform.people
    slow_reads(env, 600.0)
    await env.send_event("Balance changed", ana)
    await env.clock.advance(4.9)
    assert events_of(env, ana) == []
    await env.clock.advance(0.2)
    assert [carries_balance(write) for write in events_of(env, ana)] == [False]
    assert unattached(env) == 1
    await env.kill()


async def test_an_event_that_comes_during_a_read_waits_for_the_next_one(configs: Configs) -> None:
    env = await started(configs, 1)
    [ana] = env.platform.people
    slow_reads(env, 0.4)
    await env.send_event("Balance changed", ana)
    await env.clock.advance(0.1)
    ana.change(balance=777)
    await env.send_event("Balance changed", ana)
    await env.run_until_idle()
    assert [carries_balance(write) for write in events_of(env, ana)] == [True, True]
    assert env.synced_fields(ana.email)["balance"] == 777
    assert unattached(env) == 0
    await env.kill()


async def test_while_reads_are_fast_one_slow_person_costs_attach_wait_and_no_one_else(
    configs: Configs,
) -> None:
    env = await started(configs, 12)
    *others, slow = env.platform.people
    slow_reads(env, 0.02)
    for person in others[:10]:
        await env.send_event("Balance changed", person)
        await env.clock.advance(1.0)
    slow_reads(env, iter((600.0, 0.02, 0.02, 0.02)).__next__)
    await env.send_event("Balance changed", slow)
    await env.clock.advance(0.01)
    await env.send_event("Balance changed", others[10])
    await env.clock.advance(0.9)
    assert [carries_balance(write) for write in events_of(env, others[10])] == [True]
    assert events_of(env, slow) == []
    await env.clock.advance(0.2)
    assert [carries_balance(write) for write in events_of(env, slow)] == [False]
    assert unattached(env) == 1
    await env.kill()


async def test_the_wait_grows_while_reads_are_slow_and_shrinks_afterwards(configs: Configs) -> None:
    env = await started(configs, 80)
    people = iter(env.platform.people)
    slow_reads(env, 0.02)
    for _ in range(20):
        await env.send_event("Balance changed", next(people))
        await env.clock.advance(1.0)
    slow_reads(env, 1.2)  # 2.4 s for a first read
    waits = [await sent_after(env, next(people)) for _ in range(2)]
    assert waits == [(1.0, False), (2.4, True)]
    slow_reads(env, 0.02)
    for _ in range(50):
        await env.send_event("Balance changed", next(people))
        await env.clock.advance(1.0)
    slow_reads(env, 600.0)
    assert await sent_after(env, next(people)) == (1.0, False)
    await env.kill()


async def sent_after(env: Environment, person: Person) -> tuple[float, bool]:
    """After how many seconds an event of this person is sent, and whether with fields."""
    await env.send_event("Balance changed", person)
    for tenth in range(1, 100):
        await env.clock.advance(0.1)
        if found := events_of(env, person):
            # What is read meanwhile ends before the next event.
            await env.clock.advance(5.0)
            return tenth / 10, carries_balance(found[0])
    raise AssertionError("never sent")


async def test_an_event_does_not_wait_for_a_read_that_was_refused(configs: Configs) -> None:
    env = await started(configs, 2)
    ana, eva = env.platform.people
    env.platform.faults.add("customers", "status", status=400)
    await env.send_event("Balance changed", ana)
    await env.clock.advance(0.1)
    assert [carries_balance(write) for write in events_of(env, ana)] == [False]
    env.platform.faults.clear()
    env.platform.faults.add("customers", "status", status=401)
    await env.send_event("Balance changed", eva)
    await env.clock.advance(0.1)
    assert [carries_balance(write) for write in events_of(env, eva)] == [False]
    # The lane of reads is blocked now: nothing can come.
    await env.send_event("Balance changed", ana)
    await env.clock.advance(0.1)
    assert [carries_balance(write) for write in events_of(env, ana)] == [False, False]
    assert unattached(env) == 3
    await env.kill()


async def test_an_event_waits_for_a_read_that_is_tried_again_in_time(configs: Configs) -> None:
    env = await started(configs, 2)
    ana, eva = env.platform.people
    env.platform.faults.add("customers", "status", status=503, retry_after=1, count=1)
    await env.send_event("Balance changed", ana)
    await env.clock.advance(0.5)
    assert events_of(env, ana) == []
    await env.clock.advance(2.0)
    assert [carries_balance(write) for write in events_of(env, ana)] == [True]
    env.platform.faults.add("customers", "status", status=503, retry_after=60, count=1)
    await env.send_event("Balance changed", eva)
    await env.clock.advance(0.1)
    assert [carries_balance(write) for write in events_of(env, eva)] == [False]
    await env.kill()


async def test_without_a_wait_events_leave_at_once_and_are_counted(configs: Configs) -> None:
    env = await started(configs, 1, attach_wait="0s")
    [ana] = env.platform.people
    slow_reads(env, 1.0)
    await env.send_event("Balance changed", ana)
    await env.clock.advance(0.1)
    assert [carries_balance(write) for write in events_of(env, ana)] == [False]
    assert unattached(env) == 1
    await env.kill()
