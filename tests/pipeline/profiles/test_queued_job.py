"""A change that comes while an import job still waits: the newer state wins, in order."""

from __future__ import annotations

from typing import Any

import pytest

from .conftest import Configs, Site


async def test_a_change_while_a_job_is_queued_is_told_after_it_and_wins(
    configs: Configs, capsys: pytest.CaptureFixture[str]
) -> None:
    site = Site(configs(bulk_threshold=1), people=3, job_delay=1e6)
    await site.start()
    people = site.platform.people
    for person in people:
        person.change(balance=100)
        await site.say("Balance changed", person)
    await site.clock.advance(3.0)
    [job] = site.klaviyo.jobs.open()
    ana = people[0]
    trace = [f"job of {job.total} queued with balance 100: {site.klaviyo.in_flight(ana.email)}"]
    before = len(site.klaviyo.writes)

    ana.change(balance=250, tier=None)
    await site.say("Balance changed", ana)
    await site.clock.advance(5.0)
    later = [w for w in site.klaviyo.writes[before:] if w.email == ana.email]
    trace += [f"{write.kind} accepted with {list(write.keys)}" for write in later]
    assert [(write.kind, write.keys) for write in later] == [("event", ())]
    assert site.seven(ana.email) == {}

    site.klaviyo.jobs.run(job.id)
    trace.append(f"job complete: balance {site.seven(ana.email)['balance']}")
    assert site.seven(ana.email)["balance"] == 100
    await site.clock.advance(10.0)
    after = [w for w in site.klaviyo.writes[before:] if w.email == ana.email][1:]
    trace += [f"{write.kind} accepted with {sorted(write.keys)}" for write in after]
    trace.append(f"in the end: balance {site.seven(ana.email)['balance']}")

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
    assert [site.wrong(person) for person in people] == [None, None, None]
    assert site.klaviyo.overlapping_writes == 0
    assert site.klaviyo.violations == {}
    sent: dict[str, Any] = site.profile_requests()
    await site.say("Customer scanned", ana)
    await site.rest()
    assert site.profile_requests() == sent
    await site.kill()
