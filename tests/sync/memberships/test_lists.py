"""An audience is kept as a list."""

from __future__ import annotations

import orjson
import pytest

from connector.domain.errors import ConfigError, Problem, Rejected, Unknown, Wait

from .conftest import VIP, Configs, Start, bodies
from .toy import address

TWO = VIP + '[[connections.audiences]]\naudience = "gold"\nlist = "VIP"\n'


async def test_a_list_is_made_and_filled(start: Start) -> None:
    site = await start(people={"vip": ["ada", "bob", "cyd", "dan"]})
    await site.start()
    await site.rest(20)
    assert site.on() == ["ada", "bob", "cyd", "dan"]
    group = await site.group("vip")
    assert (group.members, group.problem, group.far_id) == (4, None, "A-vip")
    assert site.count("POST", "/lists") == 1
    assert site.count("POST", "/profile-bulk-import-jobs") <= 2


async def test_a_join_carries_the_address_and_nothing_else(start: Start) -> None:
    site = await start(people={"vip": ["ada"]})
    await site.start()
    await site.rest(20)
    [job] = [b["data"] for b in bodies(site) if b["data"]["type"] == "profile-bulk-import-job"]
    [profile] = job["attributes"]["profiles"]["data"]
    assert profile == {"type": "profile", "attributes": {"email": address("ada")}}
    assert job["relationships"]["lists"]["data"] == [{"type": "list", "id": "L00000"}]


async def test_changes_follow_and_nothing_is_told_twice(start: Start) -> None:
    site = await start(people={"vip": ["ada", "bob", "cyd"]})
    await site.start()
    await site.rest(20)
    site.toy.audiences["vip"] = ["ada", "dan"]
    await site.sync()
    assert site.on() == ["ada", "dan"]
    before = len(site.wire.requests)
    await site.sync()
    assert {r.method for r in site.wire.requests[before:]} == {"GET"}
    assert site.klaviyo.overlapping_writes == 0
    assert not site.klaviyo.violations


async def test_leaves_go_by_the_ids_that_were_read_back(start: Start) -> None:
    site = await start(people={"vip": [f"p{n:02}" for n in range(20)]})
    await site.start()
    await site.rest(20)
    await site.sync()
    site.toy.audiences["vip"] = ["p00"]
    looked = site.count("GET", "/api/profiles")
    await site.sync()
    assert site.on() == ["p00"]
    assert site.count("DELETE", "/relationships/profiles") == 1
    assert site.count("GET", "/api/profiles") == looked


async def test_an_id_that_is_not_known_is_looked_up(start: Start) -> None:
    site = await start(people={"vip": ["ada", "bob"]})
    await site.start()
    await site.rest(20)
    await site.push("ada", False)
    await site.rest(5)
    assert site.on() == ["bob"]


async def test_a_profile_that_is_gone_does_not_hold_back_the_others(start: Start) -> None:
    site = await start(people={"vip": ["ada", "bob", "cyd"]})
    await site.start()
    await site.rest(20)
    await site.sync()
    ghost = "01GHOST0000000000000000000"
    with site.engine.begin() as c:
        c.exec_driver_sql(f"UPDATE memberships SET profile_id = '{ghost}' WHERE email LIKE 'ada%'")
    await site.push("ada", False)
    await site.push("bob", False)
    await site.rest(5)
    assert site.on() == ["cyd"]


async def test_a_push_is_told_at_once_and_not_undone_by_the_scan_under_way(start: Start) -> None:
    site = await start(people={"vip": ["ada", "bob", "cyd", "dan"]})
    await site.start()
    await site.rest(20)
    await site.push("eve", True)
    await site.push("ada", False)
    await site.rest(5)
    assert site.on() == ["bob", "cyd", "dan", "eve"]
    site.toy.audiences["vip"] = ["bob", "cyd", "dan", "eve"]
    await site.sync()
    assert site.on() == ["bob", "cyd", "dan", "eve"]


async def test_several_audiences_fill_one_list(start: Start) -> None:
    site = await start(TWO, people={"vip": ["ada", "bob"], "gold": ["bob", "cyd"]})
    await site.start()
    await site.rest(20)
    assert site.on() == ["ada", "bob", "cyd"]
    site.toy.audiences["vip"] = []
    await site.sync()
    assert site.on() == ["bob", "cyd"]
    site.toy.audiences["gold"] = ["ada"]
    await site.sync(name="gold")
    assert site.on() == ["ada"]


async def test_whoever_has_no_address_is_counted(start: Start) -> None:
    site = await start(people={"vip": ["ada", "-x", "-y", "noemail"]})
    await site.start()
    await site.rest(20)
    assert site.on() == ["ada"]
    assert (await site.group("vip")).without_address == 3


# ── what hinders ─────────────────────────────────────────────────────────────────────────────────


async def test_a_scan_that_is_cut_off_goes_on_from_its_page(start: Start) -> None:
    people = [f"p{n:02}" for n in range(30)]
    site = await start(people={"vip": people})
    await site.start()
    await site.rest(20)
    site.toy.pages, told = 0, site.count("DELETE", "/relationships/profiles")

    def fail(audience: str, cursor: str | None) -> None:
        if cursor == "p20":
            site.toy.fails = [Unknown(Problem.SERVER_FAULT)] * 9
            site.toy.between = lambda audience, cursor: None

    site.toy.between = fail
    await site.sync()
    assert site.toy.pages == 7
    assert (await site.group("vip")).problem is Problem.SERVER_FAULT
    assert [need.key for ask in site.line.needs for need in await ask()] == [
        "poll acme audience vip"
    ]
    await site.kill()
    site.toy.fails.clear()
    await site.start()
    await site.rest(20)
    assert site.toy.pages == 10
    assert site.on() == people
    assert site.count("DELETE", "/relationships/profiles") == told


async def test_a_cursor_that_is_refused_begins_the_scan_anew(start: Start) -> None:
    site = await start(people={"vip": [f"p{n:02}" for n in range(10)]})
    await site.start()
    await site.rest(20)
    site.toy.pages = 0
    site.toy.between = lambda audience, cursor: (
        site.toy.fails.append(Rejected(Problem.PLATFORM_REFUSED, "expired"))
        if cursor == "p05" and site.toy.pages == 2
        else None
    )
    await site.sync()
    assert site.toy.pages == 2 + 4
    assert len(site.on()) == 10


async def test_an_answer_that_never_came_to_a_new_list_makes_no_second_one(start: Start) -> None:
    site = await start(people={"vip": ["ada"]})
    site.klaviyo.faults.parse({"endpoint": "lists", "kind": "reset_after", "count": 2})
    await site.start()
    await site.rest(120)
    assert [x.name for x in site.klaviyo._world.lists.all] == ["VIP"]
    assert site.on() == ["ada"]


async def test_a_list_that_nobody_has_is_not_made_where_it_is_not_to_be(start: Start) -> None:
    site = await start(VIP + "create_list = false\n", people={"vip": ["ada"]})
    await site.start()
    await site.rest(20)
    assert site.klaviyo._world.lists.all == []
    assert (await site.group("VIP")).problem is Problem.GROUP_NOT_FOUND
    site.put_on()
    await site.sync()
    assert site.on() == ["ada"]


async def test_two_lists_of_one_name_are_told_apart_by_id(start: Start) -> None:
    site = await start(people={"vip": ["ada"]})
    ids = [site.put_on(), ""]
    ids[1] = site.klaviyo._world.lists.create("VIP", "single_opt_in", 0.0).id
    await site.start()
    await site.rest(20)
    found = await site.group("VIP")
    assert found.problem is Problem.GROUP_AMBIGUOUS
    assert all(id in found.detail for id in ids)


async def test_a_list_by_its_id(start: Start) -> None:
    site = await start(VIP.replace('"VIP"', '"L00000"'), people={"vip": ["ada"]})
    site.put_on(name="By hand")
    await site.start()
    await site.rest(20)
    assert site.on("By hand") == ["ada"]


async def test_an_audience_that_does_not_exist_is_said(start: Start) -> None:
    site = await start(VIP.replace('"vip"', '"vop"'))
    await site.start()
    await site.rest(20)
    assert (await site.group("vop")).problem is Problem.GROUP_NOT_FOUND


async def test_a_list_that_is_deleted_holds_its_own_people_only(start: Start) -> None:
    entries = VIP + '[[connections.audiences]]\naudience = "gold"\nlist = "Gold"\n'
    site = await start(entries, people={"vip": ["ada"], "gold": ["cyd"]})
    await site.start()
    await site.rest(20)
    world = site.klaviyo._world
    vip = next(x for x in world.lists.all if x.name == "VIP")
    get = world.lists.get
    world.lists.get = lambda id: None if id == vip.id else get(id)  # type: ignore[method-assign]
    await site.push("bob", True)
    await site.push("dan", True, audience="gold")
    site.toy.audiences = {"vip": ["ada", "bob"], "gold": ["cyd", "dan"]}
    await site.rest(20)
    assert site.on("Gold") == ["cyd", "dan"]
    groups = await site.store.dead_letters.groups()
    assert [(problem, count) for _, _, problem, count in groups] == [("K404", 1)]
    assert site.line.more[0].state.mode == "running"
    world.lists.get = get  # type: ignore[method-assign]
    await site.sync()
    assert "bob" in site.on()


async def test_one_bad_address_does_not_hold_back_the_others(start: Start) -> None:
    site = await start(people={"vip": [f"p{n:02}" for n in range(10)]})
    site.klaviyo.faults.add(
        "profile-bulk-import-jobs", "poison", match="p03@", pointer=False, count=50
    )
    await site.start()
    await site.rest(60)
    assert len(site.on()) == 9
    [(_, _, problem, count)] = await site.store.dead_letters.groups()
    assert (problem, count) == ("K400", 1)
    site.klaviyo.faults.clear()
    await site.sync()
    assert len(site.on()) == 10


async def test_a_job_that_is_lost_is_told_again_in_ever_smaller_ones(start: Start) -> None:
    site = await start(people={"vip": ["ada", "bob"]}, job_delay=1e6)
    await site.start()
    await site.rest(5)
    for _ in range(6):
        for job in site.klaviyo.jobs.open():
            site.klaviyo.jobs.cancel(job.id)
        await site.rest(60)
    jobs = site.klaviyo.jobs.open()
    assert [job.total for job in jobs] == [1, 1]
    for job in jobs:
        site.klaviyo.jobs.run(job.id)
    await site.rest(20)
    assert site.on() == ["ada", "bob"]


async def test_a_job_that_may_exist_keeps_its_people_in_flight(start: Start) -> None:
    site = await start(people={"vip": ["ada"]}, job_delay=30.0)
    site.klaviyo.faults.parse(
        {"endpoint": "profile-bulk-import-jobs", "kind": "reset_after", "count": 1}
    )
    await site.start()
    await site.rest(5)
    await site.push("ada", False)
    await site.rest(10)
    assert site.count("DELETE", "/relationships/profiles") == 0
    site.toy.audiences["vip"] = []
    await site.rest(200)
    assert site.on() == []
    assert site.klaviyo.overlapping_writes == 0


# ── what is read back ────────────────────────────────────────────────────────────────────────────


async def test_linking_a_list_says_who_is_here_there_and_in_both(start: Start) -> None:
    site = await start(people={"vip": ["ada", "bob"]})
    site.put_on("bob", "eve")
    await site.start()
    await site.rest(20)
    assert site.on() == ["ada", "bob", "eve"]
    [links] = (await site.operator.status())["connections"]["acme"]["audiences"]
    assert (links["here"], links["there"], links["both"], links["foreign"]) == (2, 3, 2, 1)


async def test_those_whom_we_did_not_put_there_stay(start: Start) -> None:
    site = await start(people={"vip": ["ada", "bob"]})
    site.put_on("bob", "eve")
    await site.start()
    await site.rest(20)
    site.toy.audiences["vip"] = []
    await site.sync()
    assert site.on() == ["bob", "eve"]


async def test_foreign_members_leave_where_they_are_to(start: Start) -> None:
    site = await start(VIP + 'foreign_members = "remove"\n', people={"vip": ["ada", "bob"]})
    site.put_on("bob", "eve")
    await site.start()
    await site.rest(20)
    assert site.on() == ["ada", "bob"]
    site.put_on("zoe")
    await site.sync()
    assert site.on() == ["ada", "bob"]


async def test_many_foreign_members_leave_only_when_a_person_agrees(start: Start) -> None:
    entries = VIP + 'foreign_members = "remove"\nmax_leave_floor = 2\n'
    site = await start(entries, people={"vip": ["ada"]})
    site.put_on("eve", "fay", "guy")
    await site.start()
    await site.rest(20)
    assert site.on() == ["ada", "eve", "fay", "guy"]
    assert await site.questions() == [("removal", "foreign members of VIP")]
    await site.answer()
    assert site.on() == ["ada"]
    assert await site.questions() == []


@pytest.mark.parametrize("rule", ["report", "re-add"])
async def test_whom_somebody_took_off_is_reported_or_put_back(start: Start, rule: str) -> None:
    site = await start(VIP + f'on_manual_removal = "{rule}"\n', people={"vip": ["ada", "bob"]})
    await site.start()
    await site.rest(20)
    site.take_off("ada")
    await site.sync()
    group = await site.group("VIP")
    needs = await site.operator.needs_you()
    if rule == "re-add":
        assert site.on() == ["ada", "bob"]
        assert (group.problem, needs) == (None, [])
        return
    assert site.on() == ["bob"]
    assert group.problem is Problem.REMOVED_BY_HAND
    assert needs == ["L32 acme: list VIP: 1 were taken off VIP at Klaviyo and are not put back"]
    site.put_on("ada")
    await site.sync()
    assert (await site.group("VIP")).problem is None


# ── guards ───────────────────────────────────────────────────────────────────────────────────────

CAREFUL = VIP + "max_leave_floor = 2\n"


async def test_an_empty_scan_of_an_audience_that_was_not_removes_nobody(start: Start) -> None:
    site = await start(CAREFUL, people={"vip": ["ada", "bob", "cyd", "dan"]})
    await site.start()
    await site.rest(20)
    site.toy.audiences["vip"] = []
    await site.sync()
    assert site.on() == ["ada", "bob", "cyd", "dan"]
    assert await site.questions() == [("removal", "vip → VIP")]
    assert (await site.group("vip")).problem is Problem.TOO_MANY_LEAVE
    site.toy.audiences["vip"] = ["ada", "bob", "cyd"]
    await site.sync()
    assert site.on() == ["ada", "bob", "cyd"]
    assert await site.questions() == []


@pytest.mark.parametrize("approved", [True, False])
async def test_a_person_decides_about_many_who_would_leave(start: Start, approved: bool) -> None:
    site = await start(CAREFUL, people={"vip": ["ada", "bob", "cyd", "dan"]})
    await site.start()
    await site.rest(20)
    site.toy.audiences["vip"] = ["ada"]
    await site.sync()
    await site.kill()
    await site.start()
    await site.answer(approved)
    await site.rest(5)
    assert site.on() == (["ada"] if approved else ["ada", "bob", "cyd", "dan"])
    await site.sync()
    assert site.on() == (["ada"] if approved else ["ada", "bob", "cyd", "dan"])
    assert await site.questions() == []
    if not approved:
        site.toy.audiences["vip"] = []
        await site.sync()
        assert await site.questions() == [("removal", "vip → VIP")]


@pytest.mark.parametrize("answer", [True, False])
async def test_a_first_sync_that_live_flows_hang_on_waits_for_a_person(
    start: Start, answer: bool
) -> None:
    site = await start(people={"vip": ["ada", "bob"]})
    id = site.put_on("bob")
    site.klaviyo._world.flows.add("Welcome", "live", "Added to List", id)
    await site.start()
    await site.rest(20)
    assert site.on() == ["bob"]
    [asked] = await site.store.approvals.find()
    assert (asked.what, asked.subject) == ("first_sync", "VIP")
    assert asked.detail == {
        "people": 1,
        "here": 2,
        "there": 1,
        "both": 1,
        "live_flows": ["Welcome"],
    }
    await site.push("cyd", True)
    await site.rest(5)
    assert site.on() == ["bob"]
    await site.answer(answer)
    assert site.on() == (["ada", "bob", "cyd"] if answer else ["bob"])


# ── what else ────────────────────────────────────────────────────────────────────────────────────


async def test_in_shadow_mode_nothing_is_sent_and_nothing_forgotten(
    start: Start, configs: Configs
) -> None:
    site = await start(mode="shadow", people={"vip": ["ada"]})
    site.put_on("eve")
    await site.start()
    await site.rest(20)
    assert {r.method for r in site.wire.requests} == {"GET"}
    await site.kill()
    site.config = configs()
    await site.start()
    await site.rest(20)
    assert site.on() == ["ada", "eve"]


async def test_another_account_is_a_question_and_starts_empty(start: Start) -> None:
    site = await start(people={"vip": ["ada"]})
    await site.start()
    await site.rest(20)
    await site.kill()
    from connector.sandbox import KlaviyoSandbox

    site.klaviyo = KlaviyoSandbox(
        now=lambda: site.clock.now() / 1000, limits=False, account_id="OTHERS"
    )
    site.wire.__init__(site.klaviyo.app, site.clock)  # type: ignore[misc]
    await site.start()
    await site.rest(30)
    assert site.klaviyo._world.lists.all == []
    assert all([await idle() for idle in site.line.idle])
    await site.operator.carry_out("resume", {"connection": "acme"})
    await site.rest(30)
    assert site.on() == ["ada"]


async def test_entries_on_a_platform_without_audiences_are_a_fault(start: Start) -> None:
    site = await start(source="mute")
    with pytest.raises(ConfigError, match="Mute has no audiences"):
        await site.start()
    site.starts = 0


async def test_everything_is_read_once_for_who_waits_until_it_is_idle(start: Start) -> None:
    site = await start(VIP + 'every = "24h"\n', people={"vip": ["ada"]})
    await site.start()
    await site.rest(20)
    site.toy.audiences["vip"] = ["bob"]
    await site.kill()
    await site.start()
    await site.rest(20)
    assert site.on() == ["ada"]
    for _ in range(200):
        quiet = all([await d.quiet(60.0) for d in site.line.dispatchers])
        if all([await idle() for idle in site.line.idle]) and quiet:
            break
        await site.clock.advance(0.1)
    assert site.on() == ["bob"]


async def test_a_wait_that_klaviyo_asks_for_is_kept(start: Start) -> None:
    site = await start(people={"vip": ["ada"]})
    site.toy.fails = [Wait(Problem.PLATFORM_THROTTLED, after=100.0)]
    await site.start()
    await site.rest(90)
    assert site.toy.pages == 0
    await site.rest(30)
    assert site.on() == ["ada"]


def test_what_is_told_of_joins_fits_the_bytes_of_a_request() -> None:
    from connector.klaviyo.sink.members import envelope_of

    envelope = envelope_of("L1", 0)
    body = orjson.loads(envelope.body([b"1", b"2"]))
    assert body["data"]["attributes"]["profiles"]["data"] == [1, 2]
    assert [envelope_of("L1", n).most for n in (0, 1, 4, 5)] == [10_000, 1_000, 1, 1]
