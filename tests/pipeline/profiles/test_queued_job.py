"""A change while an import job is queued: the newer state wins."""

from __future__ import annotations

from typing import Any

import pytest

from .conftest import Configs, Environment


async def test_a_change_while_a_job_is_queued_is_sent_after_it_and_wins(
    configs: Configs, capsys: pytest.CaptureFixture[str]
) -> None:
    env = Environment(configs(bulk_threshold=1), people=3, job_delay=1e6)
    await env.start()
    people, writes = env.platform.people, env.runtime.writes
    assert writes
    await writes.pause()
    for person in people:
        person.change(balance=100)
        await env.send_event("Balance changed", person)
    await env.clock.advance(3.0)
    await writes.resume()
    await env.clock.advance(3.0)
    [job] = env.klaviyo.jobs.open()
    ana = people[0]
    trace = [f"job of {job.total} queued with balance 100: {env.klaviyo.in_flight(ana.email)}"]
    before = len(env.klaviyo.writes)

    ana.change(balance=250, tier=None)
    await env.send_event("Balance changed", ana)
    await env.clock.advance(5.0)
    later = [w for w in env.klaviyo.writes[before:] if w.email == ana.email]
    trace += [f"{write.kind} accepted with {list(write.keys)}" for write in later]
    assert [(write.kind, write.keys) for write in later] == [("event", ())]
    assert env.synced_fields(ana.email)["balance"] == 100  # by the first event

    env.klaviyo.jobs.run(job.id)
    trace.append(f"job complete: balance {env.synced_fields(ana.email)['balance']}")
    assert env.synced_fields(ana.email)["balance"] == 100
    await env.clock.advance(10.0)
    after = [w for w in env.klaviyo.writes[before:] if w.email == ana.email][1:]
    trace += [f"{write.kind} accepted with {sorted(write.keys)}" for write in after]
    trace.append(f"in the end: balance {env.synced_fields(ana.email)['balance']}")

    with capsys.disabled():
        print("\n  " + "\n  ".join(trace))
    assert [write.kind for write in after] == ["single"]
    assert set(after[0].keys) == {
        "properties.balance",
        "unset.jericommerce_tier_name",
        "unset.jericommerce_tier_balance",
        "unset.jericommerce_tier_entered_at",
        "unset.jericommerce_tier_expires_at",
    }
    assert [env.difference(person) for person in people] == [None, None, None]
    assert env.klaviyo.overlapping_writes == 0
    assert env.klaviyo.violations == {}
    sent: dict[str, Any] = env.profile_requests()
    await env.send_event("Customer scanned", ana)
    await env.run_until_idle()
    assert env.profile_requests() == sent
    await env.kill()
