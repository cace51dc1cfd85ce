"""Whole backfills: lanes, flow guard and both sandboxes, with a fake clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from connector.ports import Approval
from connector.service import Commands
from connector.service.process import Process
from connector.store.tables import profiles, reads
from connector.sync.backfill import sources, worker

from .conftest import Configs, Environment

Run = dict[str, Any]


class BackfillHarness:
    """A running connection and its commands."""

    def __init__(self, env: Environment, folder: Path) -> None:
        self.env = env
        self._folder = folder

    @property
    def commands(self) -> Commands:
        return Commands(
            self.env.store,
            self.env.clock,
            process=Process(clock=self.env.clock, runtimes={"acme": self.env.runtime}),
        )

    def file(self, *emails: str, name: str = "people.csv") -> Path:
        path = self._folder / name
        path.write_text("email\n" + "".join(f"{email}\n" for email in emails))
        return path

    def everyone(self) -> Path:
        return self.file(*(person.email for person in self.env.platform.people))

    async def run_command(self, **args: Any) -> tuple[bool, Any]:
        if isinstance(what := args.get("what"), Path):
            args = {"source": "emails", **args, "what": str(what)}
        return await self.commands.execute("backfill", {"connection": "acme", **args})

    async def begin(self, **args: Any) -> int:
        done, result = await self.run_command(**args)
        assert done, result
        return int(result["backfill"])

    async def until(self, id: int, *states: str, seconds: int = 100) -> Run:
        """Let time pass until the run is in one of these states."""
        run: Run = {}
        for _ in range(seconds * 2):
            await self.env.clock.advance(0.5)
            await asyncio.sleep(0.001)  # files are read in a thread
            run = await self.commands.backfill(id)
            if run["state"] in states:
                return run
        raise AssertionError(f"after {seconds} s it is not {states}: {run}")

    async def pending_approval(self) -> Approval:
        """The only open approval, once there is one."""
        for _ in range(100):
            if found := await self.env.store.approvals.find():
                assert len(found) == 1
                return found[0]
            await self.env.clock.advance(0.1)
            await asyncio.sleep(0.001)
        raise AssertionError("no approval was requested")

    async def after(self, reads: int) -> None:
        """Let time pass until this many people were read."""
        while len(self.env.platform.read_log) < reads:
            await self.env.clock.advance(0.05)
            await asyncio.sleep(0.001)

    async def run(self, **args: Any) -> Run:
        """Start a run and wait for its end."""
        return await self.until(await self.begin(**args), "done", "failed", "stopped")


@pytest.fixture(autouse=True)
def short_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small pages and limits, so that a few hundred people take several pages."""
    monkeypatch.setattr(sources, "PAGE_SIZE", 40)
    monkeypatch.setattr(worker, "PAGE_SIZE", 40)
    monkeypatch.setattr(worker, "MAX_PENDING_READS", 100)


@pytest.fixture
async def make(configs: Configs, tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    made: list[BackfillHarness] = []

    async def start(people: int = 30, **how: Any) -> BackfillHarness:
        env = Environment(configs(**how), people=people)
        await env.start()
        made.append(BackfillHarness(env, tmp_path))
        return made[-1]

    yield start
    for harness in made:
        await harness.env.kill()


def outcome_counts(run: Run) -> dict[str, int]:
    return {word: count for word, count in run["people"].items() if count}


async def test_everyone_is_sent_and_a_second_run_sends_nothing(make: Any) -> None:
    harness: BackfillHarness = await make(70)
    file = harness.everyone()
    first = await harness.run(what=file)
    assert (first["state"], outcome_counts(first)) == ("done", {"sent": 70})
    assert [harness.env.difference(person) for person in harness.env.platform.people] == [None] * 70
    sent = harness.env.profile_requests()
    await harness.env.clock.advance(1)
    second = await harness.run(what=file)
    assert second["id"] != first["id"]
    assert outcome_counts(second) == {"unchanged": 70}
    assert harness.env.profile_requests() == sent
    assert harness.env.klaviyo.violations == {}
    assert harness.env.klaviyo.overlapping_writes == 0


async def test_the_summary_is_accurate(make: Any) -> None:
    harness: BackfillHarness = await make(6)
    people = harness.env.platform.people
    await harness.env.send_event("Balance changed", people[0])
    await harness.env.run_until_idle()
    harness.env.klaviyo.faults.add("*", "poison", match=people[1].email)
    emails = [person.email for person in people]
    run = await harness.run(
        what=harness.file(*emails, "stranger@example.com", "no address", emails[2])
    )
    assert outcome_counts(run) == {"unchanged": 1, "dead": 1, "sent": 4, "unknown": 1, "invalid": 1}
    assert run["notes"] == ["line 9 is not an e-mail address"]
    assert (run["rows"], run["total"]) == (9, 9)


async def test_a_dry_run_reports_its_effect_and_changes_nothing(make: Any) -> None:
    harness: BackfillHarness = await make(8)
    env = harness.env
    people = env.platform.people
    for person in people[:2]:
        await env.send_event("Balance changed", person)
    await env.run_until_idle()
    people[1].change(balance=people[1].balance + 1)
    env.klaviyo.make_people(people[2].email)
    env.klaviyo.flows.add("Now gold", "live", "Added to List", env.klaviyo.make_segment("Gold"))
    sent, before = env.profile_requests(), env.rows(reads.select())
    written = env.rows(profiles.select())
    emails = [person.email for person in people]
    run = await harness.run(what=harness.file(*emails, "stranger@example.com", "x"), dry_run=True)
    assert run["state"] == "done"
    assert outcome_counts(run) == {
        "would_send": 7,
        "unchanged": 1,
        "unknown": 1,
        "invalid": 1,
        "new_to_klaviyo": 5,
    }
    assert run["notes"] == ["live flow: Now gold", "line 11 is not an e-mail address"]
    assert env.profile_requests() == sent
    assert (env.rows(reads.select()), env.rows(profiles.select())) == (before, written)
    assert await env.store.timelines.find("acme", "stranger@example.com") == []
    await harness.begin(what=harness.file(*emails))
    pending_approval = await harness.pending_approval()
    assert pending_approval.detail == {
        "account": "SANDBX",
        "target": "profile fields",
        "people": 8,
        "valid_for_people": "6 to 10",
        "new_to_klaviyo": 5,
        "live_flows": ["Now gold"],
    }


async def test_existing_only_creates_no_profile(make: Any) -> None:
    harness: BackfillHarness = await make(40)
    people = harness.env.platform.people
    known = [person.email for person in people[:15]]
    harness.env.klaviyo.make_people(*known)
    run = await harness.run(what=harness.everyone(), existing_only=True)
    assert outcome_counts(run) == {"sent": 15}
    assert run["not_at_klaviyo"] == 25
    assert harness.env.klaviyo.state()["profiles"] == 15
    assert [harness.env.difference(person) for person in people[:15]] == [None] * 15


async def test_force_sends_everyone_again(make: Any) -> None:
    harness: BackfillHarness = await make(5)
    file = harness.everyone()
    await harness.run(what=file)
    before = len(harness.env.klaviyo.writes)
    forced = await harness.run(what=file, force=True)
    assert outcome_counts(forced) == {"sent": 5}
    again = {write.email: write.keys for write in harness.env.klaviyo.writes[before:]}
    assert set(again) == {person.email for person in harness.env.platform.people}
    assert all("properties.balance" in keys for keys in again.values())


@pytest.mark.parametrize("kind", ["list", "segment"])
async def test_members_of_a_group_are_sent(make: Any, kind: str) -> None:
    harness: BackfillHarness = await make(105)
    klaviyo = harness.env.klaviyo
    emails = [person.email for person in harness.env.platform.people[:103]]
    (klaviyo.make_list if kind == "list" else klaviyo.make_segment)("Club", *emails)
    run = await harness.run(source=f"klaviyo-{kind}", what="Club")
    assert outcome_counts(run) == {"sent": 103}
    assert run["total"] == 103


async def test_without_a_source_all_known_people_are_sent(make: Any) -> None:
    harness: BackfillHarness = await make(12)
    people = harness.env.platform.people
    for person in people[:7]:
        await harness.env.send_event("Balance changed", person)
    await harness.env.run_until_idle()
    for person in people:
        person.change(balance=77)
    run = await harness.run()
    assert (run["source"], outcome_counts(run)) == ("seen", {"sent": 7})
    assert [harness.env.difference(person) for person in people[:7]] == [None] * 7


async def test_nothing_is_read_or_sent_before_approval(make: Any) -> None:
    harness: BackfillHarness = await make(9)
    env = harness.env
    env.klaviyo.flows.add("Now gold", "live", "Added to List", env.klaviyo.make_segment("Gold"))
    id = await harness.begin(what=harness.everyone())
    pending_approval = await harness.pending_approval()
    await env.clock.advance(3600)
    assert (await harness.commands.backfill(id))["state"] == "waiting"
    assert (env.profile_requests(), len(env.platform.read_log)) == ({}, 0)
    assert pending_approval.detail == {
        "account": "SANDBX",
        "target": "profile fields",
        "people": 9,
        "valid_for_people": "7 to 11",
        "live_flows": ["Now gold"],
    }
    done, _ = await harness.commands.execute("approve", {"id": pending_approval.id, "by": "ana"})
    assert done
    approved_at = env.clock.monotonic()
    while not env.platform.read_log:
        await env.clock.advance(0.001)
        await asyncio.sleep(0.01)  # the file is read in a thread
    assert env.clock.monotonic() - approved_at < 1
    assert env.klaviyo_requests("GET /api/segments")
    run = await harness.until(id, "done")
    assert outcome_counts(run) == {"sent": 9}
    assert await env.store.approvals.find(pending=False) == []


async def test_a_rejection_stops_it_and_the_same_command_asks_again(make: Any) -> None:
    harness: BackfillHarness = await make(3)
    env = harness.env
    env.klaviyo.flows.add("Now gold", "live", "Added to List", env.klaviyo.make_segment("Gold"))
    file = harness.everyone()
    id = await harness.begin(what=file)
    pending_approval = await harness.pending_approval()
    await harness.commands.execute("reject", {"id": pending_approval.id, "by": "ana"})
    run = await harness.until(id, "stopped")
    assert (run["problem"], outcome_counts(run)) == ("B20", {})
    assert env.profile_requests() == {}
    assert await harness.begin(what=file) == id
    second = await harness.pending_approval()
    assert second.id != pending_approval.id


async def test_stop_takes_effect_at_once_and_the_same_command_resumes(make: Any) -> None:
    harness: BackfillHarness = await make(160)
    env = harness.env
    env.fault_transports["jericommerce"].before = lambda: 0.1
    file = harness.everyone()
    id = await harness.begin(what=file)
    await harness.after(60)
    done, _ = await harness.commands.execute("backfill-stop", {"connection": "acme"})
    assert done
    read = len(env.platform.read_log)
    await env.clock.advance(60)
    assert len(env.platform.read_log) <= read + 8  # those in flight
    stopped = await harness.commands.backfill(id)
    assert stopped["state"] == "stopped"
    assert 0 < stopped["people"]["pending"] <= 100
    assert stopped["rows"] < 160
    assert (await harness.commands.execute("backfill-stop", {"connection": "acme"}))[0] is False
    assert await harness.begin(what=file) == id
    run = await harness.until(id, "done")
    assert outcome_counts(run) == {"sent": 160}
    assert len(env.platform.read_log) == 160


async def test_two_kills_lose_no_person_and_reread_at_most_one_page(make: Any) -> None:
    harness: BackfillHarness = await make(160)
    env = harness.env
    env.fault_transports["jericommerce"].before = lambda: 0.1
    id = await harness.begin(what=harness.everyone())
    for reads_made in (30, 90):
        await harness.after(reads_made)
        await env.kill()
        await env.start()
    run = await harness.until(id, "done")
    assert outcome_counts(run) == {"sent": 160}
    assert [p.email for p in env.platform.people if env.difference(p)] == []
    assert len(env.platform.read_log) <= 160 + 2 * 8


async def test_a_changed_file_is_not_resumed(make: Any) -> None:
    harness: BackfillHarness = await make(150)
    file = harness.everyone()
    id = await harness.begin(what=file)
    await harness.until(id, "running")
    await harness.commands.execute("backfill-stop", {"connection": "acme"})
    file.write_text(file.read_text() + "one.more@example.com\n")
    done, result = await harness.run_command(what=file)
    assert (done, "has changed" in result["error"]) == (False, True)
    restarted = await harness.run(what=file, restart=True)
    assert restarted["id"] != id
    assert (restarted["state"], restarted["people"]["unknown"]) == ("done", 1)


async def test_one_backfill_at_a_time(make: Any) -> None:
    harness: BackfillHarness = await make(150)
    file = harness.everyone()
    id = await harness.begin(what=file)
    await harness.until(id, "running")
    assert await harness.begin(what=file) == id
    done, result = await harness.run_command(what=harness.file("ada@example.com", name="other.csv"))
    assert (done, f"backfill {id}" in result["error"]) == (False, True)
    assert (await harness.until(id, "done"))["people"]["sent"] == 150


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ({"source": "emails", "what": "/nowhere/people.csv"}, "cannot be read here"),
        ({"source": "klaviyo-list", "what": "No such list"}, "no list"),
        ({"source": "klaviyo-segment", "what": "S99999"}, "no segment"),
    ],
)
async def test_a_command_that_fails_reports_why(
    make: Any, args: dict[str, str], expected: str
) -> None:
    harness: BackfillHarness = await make(1)
    done, result = await harness.run_command(**args)
    assert done is False
    assert expected in result["error"]
    assert await harness.commands.backfills() == []


async def test_two_lists_with_one_name_are_distinguished_by_id(make: Any) -> None:
    harness: BackfillHarness = await make(2)
    emails = [person.email for person in harness.env.platform.people]
    ids = [harness.env.klaviyo.make_list("Club", email) for email in emails]
    done, result = await harness.run_command(source="klaviyo-list", what="Club")
    assert done is False
    assert all(id in result["error"] for id in ids)
    run = await harness.run(source="klaviyo-list", what=ids[1])
    assert outcome_counts(run) == {"sent": 1}


async def test_a_list_deleted_meanwhile_fails_the_run(make: Any) -> None:
    harness: BackfillHarness = await make(3)
    id = harness.env.klaviyo.make_list("Club", harness.env.platform.people[0].email)
    harness.env.klaviyo.faults.add("lists/{id}/profiles", "status", status=404)
    run = await harness.run(source="klaviyo-list", what=id)
    assert (run["state"], run["problem"]) == ("failed", "B30")


async def test_a_history_import_without_a_history_fails_with_the_reason(make: Any) -> None:
    """The module `events` was switched off, or the platform changed, since the run began."""
    harness: BackfillHarness = await make(1)
    args: dict[str, Any] = {"what": None, "events": True, "since": None, "until": 0}
    args |= dict.fromkeys(("dry_run", "existing_only", "force"), False)
    run = await harness.env.store.backfills.begin("acme", "seen", args, now=harness.env.clock.now())
    await harness.env.kill()
    await harness.env.start()
    ended = await harness.until(run.id, "failed")
    assert ended["problem"] == "B30"
    assert "module `events`" in ended["detail"]


async def test_live_people_are_sent_before_backfilled_ones(make: Any) -> None:
    harness: BackfillHarness = await make(120)
    env = harness.env
    people = env.platform.people
    id = await harness.begin(what=harness.file(*(person.email for person in people[1:])))
    await harness.after(50)
    people[0].change(balance=4711)
    read, written = len(env.platform.read_log), len(env.klaviyo.writes)
    await env.send_event("Balance changed", people[0])
    while ("single", people[0].email) not in [(w.kind, w.email) for w in env.klaviyo.writes]:
        await env.clock.advance(0.05)
    batch = 8  # reads in flight
    between = [email for _, email in list(env.platform.read_log)[read:]]
    assert between.index(people[0].email) <= batch
    writes = [w.email for w in env.klaviyo.writes[written:] if w.kind == "single"]
    assert people[0].email in writes[:20]
    await harness.until(id, "done")


async def test_without_access_to_flows_it_continues_with_a_warning(make: Any) -> None:
    harness: BackfillHarness = await make(2)
    harness.env.klaviyo.flows.readable = False
    run = await harness.run(what=harness.everyone())
    assert (run["state"], outcome_counts(run)) == ("done", {"sent": 2})
    assert run["notes"] == ["live flow: unknown, because the key has no scope flows:read"]


async def test_a_run_waits_for_people_sent_by_live_traffic(make: Any) -> None:
    harness: BackfillHarness = await make(3)
    env = harness.env
    ana = env.platform.people[0]
    env.klaviyo.faults.add("profile-import", "status", status=503, match=ana.email)
    await env.send_event("Balance changed", ana)
    await env.clock.advance(5)
    id = await harness.begin(what=harness.everyone())
    await harness.until(id, "running")
    for _ in range(40):
        await env.clock.advance(1)
        await asyncio.sleep(0.001)
    run = await harness.commands.backfill(id)
    assert (run["state"], run["to_read"], run["to_write"]) == ("running", 0, 0)
    env.klaviyo.faults.clear()
    assert outcome_counts(await harness.until(id, "done", seconds=600)) == {"sent": 3}
