"""Backfills whole: the lanes, the guard and both sandboxes, under the test's clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from connector.ports import Approval
from connector.service import Operator
from connector.store.tables import profiles, reads
from connector.sync.backfill import runs, sources

from .conftest import Configs, Site

Run = dict[str, Any]


class Desk:
    """A site, and the orders that a person gives it."""

    def __init__(self, site: Site, folder: Path) -> None:
        self.site = site
        self._folder = folder

    @property
    def operator(self) -> Operator:
        return Operator(self.site.store, self.site.clock, lines={"acme": self.site.line})

    def file(self, *emails: str, name: str = "people.csv") -> Path:
        path = self._folder / name
        path.write_text("email\n" + "".join(f"{email}\n" for email in emails))
        return path

    def everybody(self) -> Path:
        return self.file(*(person.email for person in self.site.platform.people))

    async def order(self, **args: Any) -> tuple[bool, Any]:
        if isinstance(what := args.get("what"), Path):
            args = {"source": "emails", **args, "what": str(what)}
        return await self.operator.carry_out("backfill", {"connection": "acme", **args})

    async def begin(self, **args: Any) -> int:
        done, result = await self.order(**args)
        assert done, result
        return int(result["backfill"])

    async def until(self, id: int, *states: str, seconds: int = 100) -> Run:
        """Time passes until the run is in one of these states."""
        run: Run = {}
        for _ in range(seconds * 2):
            await self.site.clock.advance(0.5)
            await asyncio.sleep(0.001)  # files are read in a thread
            run = await self.operator.backfill(id)
            if run["state"] in states:
                return run
        raise AssertionError(f"after {seconds} s it is not {states}: {run}")

    async def asked(self) -> Approval:
        """The one question that waits, once there is one."""
        for _ in range(100):
            if found := await self.site.store.approvals.find():
                assert len(found) == 1
                return found[0]
            await self.site.clock.advance(0.1)
            await asyncio.sleep(0.001)
        raise AssertionError("nobody was asked")

    async def after(self, reads: int) -> None:
        """Time passes until so many people were read."""
        while len(self.site.platform.read_log) < reads:
            await self.site.clock.advance(0.05)
            await asyncio.sleep(0.001)

    async def run(self, **args: Any) -> Run:
        """Order it and wait for its end."""
        return await self.until(await self.begin(**args), "done", "failed", "stopped")


@pytest.fixture(autouse=True)
def short_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages and windows small enough that a few hundred people take several."""
    monkeypatch.setattr(sources, "PAGE", 40)
    monkeypatch.setattr(runs, "PAGE", 40)
    monkeypatch.setattr(runs, "READS", 100)


@pytest.fixture
async def make(configs: Configs, tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    made: list[Desk] = []

    async def start(people: int = 30, **how: Any) -> Desk:
        site = Site(configs(**how), people=people)
        await site.start()
        made.append(Desk(site, tmp_path))
        return made[-1]

    yield start
    for desk in made:
        await desk.site.kill()


def ends(run: Run) -> dict[str, int]:
    return {word: count for word, count in run["people"].items() if count}


async def test_everybody_is_told_and_the_second_run_sends_nothing(make: Any) -> None:
    desk: Desk = await make(70)
    file = desk.everybody()
    first = await desk.run(what=file)
    assert (first["state"], ends(first)) == ("done", {"sent": 70})
    assert [desk.site.wrong(person) for person in desk.site.platform.people] == [None] * 70
    sent = desk.site.profile_requests()
    await desk.site.clock.advance(1)
    second = await desk.run(what=file)
    assert second["id"] != first["id"]
    assert ends(second) == {"unchanged": 70}
    assert desk.site.profile_requests() == sent
    assert desk.site.klaviyo.violations == {}
    assert desk.site.klaviyo.overlapping_writes == 0


async def test_the_summary_is_true(make: Any) -> None:
    desk: Desk = await make(6)
    people = desk.site.platform.people
    await desk.site.say("Balance changed", people[0])
    await desk.site.rest()
    desk.site.klaviyo.faults.add("*", "poison", match=people[1].email)
    emails = [person.email for person in people]
    run = await desk.run(what=desk.file(*emails, "stranger@example.com", "no address", emails[2]))
    assert ends(run) == {"unchanged": 1, "dead": 1, "sent": 4, "unknown": 1, "invalid": 1}
    assert run["notes"] == ["line 9 is no e-mail address"]
    assert (run["rows"], run["total"]) == (9, 9)


async def test_a_dry_run_says_what_would_come_of_it_and_does_nothing(make: Any) -> None:
    desk: Desk = await make(8)
    site = desk.site
    people = site.platform.people
    for person in people[:2]:
        await site.say("Balance changed", person)
    await site.rest()
    people[1].change(balance=people[1].balance + 1)
    site.klaviyo.make_people(people[2].email)
    site.klaviyo.flows.add("Now gold", "live", "Added to List", site.klaviyo.make_segment("Gold"))
    sent, before = site.profile_requests(), site.rows(reads.select())
    told = site.rows(profiles.select())
    emails = [person.email for person in people]
    run = await desk.run(what=desk.file(*emails, "stranger@example.com", "x"), dry_run=True)
    assert run["state"] == "done"
    assert ends(run) == {
        "would_send": 7,
        "unchanged": 1,
        "unknown": 1,
        "invalid": 1,
        "new_to_klaviyo": 5,
    }
    assert run["notes"] == ["live flow: Now gold", "line 11 is no e-mail address"]
    assert site.profile_requests() == sent
    assert (site.rows(reads.select()), site.rows(profiles.select())) == (before, told)
    assert await site.store.insight.people("acme", "stranger@example.com") == []
    await desk.begin(what=desk.file(*emails))
    asked = await desk.asked()
    assert asked.detail == {"people": 8, "new_to_klaviyo": 5, "live_flows": ["Now gold"]}


async def test_existing_only_creates_nobody(make: Any) -> None:
    desk: Desk = await make(40)
    people = desk.site.platform.people
    known = [person.email for person in people[:15]]
    desk.site.klaviyo.make_people(*known)
    run = await desk.run(what=desk.everybody(), existing_only=True)
    assert ends(run) == {"sent": 15}
    assert run["not_at_klaviyo"] == 25
    assert desk.site.klaviyo.state()["profiles"] == 15
    assert [desk.site.wrong(person) for person in people[:15]] == [None] * 15


async def test_force_tells_everybody_again(make: Any) -> None:
    desk: Desk = await make(5)
    file = desk.everybody()
    await desk.run(what=file)
    before = len(desk.site.klaviyo.writes)
    forced = await desk.run(what=file, force=True)
    assert ends(forced) == {"sent": 5}
    again = {write.email: write.keys for write in desk.site.klaviyo.writes[before:]}
    assert set(again) == {person.email for person in desk.site.platform.people}
    assert all("properties.balance" in keys for keys in again.values())


@pytest.mark.parametrize("kind", ["list", "segment"])
async def test_members_of_a_group_are_told(make: Any, kind: str) -> None:
    desk: Desk = await make(105)
    klaviyo = desk.site.klaviyo
    emails = [person.email for person in desk.site.platform.people[:103]]
    (klaviyo.make_list if kind == "list" else klaviyo.make_segment)("Club", *emails)
    run = await desk.run(source=f"klaviyo-{kind}", what="Club")
    assert ends(run) == {"sent": 103}
    assert run["total"] == 103


async def test_without_a_source_all_who_were_ever_seen_are_told(make: Any) -> None:
    desk: Desk = await make(12)
    people = desk.site.platform.people
    for person in people[:7]:
        await desk.site.say("Balance changed", person)
    await desk.site.rest()
    for person in people:
        person.change(balance=77)
    run = await desk.run()
    assert (run["source"], ends(run)) == ("seen", {"sent": 7})
    assert [desk.site.wrong(person) for person in people[:7]] == [None] * 7


async def test_nothing_is_read_or_told_before_a_person_says_yes(make: Any) -> None:
    desk: Desk = await make(9)
    site = desk.site
    site.klaviyo.flows.add("Now gold", "live", "Added to List", site.klaviyo.make_segment("Gold"))
    id = await desk.begin(what=desk.everybody())
    asked = await desk.asked()
    await site.clock.advance(3600)
    assert (await desk.operator.backfill(id))["state"] == "waiting"
    assert (site.profile_requests(), len(site.platform.read_log)) == ({}, 0)
    assert asked.detail == {"people": 9, "live_flows": ["Now gold"]}
    asks = site.klaviyo.state()["requests"]
    done, _ = await desk.operator.carry_out("approve", {"id": asked.id, "by": "ana"})
    assert done
    approved = site.clock.monotonic()
    while not site.platform.read_log:
        await site.clock.advance(0.001)
        await asyncio.sleep(0.01)  # the file is looked at in a thread
    assert site.clock.monotonic() - approved < 1
    assert "GET /api/segments" in asks  # type: ignore[operator]
    run = await desk.until(id, "done")
    assert ends(run) == {"sent": 9}
    assert await site.store.approvals.find(pending=False) == []


async def test_a_no_stops_it_and_the_same_order_asks_anew(make: Any) -> None:
    desk: Desk = await make(3)
    site = desk.site
    site.klaviyo.flows.add("Now gold", "live", "Added to List", site.klaviyo.make_segment("Gold"))
    file = desk.everybody()
    id = await desk.begin(what=file)
    asked = await desk.asked()
    await desk.operator.carry_out("reject", {"id": asked.id, "by": "ana"})
    run = await desk.until(id, "stopped")
    assert (run["problem"], ends(run)) == ("B20", {})
    assert site.profile_requests() == {}
    assert await desk.begin(what=file) == id
    anew = await desk.asked()
    assert anew.id != asked.id


async def test_stop_stops_at_once_and_the_same_order_goes_on(make: Any) -> None:
    desk: Desk = await make(160)
    site = desk.site
    site.wires["jericommerce"].before = lambda: 0.1
    file = desk.everybody()
    id = await desk.begin(what=file)
    await desk.after(60)
    done, _ = await desk.operator.carry_out("backfill-stop", {"connection": "acme"})
    assert done
    read = len(site.platform.read_log)
    await site.clock.advance(60)
    assert len(site.platform.read_log) <= read + 8  # those that were under way
    stopped = await desk.operator.backfill(id)
    assert stopped["state"] == "stopped"
    assert 0 < stopped["people"]["pending"] <= 100
    assert stopped["rows"] < 160
    assert (await desk.operator.carry_out("backfill-stop", {"connection": "acme"}))[0] is False
    assert await desk.begin(what=file) == id
    run = await desk.until(id, "done")
    assert ends(run) == {"sent": 160}
    assert len(site.platform.read_log) == 160


async def test_two_kills_lose_nobody_and_read_nobody_twice_over(make: Any) -> None:
    desk: Desk = await make(160)
    site = desk.site
    site.wires["jericommerce"].before = lambda: 0.1
    id = await desk.begin(what=desk.everybody())
    for reads_made in (30, 90):
        await desk.after(reads_made)
        await site.kill()
        await site.start()
    run = await desk.until(id, "done")
    assert ends(run) == {"sent": 160}
    assert [p.email for p in site.platform.people if site.wrong(p)] == []
    assert len(site.platform.read_log) <= 160 + 2 * 8


async def test_a_file_that_changed_is_not_gone_on_with(make: Any) -> None:
    desk: Desk = await make(150)
    file = desk.everybody()
    id = await desk.begin(what=file)
    await desk.until(id, "running")
    await desk.operator.carry_out("backfill-stop", {"connection": "acme"})
    file.write_text(file.read_text() + "one.more@example.com\n")
    done, result = await desk.order(what=file)
    assert (done, "has changed" in result["error"]) == (False, True)
    anew = await desk.run(what=file, restart=True)
    assert anew["id"] != id
    assert (anew["state"], anew["people"]["unknown"]) == ("done", 1)


async def test_one_backfill_at_a_time(make: Any) -> None:
    desk: Desk = await make(150)
    file = desk.everybody()
    id = await desk.begin(what=file)
    await desk.until(id, "running")
    assert await desk.begin(what=file) == id
    done, result = await desk.order(what=desk.file("ada@example.com", name="other.csv"))
    assert (done, f"backfill {id}" in result["error"]) == (False, True)
    assert (await desk.until(id, "done"))["people"]["sent"] == 150


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({"source": "emails", "what": "/nowhere/people.csv"}, "cannot be read here"),
        ({"source": "klaviyo-list", "what": "Nobody's"}, "no list"),
        ({"source": "klaviyo-segment", "what": "S99999"}, "no segment"),
    ],
)
async def test_an_order_that_cannot_be_carried_out_says_why(
    make: Any, args: dict[str, str], said: str
) -> None:
    desk: Desk = await make(1)
    done, result = await desk.order(**args)
    assert done is False
    assert said in result["error"]
    assert await desk.operator.backfills() == []


async def test_two_lists_of_one_name_are_told_apart_by_id(make: Any) -> None:
    desk: Desk = await make(2)
    emails = [person.email for person in desk.site.platform.people]
    ids = [desk.site.klaviyo.make_list("Club", email) for email in emails]
    done, result = await desk.order(source="klaviyo-list", what="Club")
    assert done is False
    assert all(id in result["error"] for id in ids)
    run = await desk.run(source="klaviyo-list", what=ids[1])
    assert ends(run) == {"sent": 1}


async def test_a_list_that_is_deleted_meanwhile_fails_the_run(make: Any) -> None:
    desk: Desk = await make(3)
    id = desk.site.klaviyo.make_list("Club", desk.site.platform.people[0].email)
    desk.site.klaviyo.faults.add("lists/{id}/profiles", "status", status=404)
    run = await desk.run(source="klaviyo-list", what=id)
    assert (run["state"], run["problem"]) == ("failed", "B30")


async def test_live_people_go_before_a_backfills(make: Any) -> None:
    desk: Desk = await make(120)
    site = desk.site
    people = site.platform.people
    id = await desk.begin(what=desk.file(*(person.email for person in people[1:])))
    await desk.after(50)
    people[0].change(balance=4711)
    read, told = len(site.platform.read_log), len(site.klaviyo.writes)
    await site.say("Balance changed", people[0])
    while not any(write.email == people[0].email for write in site.klaviyo.writes):
        await site.clock.advance(0.05)
    batch = 8  # reads that were under way
    between = [email for _, email in list(site.platform.read_log)[read:]]
    assert between.index(people[0].email) <= batch
    writes = [w.email for w in site.klaviyo.writes[told:] if w.kind == "single"]
    assert people[0].email in writes[:20]
    await desk.until(id, "done")


async def test_where_flows_cannot_be_seen_it_goes_on_and_says_so(make: Any) -> None:
    desk: Desk = await make(2)
    desk.site.klaviyo.flows.readable = False
    run = await desk.run(what=desk.everybody())
    assert (run["state"], ends(run)) == ("done", {"sent": 2})
    assert run["notes"] == ["live flow: cannot know: needs the scope flows:read"]


async def test_a_run_waits_for_those_whom_live_traffic_tells(make: Any) -> None:
    desk: Desk = await make(3)
    site = desk.site
    ana = site.platform.people[0]
    site.klaviyo.faults.add("profile-import", "status", status=503, match=ana.email)
    await site.say("Balance changed", ana)
    await site.clock.advance(5)
    id = await desk.begin(what=desk.everybody())
    await desk.until(id, "running")
    for _ in range(40):
        await site.clock.advance(1)
        await asyncio.sleep(0.001)
    run = await desk.operator.backfill(id)
    assert (run["state"], run["to_read"], run["to_tell"]) == ("running", 0, 0)
    site.klaviyo.faults.clear()
    assert ends(await desk.until(id, "done", seconds=600)) == {"sent": 3}
