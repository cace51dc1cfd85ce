"""A Klaviyo segment is told to the platform, and who joins it is greeted."""

from __future__ import annotations

from typing import Any

import pytest

from connector.domain.actions import (
    Added,
    Asked,
    Origin,
)
from connector.domain.errors import Problem, Rejected, Unknown
from connector.ports import Told

from .conftest import Site, Start
from .toy import address

SEGMENT = '[[connections.segments]]\nsegment = "Winback"\ntarget = "spring"\n'
GREETED = SEGMENT + (
    'on_join = [{ action = "push", message = "Hello" }, { action = "increase", amount = 5 }]\n'
)


def members(site: Site, *names: str, at: float = 0.0) -> None:
    """From now on these people are in the segment; the new ones joined `at` seconds from now."""
    world, now = site.klaviyo._world, site.klaviyo._world.now()
    segments = site.klaviyo._segments
    found = segments.all[0] if segments.all else segments.create("Winback", now)
    wanted = {site.profile(name).number: site.profile(name) for name in names}
    for number in set(found.members) - set(wanted):
        found.leave(world.memory.numbered(number))
    for number, profile in wanted.items():
        if number not in found.members:
            found.join(profile, now + at)


def tagged(site: Site) -> list[str]:
    return sorted(email.partition("@")[0] for email in site.toy.tags.get("spring", ()))


class Clerk:
    """Takes what `line.act` takes, and knows a greeting again by its key."""

    def __init__(self) -> None:
        self.asked: dict[tuple[str, str, str], Asked] = {}
        self.down = False

    async def __call__(self, origin: Origin, asked: Any) -> Added:
        assert origin == "segment"
        if self.down:
            raise RuntimeError("the ledger does not answer")
        before = len(self.asked)
        for one in asked:
            self.asked.setdefault((one.action.email, one.route, one.key), one)
        return Added(len(self.asked) - before, 0, 0)

    @property
    def greeted(self) -> list[str]:
        return sorted(
            f"{one.action.name} {email.partition('@')[0]}"
            for (email, _, _), one in self.asked.items()
        )


@pytest.fixture
def clerk(monkeypatch: pytest.MonkeyPatch) -> Clerk:
    """In place of the ledger of actions."""
    from connector.app.wiring import memberships

    made, build = Clerk(), memberships.build

    async def with_clerk(site: Any, line: Any) -> None:
        line.act = made
        await build(site, line)

    monkeypatch.setattr(memberships, "build", with_clerk)
    return made


async def test_a_segment_is_told_to_the_platform(start: Start) -> None:
    site = await start(SEGMENT)
    members(site, "ada", "bob")
    await site.start()
    await site.rest(20)
    assert tagged(site) == ["ada", "bob"]
    members(site, "bob", "cyd")
    await site.sync("segments", "Winback")
    assert tagged(site) == ["bob", "cyd"]
    calls = len(site.toy.calls)
    await site.sync("segments", "Winback")
    assert len(site.toy.calls) == calls
    group = await site.group("Winback")
    assert (group.members, group.far_id) == (2, "S00000")


async def test_a_failure_on_a_late_page_makes_nobody_leave(start: Start) -> None:
    people = [f"p{n:04}" for n in range(1_000)]
    site = await start(SEGMENT)
    members(site, *people)
    await site.start()
    await site.rest(20)
    assert tagged(site) == people
    told = len(site.toy.calls)
    members(site, *people[500:])
    kind = {"kind": "status", "status": 500, "count": 20}
    seen: list[str] = []

    def closed(request: Any) -> Exception | None:
        if "/segments/" in request.url.path and "filter" not in request.url.params:
            seen.append("page")
            if len(seen) == 4:
                site.klaviyo.faults.parse({"endpoint": "segments/{id}/profiles"} | kind)
        return None

    site.wire.closed = closed
    await site.sync("segments", "Winback")
    assert len(seen) >= 4
    assert len(site.toy.calls) == told
    assert tagged(site) == people
    await site.kill()
    site.klaviyo.faults.clear()
    seen.clear()
    await site.start()
    await site.rest(20)
    assert len(seen) == 2
    assert await site.questions() == [("removal", "Winback → spring")]
    await site.answer()
    assert tagged(site) == people[500:]


async def test_new_members_are_told_before_the_scan_is_over(start: Start) -> None:
    people = [f"p{n:04}" for n in range(300)]
    site = await start(SEGMENT)
    members(site, *people)
    await site.start()
    await site.rest(200)
    members(site, *people, "new")
    site.wire.closed = lambda r: (
        TimeoutError("never")
        if "/segments/" in r.url.path and "filter" not in r.url.params
        else None
    )
    await site.sync("segments", "Winback")
    assert "new" in tagged(site)
    assert (await site.group("Winback")).begun_at is not None


async def test_what_was_taken_without_a_word_is_told_again_with_the_next_scan(
    start: Start,
) -> None:
    site = await start(SEGMENT)
    site.toy.says = lambda email: Told("unconfirmed" if email.startswith("ada") else "confirmed")
    members(site, "ada", "bob")
    await site.start()
    await site.rest(20)
    [link] = await site.operator.links()
    assert (link["there"], link["unconfirmed"]) == (2, 1)
    site.toy.calls.clear()
    await site.sync("segments", "Winback")
    assert site.toy.calls == [[(address("ada"), True)]]
    site.toy.says = lambda email: Told("confirmed")
    await site.sync("segments", "Winback")
    [link] = await site.operator.links()
    assert link["unconfirmed"] == 0


async def test_one_whom_the_platform_refuses_does_not_hold_back_the_others(start: Start) -> None:
    site = await start(SEGMENT)
    site.toy.says = lambda email: Told(
        "refused" if email.startswith("ada") else "confirmed", Problem.PLATFORM_REFUSED, "unknown"
    )
    members(site, "ada", "bob")
    await site.start()
    await site.rest(20)
    assert tagged(site) == ["bob"]
    [need] = await site.operator.needs_you()
    assert need.endswith("1 refused; `connector segments sync` tries again")
    site.toy.says = lambda email: Told("confirmed")
    await site.sync("segments", "Winback")
    assert tagged(site) == ["ada", "bob"]


async def test_a_call_that_is_refused_whole_is_halved(start: Start) -> None:
    site = await start(SEGMENT)
    site.toy.fails = [Rejected(Problem.PLATFORM_REFUSED, "one of them is bad")] * 2
    members(site, "ada", "bob", "cyd", "dan")
    await site.start()
    await site.rest(20)
    assert tagged(site) == ["ada", "bob", "cyd", "dan"]
    assert sorted(len(call) for call in site.toy.calls) == [1, 1, 2]


async def test_a_call_that_was_never_answered_is_made_again(start: Start) -> None:
    site = await start(SEGMENT)
    site.toy.fails = [Unknown(Problem.TIMED_OUT)]
    members(site, "ada")
    await site.start()
    await site.rest(20)
    assert tagged(site) == []
    await site.rest(20)
    assert tagged(site) == ["ada"]


async def test_a_platform_without_members_is_shown_as_not_offering_it(start: Start) -> None:
    site = await start(SEGMENT, source="mute")
    members(site, "ada")
    await site.start()
    await site.rest(20)
    [link] = await site.operator.links()
    assert (link["problem"], link["detail"]) == ("L35", "Mute does not offer it")
    assert await site.operator.needs_you() == []


async def test_a_segment_and_an_audience_share_a_connection(start: Start) -> None:
    audience = '[[connections.audiences]]\naudience = "vip"\nlist = "VIP"\n'
    site = await start(SEGMENT + audience, people={"vip": ["eve"]})
    members(site, "ada")
    await site.start()
    await site.rest(20)
    assert (tagged(site), site.on()) == (["ada"], ["eve"])
    text = site.metrics
    text.groups(await site.store.memberships.groups())
    said = text.render().decode()
    assert 'connector_audience_members{audience="vip",connection="acme"} 1.0' in said
    assert 'connector_segment_members{connection="acme",segment="Winback"} 1.0' in said
    assert 'connector_segment_scan_seconds{connection="acme",segment="Winback"}' in said
    assert 'connector_checkpoint_timestamp_seconds{connection="acme",stream="list VIP"}' in said


# ── greeting ─────────────────────────────────────────────────────────────────────────────────────


async def test_the_first_scan_is_the_baseline_and_greets_nobody(start: Start, clerk: Clerk) -> None:
    site = await start(GREETED)
    members(site, "ada")
    await site.start()
    await site.rest(20)
    assert clerk.greeted == []
    members(site, "ada", "bob")
    await site.sync("segments", "Winback")
    assert clerk.greeted == ["increase bob", "push bob"]
    [push] = [one.action for one in clerk.asked.values() if one.action.name == "push"]
    assert (push.email, push.customer) == (address("bob"), site.profile("bob").id)
    assert push.message == "Hello"


async def test_the_first_scan_greets_where_it_is_to(start: Start, clerk: Clerk) -> None:
    site = await start(GREETED + "on_join_existing = true\n")
    members(site, "ada")
    await site.start()
    await site.rest(20)
    assert clerk.greeted == ["increase ada", "push ada"]


async def test_each_join_is_greeted_once_whatever_dies_between(start: Start, clerk: Clerk) -> None:
    site = await start(GREETED)
    members(site, "ada")
    await site.start()
    await site.rest(20)
    members(site, "ada", "bob")
    greeted = site.store.memberships.greeted
    calls: list[int] = []

    async def dies(*args: Any) -> None:
        calls.append(1)
        raise RuntimeError("killed between the ledger and the note of it")

    site.store.memberships.greeted = dies  # type: ignore[method-assign]
    await site.sync("segments", "Winback")
    assert calls
    await site.kill()
    await site.start()
    assert site.store.memberships.greeted != greeted
    await site.rest(20)
    assert clerk.greeted == ["increase bob", "push bob"]
    members(site, "ada")
    await site.sync("segments", "Winback")
    members(site, "ada", "bob", at=1.0)
    await site.sync("segments", "Winback")
    assert clerk.greeted == ["increase bob", "increase bob", "push bob", "push bob"]


async def test_a_join_that_could_not_be_ordered_is_ordered_later(
    start: Start, clerk: Clerk
) -> None:
    site = await start(GREETED)
    members(site, "ada")
    await site.start()
    await site.rest(20)
    clerk.down = True
    members(site, "ada", "bob")
    await site.sync("segments", "Winback")
    assert clerk.greeted == []
    await site.kill()
    clerk.down = False
    await site.start()
    await site.rest(20)
    assert clerk.greeted == ["increase bob", "push bob"]


async def test_a_greeting_is_an_action_like_any_other(start: Start) -> None:
    site = await start(GREETED)
    members(site, "ada")
    await site.start()
    await site.rest(20)
    members(site, "ada", "bob")
    await site.sync("segments", "Winback")
    await site.rest(20)
    done = [(a.name, a.email, a.amount, a.message) for a in site.toy.applied]
    assert sorted(done) == [
        ("increase", address("bob"), 5, ""),
        ("push", address("bob"), 0, "Hello"),
    ]
    await site.sync("segments", "Winback")
    await site.kill()
    await site.start()
    await site.rest(20)
    assert len(site.toy.applied) == 2


async def test_greetings_that_the_platform_does_not_offer_are_a_fault(start: Start) -> None:
    from connector.domain.errors import ConfigError

    entry = SEGMENT + 'on_join = [{ action = "decrease", amount = 5 }]\n'
    site = await start(entry)
    with pytest.raises(ConfigError, match="decrease, which Toy does not offer"):
        await site.start()
    site.starts = 0
