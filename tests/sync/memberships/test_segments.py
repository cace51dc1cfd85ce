"""Klaviyo segments kept as a platform's tags, and the actions of people who join them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from connector.domain.actions import ActionReceipt, ActionRequest, Origin
from connector.domain.errors import AmbiguousError, ConfigError, Problem, Rejected, StoreError
from connector.domain.lanes import Millis
from connector.ports import Member, MembershipResult, MembersPage
from connector.store.queues.action_intake import SqlActionIntake
from connector.sync.memberships.join_actions import JoinAction, JoinActionsWorker

from .conftest import Configs, Environment, Start
from .toy import address

SEGMENT = '[[connections.segments]]\nsegment = "Winback"\ntarget = "spring"\n'
WITH_JOIN_ACTIONS = SEGMENT + (
    'on_join = [{ action = "push", message = "Hello" }, { action = "increase", amount = 5 }]\n'
)


def members(env: Environment, *names: str, after: float = 0.0) -> None:
    """From now on these people are in the segment. New ones joined `after` seconds from now."""
    klaviyo, at = env.klaviyo, env.clock.now() / 1000 + after
    id = klaviyo.segment_ids().get("Winback") or klaviyo.make_segment("Winback")
    wanted = {address(name) for name in names}
    present = set(klaviyo.segment_members(id))
    klaviyo.leave_segment(id, *present - wanted)
    klaviyo.join_segment(id, *sorted(wanted - present), at=at)


def segment_members(env: Environment) -> list[str]:
    """Who has the tag at the platform."""
    return sorted(email.partition("@")[0] for email in env.toy.tags.get("spring", ()))


async def queued_actions(env: Environment) -> list[str]:
    """The join actions in the action queue, whatever became of them."""
    found = await env.store.action_views.find(connection="acme")
    return sorted(f"{view.name} {view.person.partition('@')[0]}" for view in found)


async def test_a_segment_is_sent_to_the_platform(start: Start) -> None:
    env = await start(SEGMENT)
    members(env, "ada", "bob")
    await env.start()
    await env.run_for(20)
    assert segment_members(env) == ["ada", "bob"]
    members(env, "bob", "cyd")
    await env.sync("segments", "Winback")
    assert segment_members(env) == ["bob", "cyd"]
    calls = len(env.toy.calls)
    await env.sync("segments", "Winback")
    assert len(env.toy.calls) == calls
    group = await env.group("Winback")
    assert (group.members, group.remote_id) == (2, "S00000")


async def test_a_failure_on_a_late_page_removes_no_one(start: Start) -> None:
    people = [f"p{n:04}" for n in range(1_000)]
    env = await start(SEGMENT)
    members(env, *people)
    await env.start()
    await env.run_for(20)
    assert segment_members(env) == people
    calls = len(env.toy.calls)
    members(env, *people[500:])
    kind = {"kind": "status", "status": 500, "count": 20}
    seen: list[str] = []

    def fail_with(request: Any) -> Exception | None:
        path = request.url.path
        if path.endswith("/profiles") and "filter" not in request.url.params:
            seen.append("page")
            if len(seen) == 4:
                env.klaviyo.faults.parse({"endpoint": "segments/{id}/profiles"} | kind)
        return None

    env.fault_transport.fail_with = fail_with
    await env.sync("segments", "Winback")
    assert len(seen) >= 4
    assert len(env.toy.calls) == calls
    assert segment_members(env) == people
    await env.kill()
    env.klaviyo.faults.clear()
    seen.clear()
    await env.start()
    await env.run_for(20)
    assert len(seen) == 2
    assert await env.open_approvals() == [("removal", "Winback → spring")]
    await env.decide()
    assert segment_members(env) == people[500:]


async def test_new_members_are_sent_before_the_scan_ends(start: Start) -> None:
    people = [f"p{n:04}" for n in range(300)]
    env = await start(SEGMENT)
    members(env, *people)
    await env.start()
    await env.run_for(200)
    members(env, *people, "new")
    env.fault_transport.fail_with = lambda r: (
        TimeoutError("never")
        if "/segments/" in r.url.path and "filter" not in r.url.params
        else None
    )
    await env.sync("segments", "Winback")
    assert "new" in segment_members(env)
    assert (await env.group("Winback")).scan_started_at is not None


async def test_unconfirmed_memberships_are_sent_again_with_the_next_scan(
    start: Start,
) -> None:
    env = await start(SEGMENT)
    env.toy.result_for = lambda email: MembershipResult(
        "unconfirmed" if email.startswith("ada") else "confirmed"
    )
    members(env, "ada", "bob")
    await env.start()
    await env.run_for(20)
    [link] = await env.commands.links()
    assert (link["there"], link["unconfirmed"]) == (2, 1)
    env.toy.calls.clear()
    await env.sync("segments", "Winback")
    assert env.toy.calls == [[(address("ada"), True)]]
    env.toy.result_for = lambda email: MembershipResult("confirmed")
    await env.sync("segments", "Winback")
    [link] = await env.commands.links()
    assert link["unconfirmed"] == 0


async def test_a_member_the_platform_refuses_does_not_block_the_others(start: Start) -> None:
    env = await start(SEGMENT)
    env.toy.result_for = lambda email: MembershipResult(
        "refused" if email.startswith("ada") else "confirmed", Problem.PLATFORM_REFUSED, "unknown"
    )
    members(env, "ada", "bob")
    await env.start()
    await env.run_for(20)
    assert segment_members(env) == ["bob"]
    [item] = await env.commands.attention()
    assert item.text.startswith("acme memberships → toy: 1 refused membership")
    assert item.remedy.endswith("`connector segments sync CONNECTION NAME`, tries again")
    env.toy.result_for = lambda email: MembershipResult("confirmed")
    await env.sync("segments", "Winback")
    assert segment_members(env) == ["ada", "bob"]


async def test_a_request_refused_as_a_whole_is_bisected(start: Start) -> None:
    env = await start(SEGMENT)
    env.toy.failures = [Rejected(Problem.PLATFORM_REFUSED, "one of them is bad")] * 2
    members(env, "ada", "bob", "cyd", "dan")
    await env.start()
    await env.run_for(20)
    assert segment_members(env) == ["ada", "bob", "cyd", "dan"]
    assert sorted(len(call) for call in env.toy.calls) == [1, 1, 2]


async def test_a_request_without_a_response_is_sent_again(start: Start) -> None:
    env = await start(SEGMENT)
    env.toy.failures = [AmbiguousError(Problem.TIMED_OUT)]
    members(env, "ada")
    await env.start()
    await env.run_for(20)
    assert segment_members(env) == []
    await env.run_for(20)
    assert segment_members(env) == ["ada"]


async def test_a_platform_without_members_is_shown_as_unsupported(start: Start) -> None:
    env = await start(SEGMENT, source="mute")
    members(env, "ada")
    await env.start()
    await env.run_for(20)
    [link] = await env.commands.links()
    assert (link["problem"], link["detail"]) == ("L35", "Mute does not offer it")
    assert await env.commands.attention() == []


async def test_a_segment_and_an_audience_share_a_connection(start: Start) -> None:
    audience = '[[connections.audiences]]\naudience = "vip"\nlist = "VIP"\n'
    env = await start(SEGMENT + audience, people={"vip": ["eve"]})
    members(env, "ada")
    await env.start()
    await env.run_for(20)
    assert (segment_members(env), env.members_of()) == (["ada"], ["eve"])
    env.metrics.set_groups(await env.store.member_groups.all())
    metrics = env.metrics.render().decode()
    assert 'connector_audience_members{audience="vip",connection="acme"} 1.0' in metrics
    assert 'connector_segment_members{connection="acme",segment="Winback"} 1.0' in metrics
    assert 'connector_segment_scan_seconds{connection="acme",segment="Winback"}' in metrics
    assert 'connector_checkpoint_timestamp_seconds{connection="acme",stream="list VIP"}' in metrics


# ── join actions ─────────────────────────────────────────────────────────────────────────────────


async def test_the_first_scan_is_the_baseline_and_triggers_no_join_action(start: Start) -> None:
    env = await start(WITH_JOIN_ACTIONS)
    members(env, "ada")
    await env.start()
    await env.run_for(20)
    assert await queued_actions(env) == []
    members(env, "ada", "bob")
    await env.sync("segments", "Winback")
    await env.run_for(20)
    assert await queued_actions(env) == ["increase bob", "push bob"]
    [push] = [action for action in env.toy.applied if action.name == "push"]
    assert (push.email, push.customer) == (address("bob"), env.klaviyo.profile_id(address("bob")))
    assert push.message == "Hello"


async def test_the_first_scan_triggers_join_actions_when_configured(start: Start) -> None:
    env = await start(WITH_JOIN_ACTIONS + "on_join_existing = true\n")
    members(env, "ada")
    await env.start()
    await env.run_for(20)
    assert await queued_actions(env) == ["increase ada", "push ada"]


async def test_each_join_triggers_one_join_action_despite_crashes(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = await start(WITH_JOIN_ACTIONS)
    members(env, "ada")
    await env.start()
    await env.run_for(20)
    members(env, "ada", "bob")
    calls: list[Any] = []

    async def crash(*args: Any) -> None:
        calls.append(args)
        raise RuntimeError("killed after the actions were queued, before the join was handled")

    monkeypatch.setattr(env.store.segment_joins, "mark_handled", crash)
    await env.sync("segments", "Winback")
    assert calls
    await env.kill()
    await env.start()
    await env.run_for(20)
    assert await queued_actions(env) == ["increase bob", "push bob"]
    members(env, "ada")
    await env.sync("segments", "Winback")
    members(env, "ada", "bob", after=1.0)
    await env.sync("segments", "Winback")
    assert await queued_actions(env) == ["increase bob", "increase bob", "push bob", "push bob"]


async def test_a_join_that_is_found_while_an_earlier_one_is_handled_triggers_its_own_action(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = await start(WITH_JOIN_ACTIONS)
    members(env, "ada")
    await env.start()
    await env.run_for(20)
    mark_handled, scans = env.store.segment_joins.mark_handled, env.store.group_scans
    segment, later = await env.group("Winback"), Millis(env.clock.now() + 60_000)

    async def find_another(*args: Any) -> None:
        monkeypatch.undo()
        again = MembersPage([Member(None, address("bob"), "P", later)], "next", True)
        now = env.clock.now()
        await scans.begin(segment.id, env.fence, now=now)
        await scans.save_source_page(
            segment.id, again, env.fence, requested_at=now, now=now, track_joins=True
        )
        await mark_handled(*args)

    monkeypatch.setattr(env.store.segment_joins, "mark_handled", find_another)
    members(env, "ada", "bob")
    await env.sync("segments", "Winback")
    assert await queued_actions(env) == ["increase bob", "increase bob", "push bob", "push bob"]


async def test_a_join_action_that_could_not_be_queued_is_queued_later(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    add, failures = SqlActionIntake.add, [StoreError(Problem.STORE_UNAVAILABLE)] * 2

    async def fail_twice(intake: SqlActionIntake, batches: Any) -> Any:
        if failures:
            raise failures.pop()
        return await add(intake, batches)

    monkeypatch.setattr(SqlActionIntake, "add", fail_twice)
    env = await start(WITH_JOIN_ACTIONS)
    members(env, "ada")
    await env.start()
    await env.run_for(20)
    members(env, "ada", "bob")
    await env.sync("segments", "Winback")
    assert failures == []
    await env.run_for(20)
    assert await queued_actions(env) == ["increase bob", "push bob"]


async def test_a_join_action_is_an_ordinary_action(start: Start) -> None:
    env = await start(WITH_JOIN_ACTIONS)
    members(env, "ada")
    await env.start()
    await env.run_for(20)
    members(env, "ada", "bob")
    await env.sync("segments", "Winback")
    await env.run_for(20)
    done = [(a.name, a.email, a.amount, a.message) for a in env.toy.applied]
    assert sorted(done) == [
        ("increase", address("bob"), 5, ""),
        ("push", address("bob"), 0, "Hello"),
    ]
    await env.sync("segments", "Winback")
    await env.kill()
    await env.start()
    await env.run_for(20)
    assert len(env.toy.applied) == 2


async def test_join_actions_the_platform_does_not_offer_are_a_fault(start: Start) -> None:
    entry = SEGMENT + 'on_join = [{ action = "decrease", amount = 5 }]\n'
    env = await start(entry)
    with pytest.raises(ConfigError, match="decrease, which Toy does not offer"):
        await env.start()


async def test_a_segment_that_klaviyo_still_computes_is_not_complete(start: Start) -> None:
    """It lists some of its members, or none (recorded: is_processing for minutes)."""
    env = await start(SEGMENT)
    members(env, "ada", "bob", "cyd")
    await env.start()
    await env.run_for(20)
    before = (await env.group("Winback")).completed_scan
    members(env, "ada")
    env.klaviyo.process_segment("S00000")
    await env.sync("segments", "Winback")
    assert segment_members(env) == ["ada", "bob", "cyd"]
    group = await env.group("Winback")
    assert (group.completed_scan, group.problem) == (before, Problem.SEGMENT_PROCESSING)
    assert await env.attention_keys() == []
    members(env, "ada", "bob")
    env.klaviyo.process_segment("S00000", done=True)
    await env.run_for(70)
    assert segment_members(env) == ["ada", "bob"]
    assert (await env.group("Winback")).problem is None


async def test_a_segment_that_is_computed_again_during_a_scan_is_scanned_again(
    start: Start,
) -> None:
    people = [f"p{n:04}" for n in range(300)]
    env = await start(SEGMENT)
    members(env, *people)
    await env.start()
    await env.run_for(20)
    seen: list[str] = []

    def compute(request: Any) -> Exception | None:
        if "/segments/" in request.url.path and "page[cursor]" in request.url.params:
            seen.append("page")
            if len(seen) == 1:
                members(env, *people[250:])
                env.klaviyo.process_segment("S00000")
        return None

    env.fault_transport.fail_with = compute
    await env.sync("segments", "Winback")
    assert seen
    assert segment_members(env) == people
    members(env, *people[10:])
    env.klaviyo.process_segment("S00000", done=True)
    await env.run_for(70)
    assert segment_members(env) == people[10:]


async def test_the_first_scan_of_a_segment_waits_until_it_is_computed(start: Start) -> None:
    """Those who are missing would be taken for people who join later."""
    env = await start(WITH_JOIN_ACTIONS)
    members(env)
    env.klaviyo.process_segment("S00000")
    await env.start()
    await env.run_for(20)
    members(env, "ada", "bob")
    env.klaviyo.process_segment("S00000", done=True)
    await env.run_for(70)
    assert segment_members(env) == ["ada", "bob"]
    assert await queued_actions(env) == []


async def test_join_actions_of_one_segment_with_two_tags_are_all_queued(start: Start) -> None:
    entry = '[[connections.segments]]\nsegment = "Winback"\ntarget = "{}"\n'
    entry += 'on_join = [{{ action = "increase", amount = {} }}]\n'
    env = await start(entry.format("spring", 5) + entry.format("summer", 7))
    members(env)
    await env.start()
    await env.run_for(20)
    members(env, "ada", after=30)
    await env.sync("segments", "Winback")
    await env.run_for(20)
    assert await queued_actions(env) == ["increase ada", "increase ada"]


async def test_the_same_join_action_of_two_tags_is_queued_once(start: Start) -> None:
    entry = SEGMENT + 'on_join = [{ action = "increase", amount = 5 }]\n'
    env = await start(entry + entry.replace("spring", "summer"))
    members(env)
    await env.start()
    await env.run_for(20)
    members(env, "ada", after=30)
    await env.sync("segments", "Winback")
    await env.run_for(20)
    assert await queued_actions(env) == ["increase ada"]


async def test_a_segment_that_is_linked_by_its_id_instead_triggers_nothing_twice(
    start: Start, configs: Configs
) -> None:
    entry = WITH_JOIN_ACTIONS + "on_join_existing = true\n"
    env = await start(entry)
    members(env, "ada")
    await env.start()
    await env.run_for(20)
    assert await queued_actions(env) == ["increase ada", "push ada"]
    await env.kill()
    env.config = configs(entry.replace("Winback", env.klaviyo.segment_ids()["Winback"]))
    await env.start()
    await env.run_for(20)
    members(env, "ada", "bob")
    await env.sync("segments", "S00000")
    await env.run_for(20)
    assert await queued_actions(env) == ["increase ada", "increase bob", "push ada", "push bob"]


async def test_actions_of_one_segment_by_name_and_by_id_are_all_queued(start: Start) -> None:
    entry = '[[connections.segments]]\nsegment = "{}"\ntarget = "{}"\n'
    entry += 'on_join = [{{ action = "increase", amount = {} }}]\n'
    env = await start(entry.format("Winback", "spring", 5) + entry.format("S00000", "summer", 7))
    members(env)
    await env.start()
    await env.run_for(20)
    members(env, "ada", after=30)
    for name in ("Winback", "S00000"):
        await env.sync("segments", name)
    await env.run_for(20)
    assert await queued_actions(env) == ["increase ada", "increase ada"]
    assert sorted(action.amount for action in env.toy.applied) == [5, 7]


async def test_joins_wait_until_the_id_of_their_segment_is_known(start: Start) -> None:
    env = await start(WITH_JOIN_ACTIONS)
    members(env)
    await env.start()
    await env.run_for(20)
    segment, now = await env.group("Winback"), env.clock.now()
    await env.kill()
    env.database.dead = False
    joins, groups, queued = env.store.segment_joins, env.store.member_groups, []

    async def submit(origin: Origin, requests: Sequence[ActionRequest]) -> ActionReceipt:
        queued.extend(request.key for request in requests)
        return ActionReceipt(len(requests), 0, 0)

    page = MembersPage([Member(None, address("ada"), "P", Millis(7))], None, False)
    await env.store.group_scans.begin(segment.id, env.fence, now=now)
    await env.store.group_scans.save_source_page(
        segment.id, page, env.fence, requested_at=now, now=now, track_joins=True
    )
    await groups.clear_remote_id(segment.id)
    action = JoinAction("increase", 5)
    worker = JoinActionsWorker(
        segment.id, "Winback", [(3, action)], submit, joins, groups, include_existing=False
    )
    assert (await worker.run_once(), await worker.idle(), queued) == (None, True, [])
    await groups.set_remote_id(segment.id, "S00000", "Winback", now=now)
    assert not await worker.idle()
    assert (await worker.run_once(), await worker.idle(), queued) == (0, True, ["S00000:7:3"])
