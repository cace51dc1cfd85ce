"""Audiences kept as Klaviyo lists."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import orjson
import pytest

from connector.domain.errors import (
    AmbiguousError,
    ConfigError,
    Problem,
    Rejected,
    RetryLater,
    StoreError,
)
from connector.domain.profiles import job_size
from connector.klaviyo.sink.members import envelope_for
from connector.ports import Member, MembersPage
from connector.store.queues import membership_rows
from connector.sync.memberships.removals import RemovalGuard

from .conftest import VIP, Configs, Start
from .toy import address

TWO = VIP + '[[connections.audiences]]\naudience = "gold"\nlist = "VIP"\n'


async def test_a_list_is_created_and_filled(start: Start) -> None:
    env = await start(people={"vip": ["ada", "bob", "cyd", "dan"]})
    await env.start()
    await env.run_for(20)
    assert env.members_of() == ["ada", "bob", "cyd", "dan"]
    group = await env.group("vip")
    assert (group.members, group.problem, group.remote_id) == (4, None, "A-vip")
    assert env.count("POST", "/lists") == 1
    assert env.count("POST", "/profile-bulk-import-jobs") <= 2


async def test_a_first_sync_that_was_cut_off_before_everyone_was_released_continues(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> int:
        raise StoreError(Problem.STORE_UNAVAILABLE, "by a test")

    env = await start(people={"vip": ["ada", "bob"]})
    with monkeypatch.context() as patch:
        patch.setattr(membership_rows, "requeue", fail)
        await env.start()
        await env.run_for(20)
        assert (await env.group("VIP")).writes_enabled
    await env.run_for(900)
    assert env.members_of() == ["ada", "bob"]


async def test_a_join_sends_the_address_and_nothing_else(start: Start) -> None:
    env = await start(people={"vip": ["ada"]})
    await env.start()
    await env.run_for(20)
    [job] = [b["data"] for b in env.bodies() if b["data"]["type"] == "profile-bulk-import-job"]
    [profile] = job["attributes"]["profiles"]["data"]
    assert profile == {"type": "profile", "attributes": {"email": address("ada")}}
    assert job["relationships"]["lists"]["data"] == [{"type": "list", "id": "L00000"}]


async def test_changes_are_synced_and_nothing_is_sent_twice(start: Start) -> None:
    env = await start(people={"vip": ["ada", "bob", "cyd"]})
    await env.start()
    await env.run_for(20)
    env.toy.audiences["vip"] = ["ada", "dan"]
    await env.sync()
    assert env.members_of() == ["ada", "dan"]
    before = len(env.fault_transport.requests)
    await env.sync()
    assert {r.method for r in env.fault_transport.requests[before:]} == {"GET"}
    assert env.klaviyo.overlapping_writes == 0
    assert not env.klaviyo.violations


async def test_leaves_use_the_ids_from_the_list_read_back(start: Start) -> None:
    env = await start(people={"vip": [f"p{n:02}" for n in range(20)]})
    await env.start()
    await env.run_for(20)
    await env.sync()
    env.toy.audiences["vip"] = ["p00"]
    lookups = env.count("GET", "/api/profiles")
    await env.sync()
    assert env.members_of() == ["p00"]
    assert env.count("DELETE", "/relationships/profiles") == 1
    assert env.count("GET", "/api/profiles") == lookups


async def test_an_unknown_id_is_looked_up(start: Start) -> None:
    env = await start(people={"vip": ["ada", "bob"]})
    await env.start()
    await env.run_for(20)
    await env.membership_event("ada", False)
    await env.run_for(5)
    assert env.members_of() == ["bob"]


async def test_a_deleted_profile_does_not_block_the_others(start: Start) -> None:
    env = await start(people={"vip": ["ada", "bob", "cyd"]})
    await env.start()
    await env.run_for(20)
    await env.sync()
    ghost = "01GHOST0000000000000000000"
    forge = f"UPDATE memberships SET profile_id = '{ghost}' WHERE email LIKE 'ada%'"
    env.database.execute(lambda c: c.exec_driver_sql(forge))
    await env.membership_event("ada", False)
    await env.membership_event("bob", False)
    await env.run_for(5)
    assert env.members_of() == ["cyd"]


async def test_a_membership_event_is_sent_at_once_and_not_undone_by_the_running_scan(
    start: Start,
) -> None:
    env = await start(people={"vip": ["ada", "bob", "cyd", "dan"]})
    await env.start()
    await env.run_for(20)
    await env.membership_event("eve", True)
    await env.membership_event("ada", False)
    await env.run_for(5)
    assert env.members_of() == ["bob", "cyd", "dan", "eve"]
    env.toy.audiences["vip"] = ["bob", "cyd", "dan", "eve"]
    await env.sync()
    assert env.members_of() == ["bob", "cyd", "dan", "eve"]


async def test_several_audiences_fill_one_list(start: Start) -> None:
    env = await start(TWO, people={"vip": ["ada", "bob"], "gold": ["bob", "cyd"]})
    await env.start()
    await env.run_for(20)
    assert env.members_of() == ["ada", "bob", "cyd"]
    env.toy.audiences["vip"] = []
    await env.sync()
    assert env.members_of() == ["bob", "cyd"]
    env.toy.audiences["gold"] = ["ada"]
    await env.sync(name="gold")
    assert env.members_of() == ["ada"]


async def test_members_without_an_address_are_counted(start: Start) -> None:
    env = await start(people={"vip": ["ada", "-x", "-y", "noemail"]})
    await env.start()
    await env.run_for(20)
    assert env.members_of() == ["ada"]
    assert (await env.group("vip")).without_address == 3


# ── faults ───────────────────────────────────────────────────────────────────────────────────────


async def test_an_interrupted_scan_resumes_from_its_page(start: Start) -> None:
    people = [f"p{n:02}" for n in range(30)]
    env = await start(people={"vip": people})
    await env.start()
    await env.run_for(20)
    env.toy.pages, removals = 0, env.count("DELETE", "/relationships/profiles")

    def fail(audience: str, cursor: str | None) -> None:
        if cursor == "p20":
            env.toy.failures = [AmbiguousError(Problem.SERVER_FAULT)] * 9
            env.toy.before_page = lambda audience, cursor: None

    env.toy.before_page = fail
    await env.sync()
    assert env.toy.pages == 7
    assert (await env.group("vip")).problem is Problem.SERVER_FAULT
    assert await env.attention_keys() == ["poll acme audience vip"]
    await env.kill()
    env.toy.failures.clear()
    await env.start()
    await env.run_for(20)
    assert env.toy.pages == 10
    assert env.members_of() == people
    assert env.count("DELETE", "/relationships/profiles") == removals


async def test_a_fault_of_the_adapter_shows_at_its_group_and_the_scan_is_repeated(
    start: Start,
) -> None:
    env = await start(people={"vip": ["ada"]})

    def fail(audience: str, cursor: str | None) -> None:
        raise KeyError(audience)

    env.toy.before_page = fail
    await env.start()
    await env.run_for(10)
    group = await env.group("vip")
    assert (group.problem, group.detail) == (Problem.ANSWER_UNREADABLE, "KeyError")
    assert "poll acme audience vip" in await env.attention_keys()
    env.toy.before_page = lambda audience, cursor: None
    await env.run_for(70)
    assert env.members_of() == ["ada"]
    assert await env.attention_keys() == []


async def test_a_rejected_cursor_restarts_the_scan(start: Start) -> None:
    env = await start(people={"vip": [f"p{n:02}" for n in range(10)]})
    await env.start()
    await env.run_for(20)
    env.toy.pages = 0
    env.toy.before_page = lambda audience, cursor: (
        env.toy.failures.append(Rejected(Problem.PLATFORM_REFUSED, "expired"))
        if cursor == "p05" and env.toy.pages == 2
        else None
    )
    await env.sync()
    assert env.toy.pages == 2 + 4
    assert len(env.members_of()) == 10


async def test_a_lost_response_to_a_list_creation_creates_no_second_list(start: Start) -> None:
    env = await start(people={"vip": ["ada"]})
    env.klaviyo.faults.parse({"endpoint": "lists", "kind": "reset_after", "count": 2})
    await env.start()
    await env.run_for(120)
    assert list(env.klaviyo.list_ids()) == ["VIP"]
    assert env.members_of() == ["ada"]


async def test_a_list_that_is_created_after_its_call_timed_out_is_the_only_one(
    start: Start,
) -> None:
    env = await start(people={"vip": ["ada"]})
    late: list[asyncio.Task[None]] = []

    async def create_late() -> None:
        await env.clock.sleep(20.0)
        env.klaviyo.make_list("VIP")

    def time_out(request: httpx.Request) -> Exception | None:
        if late or (request.method, request.url.path) != ("POST", "/api/lists"):
            return None
        late.append(asyncio.create_task(create_late()))
        return httpx.ReadTimeout("")

    env.fault_transport.fail_with = time_out
    await env.start()
    await env.run_for(120)
    assert env.count("POST", "/api/lists") == 1
    assert env.members_of() == ["ada"]


async def test_a_missing_list_is_not_created_when_disabled(start: Start) -> None:
    env = await start(VIP + "create_list = false\n", people={"vip": ["ada"]})
    await env.start()
    await env.run_for(20)
    assert env.klaviyo.list_ids() == {}
    assert (await env.group("VIP")).problem is Problem.GROUP_NOT_FOUND
    env.add_to_list()
    await env.sync()
    assert env.members_of() == ["ada"]


async def test_two_lists_with_one_name_are_distinguished_by_id(start: Start) -> None:
    env = await start(people={"vip": ["ada"]})
    ids = [env.klaviyo.make_list("VIP"), env.klaviyo.make_list("VIP")]
    await env.start()
    await env.run_for(20)
    found = await env.group("VIP")
    assert found.problem is Problem.GROUP_AMBIGUOUS
    assert all(id in found.detail for id in ids)


async def test_a_list_by_its_id(start: Start) -> None:
    env = await start(VIP.replace('"VIP"', '"L00000"'), people={"vip": ["ada"]})
    env.add_to_list(name="By hand")
    await env.start()
    await env.run_for(20)
    assert env.members_of("By hand") == ["ada"]


async def test_a_missing_audience_is_reported(start: Start) -> None:
    env = await start(VIP.replace('"vip"', '"vop"'))
    await env.start()
    await env.run_for(20)
    found = await env.group("vop")
    assert found.problem is Problem.GROUP_NOT_FOUND
    assert "did you mean 'vip'" in found.detail


async def test_a_deleted_list_holds_only_its_own_people(start: Start) -> None:
    entries = VIP + '[[connections.audiences]]\naudience = "gold"\nlist = "Gold"\n'
    env = await start(entries, people={"vip": ["ada"], "gold": ["cyd"]})
    await env.start()
    await env.run_for(20)
    env.klaviyo.delete_list(env.klaviyo.list_ids()["VIP"])
    await env.membership_event("bob", True)
    await env.membership_event("dan", True, audience="gold")
    env.toy.audiences = {"vip": ["ada", "bob"], "gold": ["cyd", "dan"]}
    await env.run_for(20)
    assert env.members_of("Gold") == ["cyd", "dan"]
    groups = await env.store.dead_letters.groups()
    assert [(group.problem, group.entries) for group in groups] == [("K404", 1)]
    assert env.runtime.memberships[0].state.mode == "running"
    env.add_to_list()
    await env.sync()
    assert "bob" in env.members_of()


async def test_one_bad_address_does_not_block_the_others(start: Start) -> None:
    env = await start(people={"vip": [f"p{n:02}" for n in range(10)]})
    env.klaviyo.faults.add(
        "profile-bulk-import-jobs", "poison", match="p03@", pointer=False, count=50
    )
    await env.start()
    await env.run_for(60)
    assert len(env.members_of()) == 9
    [group] = await env.store.dead_letters.groups()
    assert (group.problem, group.entries) == ("K400", 1)
    env.klaviyo.faults.clear()
    await env.sync()
    assert len(env.members_of()) == 10


async def test_a_lost_job_is_resent_in_ever_smaller_jobs(start: Start) -> None:
    env = await start(people={"vip": ["ada", "bob"]}, job_delay=1e6)
    await env.start()
    await env.run_for(5)
    for _ in range(6):
        for job in env.klaviyo.jobs.open():
            env.klaviyo.jobs.cancel(job.id)
        await env.run_for(60)
    jobs = env.klaviyo.jobs.open()
    assert [job.total for job in jobs] == [1, 1]
    for job in jobs:
        env.klaviyo.jobs.run(job.id)
    await env.run_for(20)
    assert env.members_of() == ["ada", "bob"]


async def test_a_job_that_may_exist_keeps_its_people_in_flight(start: Start) -> None:
    env = await start(people={"vip": ["ada"]}, job_delay=30.0)
    env.klaviyo.faults.parse(
        {"endpoint": "profile-bulk-import-jobs", "kind": "reset_after", "count": 1}
    )
    await env.start()
    await env.run_for(5)
    await env.membership_event("ada", False)
    await env.run_for(10)
    assert env.count("DELETE", "/relationships/profiles") == 0
    env.toy.audiences["vip"] = []
    await env.run_for(200)
    assert env.members_of() == []
    assert env.klaviyo.overlapping_writes == 0


# ── the list read back ───────────────────────────────────────────────────────────────────────────


async def test_linking_a_list_reports_the_counts_here_there_and_in_both(start: Start) -> None:
    env = await start(people={"vip": ["ada", "bob"]})
    env.add_to_list("bob", "eve")
    await env.start()
    await env.run_for(20)
    assert env.members_of() == ["ada", "bob", "eve"]
    [links] = (await env.commands.status()).connections["acme"].audiences
    assert (links.here, links.there, links.both, links.foreign) == (2, 3, 2, 1)


async def test_members_not_added_by_the_connector_stay(start: Start) -> None:
    env = await start(people={"vip": ["ada", "bob"]})
    env.add_to_list("bob", "eve")
    await env.start()
    await env.run_for(20)
    env.toy.audiences["vip"] = []
    await env.sync()
    assert env.members_of() == ["bob", "eve"]


async def test_foreign_members_are_removed_when_configured(start: Start) -> None:
    env = await start(VIP + 'foreign_members = "remove"\n', people={"vip": ["ada", "bob"]})
    env.add_to_list("bob", "eve")
    await env.start()
    await env.run_for(20)
    assert env.members_of() == ["ada", "bob"]
    env.add_to_list("zoe")
    await env.sync()
    assert env.members_of() == ["ada", "bob"]


async def test_many_foreign_members_are_removed_only_after_approval(start: Start) -> None:
    entries = VIP + 'foreign_members = "remove"\nmax_leave_floor = 2\n'
    env = await start(entries, people={"vip": ["ada"]})
    env.add_to_list("eve", "fay", "guy")
    await env.start()
    await env.run_for(20)
    assert env.members_of() == ["ada", "eve", "fay", "guy"]
    assert await env.open_approvals() == [("removal", "foreign members of VIP")]
    await env.decide()
    assert env.members_of() == ["ada"]
    assert await env.open_approvals() == []


@pytest.mark.parametrize("rule", ["report", "re-add"])
async def test_a_member_removed_manually_is_reported_or_added_again(
    start: Start, rule: str
) -> None:
    env = await start(VIP + f'on_manual_removal = "{rule}"\n', people={"vip": ["ada", "bob"]})
    await env.start()
    await env.run_for(20)
    env.remove_from_list("ada")
    await env.sync()
    group = await env.group("VIP")
    attention = await env.commands.attention_lines()
    if rule == "re-add":
        assert env.members_of() == ["ada", "bob"]
        assert (group.problem, attention) == (None, [])
        return
    assert env.members_of() == ["bob"]
    assert group.problem is Problem.REMOVED_BY_HAND
    assert attention == [
        "L32 acme: list VIP: 1 member was removed by hand at Klaviyo and will not be added again; "
        'what to do: add them back at Klaviyo, or set `on_manual_removal = "re-add"`'
    ]
    env.add_to_list("ada")
    await env.sync()
    assert (await env.group("VIP")).problem is None


# ── approvals ────────────────────────────────────────────────────────────────────────────────────

LOW_LEAVE_LIMIT = VIP + "max_leave_floor = 2\n"
EACH_MINUTE = 'every = "1m"\n'
EIGHT_SCANS = 8 * 60.0


async def test_an_empty_scan_of_a_nonempty_audience_removes_no_one(start: Start) -> None:
    env = await start(LOW_LEAVE_LIMIT, people={"vip": ["ada", "bob", "cyd", "dan"]})
    await env.start()
    await env.run_for(20)
    env.toy.audiences["vip"] = []
    await env.sync()
    assert env.members_of() == ["ada", "bob", "cyd", "dan"]
    assert await env.open_approvals() == [("removal", "vip → VIP")]
    assert (await env.group("vip")).problem is Problem.TOO_MANY_REMOVALS
    env.toy.audiences["vip"] = ["ada", "bob", "cyd"]
    await env.sync()
    assert env.members_of() == ["ada", "bob", "cyd"]
    assert await env.open_approvals() == []


@pytest.mark.parametrize("approved", [True, False])
async def test_many_removals_wait_for_approval(start: Start, approved: bool) -> None:
    env = await start(LOW_LEAVE_LIMIT + EACH_MINUTE, people={"vip": ["ada", "bob", "cyd", "dan"]})
    await env.start()
    await env.run_for(20)
    env.toy.audiences["vip"] = ["ada"]
    await env.sync()
    await env.kill()
    await env.start()
    await env.decide(approved)
    await env.run_for(5)
    assert env.members_of() == (["ada"] if approved else ["ada", "bob", "cyd", "dan"])
    assert await env.open_approvals() == []
    await env.run_for(EIGHT_SCANS)
    assert env.members_of() == (["ada"] if approved else ["ada", "bob", "cyd", "dan"])
    assert await env.open_approvals() == []
    if not approved:
        assert (await env.group("vip")).detail.endswith("; a person rejected it")
        await env.sync()
        assert await env.open_approvals() == [("removal", "vip → VIP")]
        await env.decide(approved=False)
        env.toy.audiences["vip"] = []
        await env.run_for(EIGHT_SCANS)
        assert await env.open_approvals() == [("removal", "vip → VIP")]
        [approval] = await env.store.approvals.find()
        assert approval.detail == {
            "account": "SANDBX",
            "target": "list VIP",
            "target_id": "L00000",
            "would_leave": 4,
            "of": 4,
            "valid_for_people": "3 to 5",
        }


@pytest.mark.parametrize("answer", [True, False])
async def test_a_first_sync_that_triggers_live_flows_waits_for_approval(
    start: Start, answer: bool
) -> None:
    env = await start(VIP + EACH_MINUTE, people={"vip": ["ada", "bob"]})
    id = env.add_to_list("bob")
    env.klaviyo.flows.add("Welcome", "live", "Added to List", id)
    await env.start()
    await env.run_for(20)
    assert env.members_of() == ["bob"]
    [approval] = await env.store.approvals.find()
    assert (approval.what, approval.subject) == ("first_sync", "VIP")
    assert approval.detail == {
        "account": "SANDBX",
        "target": "list L00000",
        "people": 1,
        "valid_for_people": "0 to 2",
        "here": 2,
        "there": 1,
        "both": 1,
        "live_flows": ["Welcome"],
    }
    if answer:
        await env.membership_event("cyd", True)
    await env.run_for(5)
    assert env.members_of() == ["bob"]
    await env.decide(answer)
    assert env.members_of() == (["ada", "bob", "cyd"] if answer else ["bob"])
    if answer:
        assert await env.store.approvals.find(pending=False) == []
        return
    assert (await env.group("VIP")).detail.endswith("; a person rejected it")
    await env.run_for(EIGHT_SCANS)
    assert await env.open_approvals() == []
    await env.sync()
    assert await env.open_approvals() == [("first_sync", "VIP")]
    await env.decide()
    assert env.members_of() == ["ada", "bob"]


async def test_a_first_sync_waits_for_its_audiences_where_their_links_were_replaced(
    start: Start,
) -> None:
    """A process with another configuration has had the lease meanwhile."""
    env = await start(people={"vip": ["ada", "bob"]})
    id = env.add_to_list("bob")
    env.klaviyo.flows.add("Welcome", "live", "Added to List", id)
    await env.start()
    lane = await env.store.lanes.ensure("acme", "klaviyo", "membership")
    await env.store.member_groups.set_links(lane, [], account="SANDBX")
    await env.run_for(900)
    assert env.members_of() == ["bob"]
    for link in env.runtime.link:
        await link(env.fence)
    assert not (await env.group("VIP")).writes_enabled


async def test_an_approval_does_not_hold_for_another_account(start: Start) -> None:
    env = await start(people={"vip": ["ada", "bob"]})
    id = env.add_to_list()
    env.klaviyo.flows.add("Welcome", "live", "Added to List", id)
    await env.start()
    await env.run_for(20)
    [approval] = await env.store.approvals.find()
    await env.store.approvals.decide(approval.id, approved=True, by="ana", now=env.clock.now())
    await env.kill()
    env.replace_account("OTHERS")
    env.klaviyo.flows.add("Welcome", "live", "Added to List", env.add_to_list())
    await env.start()
    await env.run_for(30)
    await env.commands.execute("resume", {"connection": "acme"})
    await env.run_for(30)
    assert env.members_of() == []
    [asked] = await env.store.approvals.find()
    assert (asked.what, asked.detail["account"]) == ("first_sync", "OTHERS")


# ── everything else ──────────────────────────────────────────────────────────────────────────────


async def test_in_shadow_mode_nothing_is_sent_and_nothing_is_lost(
    start: Start, configs: Configs
) -> None:
    env = await start(mode="shadow", people={"vip": ["ada"]})
    env.add_to_list("eve")
    await env.start()
    await env.run_for(20)
    assert {r.method for r in env.fault_transport.requests} == {"GET"}
    await env.kill()
    env.config = configs()
    await env.start()
    await env.run_for(20)
    assert env.members_of() == ["ada", "eve"]


async def test_a_different_account_needs_approval_and_starts_empty(start: Start) -> None:
    env = await start(people={"vip": ["ada"]})
    await env.start()
    await env.run_for(20)
    await env.kill()
    env.replace_account("OTHERS")
    await env.start()
    await env.run_for(30)
    assert env.klaviyo.list_ids() == {}
    assert all([await worker.idle(60) for worker in env.runtime.workers])
    await env.commands.execute("resume", {"connection": "acme"})
    await env.run_for(30)
    assert env.members_of() == ["ada"]


async def test_entries_on_a_platform_without_audiences_are_a_fault(start: Start) -> None:
    env = await start(source="mute")
    with pytest.raises(ConfigError, match="Mute has no audiences"):
        await env.start()


async def test_until_idle_reads_every_group_once(start: Start) -> None:
    env = await start(VIP + 'every = "24h"\n', people={"vip": ["ada"]})
    await env.start()
    await env.run_for(20)
    env.toy.audiences["vip"] = ["bob"]
    await env.kill()
    await env.start()
    await env.run_for(20)
    assert env.members_of() == ["ada"]
    for _ in range(200):
        if await env.runtime.idle(60.0):
            break
        await env.clock.advance(0.1)
    assert env.members_of() == ["bob"]


async def test_a_sync_of_one_list_scans_its_groups_only(start: Start) -> None:
    entries = VIP + '[[connections.audiences]]\naudience = "gold"\nlist = "Gold"\n'
    env = await start(entries, people={"gold": ["ada"]})
    await env.start()
    await env.run_for(20)
    scans = {name: (await env.group(name)).scan for name in ("vip", "VIP", "gold", "Gold")}
    await env.sync(name="VIP")
    assert [name for name in scans if (await env.group(name)).scan > scans[name]] == ["vip", "VIP"]


async def test_retry_after_of_klaviyo_is_honoured(start: Start) -> None:
    env = await start(people={"vip": ["ada"]})
    env.toy.failures = [RetryLater(Problem.PLATFORM_THROTTLED, after=100.0)]
    await env.start()
    await env.run_for(90)
    assert env.toy.pages == 0
    await env.run_for(30)
    assert env.members_of() == ["ada"]


def test_joins_fit_the_size_limit_of_a_request() -> None:
    envelope = envelope_for("L1")
    body = orjson.loads(envelope.body([b"1", b"2"]))
    assert body["data"]["attributes"]["profiles"]["data"] == [1, 2]
    assert [job_size(envelope.max_items, n) for n in (0, 1, 4, 5)] == [10_000, 1_000, 1, 1]


GOLD = '[[connections.audiences]]\naudience = "gold"\nlist = "Gold"\n'


@pytest.mark.parametrize("joined", [True, False], ids=["join", "leave"])
async def test_a_change_of_a_list_that_is_no_longer_linked_waits_until_it_is_linked_again(
    start: Start, configs: Configs, joined: bool
) -> None:
    """Whoever removes a link stops what waits for it, also where other links remain."""
    before, after = (["ada"], ["ada", "bob"]) if joined else (["ada", "bob"], ["ada"])
    env = await start(VIP + GOLD, people={"vip": before, "gold": ["cyd"]})
    await env.start()
    await env.run_for(20)
    assert env.members_of() == before
    env.fault_transport.fail_with = lambda request: (
        httpx.ConnectError("down") if request.method != "GET" else None
    )
    await env.membership_event("bob", joined)
    await env.run_for(1)
    await env.kill()
    env.config = configs(GOLD)
    await env.start()
    env.fault_transport.fail_with = lambda request: None
    env.toy.audiences["vip"] = after
    await env.membership_event("dan", True, audience="gold")
    await env.run_for(300)
    assert env.members_of("Gold") == ["cyd", "dan"]
    assert env.members_of() == before
    await env.kill()
    env.config = configs(VIP + GOLD)
    await env.start()
    await env.run_for(300)
    assert env.members_of() == after


async def test_no_one_is_removed_by_a_scan_that_was_completed_after_the_decision(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a replica that took the lease while this one was frozen."""
    names = [f"p{n:02}" for n in range(10)]
    env = await start(VIP + "max_leave_floor = 2\n", people={"vip": names})
    await env.start()
    await env.run_for(20)
    allows, decided = RemovalGuard.allows, []

    async def allow_and_freeze(*args: Any) -> Any:
        decided.append(await allows(*args))
        source, scans = await env.group("vip"), env.store.group_scans
        now, no_one = env.clock.now(), MembersPage([], None, False)
        await scans.begin(source.id, env.fence, now=now)
        await scans.save_source_page(source.id, no_one, env.fence, requested_at=now, now=now)
        return decided[-1]

    with monkeypatch.context() as patch:
        patch.setattr(RemovalGuard, "allows", allow_and_freeze)
        env.toy.audiences["vip"] = names[1:]
        await env.sync()
    assert decided == ["allowed"]
    assert env.members_of() == names


async def test_no_foreign_member_is_removed_before_the_list_was_read_to_its_end(
    start: Start,
) -> None:
    """Those found so far may be few enough, and all of them too many."""
    entries = VIP + 'foreign_members = "remove"\nmax_leave_floor = 2\n'
    env = await start(entries, people={"vip": ["ada"]})
    await env.start()
    await env.run_for(20)
    env.add_to_list("eve", "fay", "guy")
    target, scans = await env.group("VIP"), env.store.group_scans
    now = env.clock.now()
    await scans.begin(target.id, env.fence, now=now)
    found = MembersPage([Member(None, address("eve"))], "next", True)
    await scans.save_target_page(target.id, found, env.fence, requested_at=now, now=now)
    workers: Any = env.runtime.workers
    next(w for w in workers if w.name == "scan" and "audience" in w._subject)._loop.trigger()
    await env.run_for(1)
    assert env.members_of() == ["ada", "eve", "fay", "guy"]
