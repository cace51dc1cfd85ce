"""The status: one verdict, what needs a person, and the truth when no process runs."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from connector.domain.attention import Affected, AttentionItem
from connector.domain.errors import Problem
from connector.domain.lanes import Lane, LaneState, Millis, MinuteCount
from connector.domain.memberships import Link
from connector.domain.oauth import KLAVIYO_OAUTH, GrantInfo
from connector.domain.records import Page, Record
from connector.ports import ProcessState
from connector.service import Commands
from connector.service.process import (
    ConnectionReport,
    LaneReport,
    Process,
    ProcessReport,
    QuotaUse,
    RefusedCalls,
)
from connector.service.status import Status
from connector.testing.fakes.clock import FakeClock
from connector.testing.fakes.store import memory_store

ACME = ConnectionReport(
    title="Yotpo", source="yotpo", mode="live", enabled=True, modules=("events",)
)


class Rig:
    """A store as another process left it or keeps it, read from outside."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.store = memory_store()
        self.commands = Commands(self.store, self.clock)
        self.report = ProcessReport(
            version="0.1.0", public_url="https://loyalty.example", connections={"acme": ACME}
        )
        self.lane: Lane

    async def ingest(self, count: int) -> None:
        self.lane = await self.store.lanes.ensure("acme", "klaviyo", "event")
        now = self.clock.now()
        records = [
            Record(f"r{n}", f"u:{n}", "Balance changed", now, b"{}", email=f"p{n}@example.com")
            for n in range(count)
        ]
        await self.store.outbox.append([Page(self.lane, "webhook", records, now)])

    async def save(self, **changes: Any) -> None:
        """What the running process reports now."""
        self.report = self.report.model_copy(update=changes)
        now = self.clock.now()
        await self.store.process_reports.save(
            ProcessState("host/1/-/a", now, frozenset({"store"}), self.report.model_dump_json())
        )

    async def run(self, **changes: Any) -> None:
        """A process runs and reports this."""
        await self.store.leases.acquire("store", "host/1/-/a", now=self.clock.now(), ttl=12_000)
        await self.save(**changes)

    async def status(self) -> Status:
        return await self.commands.status()


@pytest.fixture
async def rig() -> Rig:
    rig = Rig()
    await rig.ingest(3)
    return rig


def slow(now: Millis) -> AttentionItem:
    return AttentionItem(
        "slow acme events → klaviyo",
        "acme events → klaviyo: Klaviyo is unavailable",
        Problem.KLAVIYO_UNAVAILABLE,
        since=now,
        retry_in=12.0,
        remote="klaviyo",
    )


# ── the verdict ──────────────────────────────────────────────────────────────────────────────────


async def test_a_store_that_no_process_has_worked_on_says_so(rig: Rig) -> None:
    found = await rig.status()
    assert found.verdict.level == "stopped"
    assert found.verdict.text == "Not started yet, 3 records wait"


async def test_all_is_well_in_one_line(rig: Rig) -> None:
    await rig.run()
    found = await rig.status()
    assert (found.verdict.level, found.verdict.text) == ("ok", "All well, 3 records wait")


async def test_a_start_is_not_called_well_before_its_lanes_run(rig: Rig) -> None:
    await rig.run(connections={"acme": ACME.model_copy(update={"starting": True}), "beta": ACME})
    found = await rig.status()
    assert (found.verdict.level, found.verdict.text) == ("ok", "Starting: acme, 3 records wait")


async def test_a_pause_by_a_person_is_named_and_needs_no_one(rig: Rig) -> None:
    await rig.run()
    state = LaneState("paused", Problem.PAUSED, "", rig.clock.now())
    await rig.store.lanes.set_state(rig.lane.id, state)
    found = await rig.status()
    assert found.verdict.text == "acme is paused, 3 records wait"
    assert found.attention == []


async def test_a_remote_side_that_is_away_degrades_until_patience_ends(rig: Rig) -> None:
    await rig.run(attention=(slow(rig.clock.now()),))
    found = await rig.status()
    assert found.verdict.level == "degraded"
    assert found.verdict.text == "Klaviyo is away, 3 records wait, retrying in 12.0 s"
    assert (found.attention, [x.code for x in found.degraded]) == ([], ["K503"])
    [lane] = found.connections["acme"].lanes
    assert (lane.state, lane.problem, lane.retry_in) == ("degraded", "K503", 12.0)
    assert lane.remedy == Problem.KLAVIYO_UNAVAILABLE.remedy
    await rig.clock.advance(599.0)
    await rig.run()
    assert await rig.commands.attention() == []
    await rig.clock.advance(1.0)
    found = await rig.status()
    assert [x.code for x in found.attention] == ["K503"]
    assert found.verdict.text == "1 thing needs you, 3 records wait"


async def test_since_when_a_source_cannot_be_read_comes_from_the_process(rig: Rig) -> None:
    poll = AttentionItem("poll acme", "acme: cannot be polled", Problem.PLATFORM_UNAVAILABLE)
    await rig.run(attention=(poll,), since={"poll acme": rig.clock.now() - 600_000})
    assert [item.key for item in await rig.commands.attention()] == ["poll acme"]


async def test_what_needs_a_person_has_text_code_and_remedy(rig: Rig) -> None:
    await rig.run()
    state = LaneState("blocked", Problem.KLAVIYO_KEY, "HTTP 401", rig.clock.now())
    await rig.store.lanes.set_state(rig.lane.id, state)
    found = await rig.status()
    [item] = found.attention
    assert item.text == "acme events → klaviyo is blocked: Klaviyo rejected the key: HTTP 401"
    assert (item.code, item.remedy) == ("K401", Problem.KLAVIYO_KEY.remedy)
    assert item.since == rig.clock.now()
    assert found.verdict.text == "1 thing needs you, 3 records wait"
    [lane] = found.connections["acme"].lanes
    assert (lane.state, lane.reason) == ("blocked", "Klaviyo rejected the key: HTTP 401")


async def test_what_one_cause_stops_is_one_item_that_names_it_all(rig: Rig) -> None:
    now = rig.clock.now()
    lanes = [rig.lane]
    lanes.append(await rig.store.lanes.ensure("acme", "klaviyo", "profile"))
    lanes.append(await rig.store.lanes.ensure("acme", "klaviyo", "membership"))
    other = await rig.store.lanes.ensure("acme-2", "klaviyo", "event")
    blocked = LaneState("blocked", Problem.KLAVIYO_KEY, "HTTP 401", now)
    await rig.store.lanes.set_state(rig.lane.id, blocked)
    [alone] = (await rig.status()).attention
    for lane in (*lanes[1:], other):
        await rig.store.lanes.set_state(lane.id, replace(blocked, since=Millis(now + 1)))
    [item, second] = found = (await rig.status()).attention
    assert item.text == (
        "acme: Klaviyo rejected the key; events, profiles and lists wait: HTTP 401"
    )
    assert (item.key, item.since) == (alone.key, now)
    assert [x.connection for x in found] == ["acme", "acme-2"]
    assert second.text == "acme-2 events → klaviyo is blocked: Klaviyo rejected the key: HTTP 401"
    assert {x.key for x in found} == {x.key for x in await rig.commands.attention()}
    states = {lane.lane: lane.reason for lane in (await rig.status()).connections["acme"].lanes}
    assert set(states.values()) == {"Klaviyo rejected the key: HTTP 401"}


async def test_a_lane_and_a_poll_that_wait_for_one_platform_are_one_item(rig: Rig) -> None:
    def away(key: str, work: str, remote: str) -> AttentionItem:
        affected = Affected("acme", work, "refused")
        since = rig.clock.now()
        return AttentionItem(
            key, key, Problem.NOT_CONNECTED, since=since, remote=remote, affected=affected
        )

    await rig.run(
        attention=(
            away("slow", "reads of people", "yotpo"),
            away("poll", "polls", "yotpo"),
            away("other", "events", "klaviyo"),
        )
    )
    assert [item.text for item in (await rig.status()).degraded] == [
        f"acme → yotpo: {Problem.NOT_CONNECTED.meaning}; reads of people and polls wait: refused",
        "other",
    ]


async def test_an_ended_grant_and_the_lanes_that_it_blocks_are_one_item(rig: Rig) -> None:
    now = rig.clock.now()
    info = replace(GrantInfo(), ended_at=Millis(now - 7_200_000)).dump()
    await rig.store.secrets.put("acme", KLAVIYO_OAUTH, "", info, now=now)
    [alone] = (await rig.status()).attention
    state = LaneState("blocked", Problem.KLAVIYO_ACCESS_ENDED, "the token is refused", now)
    await rig.store.lanes.set_state(rig.lane.id, state)
    [item] = (await rig.status()).attention
    assert (item.key, item.code) == (alone.key, "K610")
    assert item.text.endswith("; events wait: the token is refused")


async def test_two_failed_groups_are_two_items(rig: Rig) -> None:
    groups = rig.store.member_groups
    lane = await rig.store.lanes.ensure("acme", "klaviyo", "membership")
    await groups.set_links(lane, [Link("gold", "VIP"), Link("silver", "VIP")], account="A")
    sources = [group for group in await groups.all() if group.kind == "audience"]
    for group in sources:
        await groups.set_problem(group.id, Problem.GROUP_NOT_FOUND, f"no audience {group.name}")
    assert len((await rig.status()).attention) == 2
    for group in sources:
        await groups.set_problem(group.id, Problem.PLATFORM_KEY, "HTTP 401")
    [item] = (await rig.status()).attention
    assert item.text == "acme: the platform rejected the credentials; audiences wait: HTTP 401"


# ── when no process runs ─────────────────────────────────────────────────────────────────────────


async def test_nothing_runs_when_the_process_is_gone(rig: Rig) -> None:
    await rig.store.lanes.ensure("acme", "yotpo", "profile")
    await rig.store.lanes.ensure("acme", "klaviyo", "profile")
    run = await rig.store.backfills.begin("acme", "people", {}, now=rig.clock.now())
    await rig.store.backfills.start(run.id, now=rig.clock.now(), total=10, notes=[])
    await rig.run(
        lanes={int(rig.lane.id): LaneReport(per_second=5.0)}, attention=(slow(Millis(0)),)
    )
    assert (await rig.status()).backfills[0].progressing
    await rig.clock.advance(14 * 60.0)
    found = await rig.status()
    assert (found.running, found.holder, found.replicas) == (False, None, [])
    assert found.verdict.text == "Killed, crashed or cut off 14 min ago, 3 records wait"
    assert found.stopped_since == rig.clock.now() - 14 * 60_000
    assert {lane.state for lane in found.connections["acme"].lanes} == {"stopped"}
    assert {lane.per_second for lane in found.connections["acme"].lanes} == {0.0}
    # What only the process knew is not known any more.
    assert (found.attention, found.degraded) == ([], [])
    [backfill] = found.backfills
    assert (backfill.state, backfill.progressing, backfill.eta_seconds) == ("running", False, None)


async def test_a_stop_does_not_look_like_a_kill(rig: Rig) -> None:
    await rig.run()
    document = rig.report.model_dump_json()
    await rig.store.process_reports.withdraw(
        ProcessState("host/1/-/a", rig.clock.now(), frozenset(), document)
    )
    await rig.clock.advance(60.0)
    assert (await rig.status()).verdict.text == "Stopped 1 min ago, 3 records wait"


async def test_a_process_that_holds_the_lease_and_reports_nothing_needs_a_person(rig: Rig) -> None:
    await rig.run()
    await rig.clock.advance(61.0)
    await rig.store.leases.acquire("store", "host/1/-/a", now=rig.clock.now(), ttl=12_000)
    [item] = (await rig.status()).attention
    assert item.text == "host/1 holds the lease and has reported nothing for 1 min"


@pytest.mark.parametrize(
    ("problem", "state"),
    [
        (Problem.STORE_UNAVAILABLE, "degraded"),
        (Problem.STORE_REPLACED, "degraded"),
        (Problem.STORE_DAMAGED, "running"),
        (Problem.DISK_LOW, "running"),
    ],
)
async def test_no_lane_is_called_running_that_the_store_stops(
    rig: Rig, problem: Problem, state: str
) -> None:
    lanes = {int(rig.lane.id): LaneReport(per_second=2.0)}
    await rig.run(attention=(AttentionItem("store", "the store fails", problem),), lanes=lanes)
    [lane] = (await rig.status()).connections["acme"].lanes
    assert lane.state == state
    assert lane.problem == (problem.value if state == "degraded" else None)
    assert (lane.eta_seconds is None) == (state == "degraded")


async def test_a_paused_lane_is_shown_as_paused_while_the_store_fails(rig: Rig) -> None:
    outage = AttentionItem("store", "the store fails", Problem.STORE_UNAVAILABLE)
    await rig.run(attention=(outage,))
    state = LaneState("paused", Problem.PAUSED, "", rig.clock.now())
    await rig.store.lanes.set_state(rig.lane.id, state)
    [lane] = (await rig.status()).connections["acme"].lanes
    assert (lane.state, lane.problem) == ("paused", "L40")
    assert "database" not in lane.remedy


async def test_a_report_of_another_version_is_not_an_error(rig: Rig) -> None:
    await rig.run()
    await rig.store.process_reports.save(
        ProcessState("host/1/-/a", rig.clock.now(), frozenset(), '{"future": 1}')
    )
    assert (await rig.status()).verdict.level == "ok"


# ── the document ─────────────────────────────────────────────────────────────────────────────────


async def test_the_document_shows_intake_rates_people_and_quota(rig: Rig) -> None:
    now = rig.clock.now()
    refused = RefusedCalls(problem="W401", count=9, in_a_row=2, last=now - 1_000)
    connection = ACME.model_copy(
        update={
            "received": {"webhook": now - 5_000, "poll": now - 60_000},
            "refused": {"signature": refused},
            "skipped": {"shadow": 4},
            "unattached": 6,
        }
    )
    use = QuotaUse(
        account="ab12",
        connections=("acme",),
        endpoint="POST /api/events",
        label="Klaviyo events",
        used=12,
        allowed=2_100,
    )
    await rig.store.lanes.ensure("acme", "klaviyo", "profile")
    await rig.run(
        connections={"acme": connection},
        lanes={int(rig.lane.id): LaneReport(per_second=1.5, delivered_at=now - 2_000)},
        quota=(use,),
        people={"acme": {"known": 10, "held": 3, "gone": 1}},
    )
    acme = (await rig.status()).connections["acme"]
    events = acme.lanes[0]
    assert (events.ready, events.per_second, events.eta_seconds) == (3, 1.5, 2.0)
    assert acme.last_received == now - 5_000
    assert acme.last_delivered == now - 2_000
    assert acme.last_refusal is not None
    assert (acme.last_refusal.problem, acme.last_refusal.in_a_row) == ("W401", 2)
    assert acme.skipped == {"shadow": 4}
    assert acme.unattached == 6
    assert acme.people is not None
    assert (acme.people.synced, acme.people.without_email, acme.people.gone) == (10, 3, 1)
    assert [use.text for use in acme.quota] == ["Klaviyo events: 12 of 2,100 this minute"]


async def test_a_lane_that_is_stopped_or_finds_its_remote_side_away_has_no_eta(rig: Rig) -> None:
    lanes = {int(rig.lane.id): LaneReport(per_second=1.5)}
    await rig.run(lanes=lanes, attention=(slow(rig.clock.now()),))
    [lane] = (await rig.status()).connections["acme"].lanes
    assert (lane.state, lane.per_second, lane.eta_seconds) == ("degraded", 1.5, None)
    blocked = LaneState("blocked", Problem.KLAVIYO_KEY, "HTTP 401", rig.clock.now())
    await rig.store.lanes.set_state(rig.lane.id, blocked)
    [lane] = (await rig.status()).connections["acme"].lanes
    assert (lane.state, lane.per_second, lane.eta_seconds) == ("blocked", 1.5, None)


async def test_people_who_wait_to_be_read_are_not_called_synced(rig: Rig) -> None:
    reads = await rig.store.lanes.ensure("acme", "yotpo", "profile")
    now = rig.clock.now()
    record = Record(
        "new", "u:new", "Balance changed", now, b"{}", email="new@example.com", refresh=True
    )
    page = Page(rig.lane, "webhook", [record], now, read_lane=reads.id)
    await rig.store.outbox.append([page])
    await rig.run(people={"acme": {"known": 4}})
    people = (await rig.status()).connections["acme"].people
    assert people is not None
    assert (people.synced, people.to_read) == (3, 1)


async def test_the_json_is_what_the_schema_says(rig: Rig) -> None:
    await rig.run(attention=(slow(rig.clock.now()),))
    document = (await rig.status()).model_dump_json()
    assert Status.model_validate_json(document).model_dump_json() == document
    assert set(json.loads(document)) == set(Status.model_json_schema()["properties"])


async def test_the_minutes_of_the_last_two_hours_are_in_the_status(rig: Rig) -> None:
    minute = rig.clock.now() // 60_000
    counts = [MinuteCount(rig.lane.id, minute - ago, n) for ago, n in ((0, 5), (119, 2), (120, 9))]
    await rig.store.facts.add_throughput(counts)
    found = (await rig.status()).connections["acme"].throughput
    assert len(found.events) == len(found.profiles) == 120
    assert (found.events[-1], found.events[0], sum(found.events)) == (5, 2, 7)
    assert sum(found.profiles) == 0


# ── what the process reports about itself ────────────────────────────────────────────────────────


def process_of_acme(clock: FakeClock) -> Process:
    return Process(clock=clock, runtimes={"acme": object()})  # type: ignore[dict-item]


async def test_wrong_secrets_need_a_person_once_they_are_no_unknown_caller() -> None:
    clock = FakeClock()
    process = process_of_acme(clock)
    activity = process.activity

    async def codes() -> list[str]:
        return [str(item.problem) for item in process._refusals()]

    activity.record_received("acme", "webhook", clock.now())
    activity.record_refused("acme", "signature", clock.now())
    activity.record_refused("acme", "signature", clock.now())
    assert await codes() == []
    activity.record_refused("acme", "signature", clock.now())
    assert await codes() == ["W401"]
    activity.record_received("acme", "webhook", clock.now())
    assert await codes() == []
    # Where none was ever accepted, the first refusal is the secret.
    process = replace(process, activity=type(activity)())
    process.activity.record_refused("acme", "signature", clock.now())
    [item] = process._refusals()
    assert item.text == (
        "acme: 1 webhook refused with 401 and none accepted since: "
        "a webhook's signature or secret is missing or wrong"
    )


async def test_calls_that_cannot_be_read_need_a_person_although_others_are_accepted() -> None:
    """Their senders proved who they are, and what they sent is lost."""
    clock = FakeClock()
    process = process_of_acme(clock)
    activity = process.activity
    for _ in range(3):
        assert process._refusals() == []
        activity.record_refused("acme", "malformed", clock.now(), Problem.FLOW_MALFORMED)
        activity.record_received("acme", "flow", clock.now())
        activity.record_received("acme", "webhook", clock.now())
    [item] = process._refusals()
    assert item.problem is Problem.FLOW_MALFORMED
    assert item.text == (
        "acme: 3 flow calls refused within an hour, and nothing of them is stored: "
        "a flow call could not be parsed"
    )
    await clock.advance(3_601.0)
    assert process._refusals() == []
    activity.record_refused("acme", "malformed", clock.now(), Problem.FLOW_MALFORMED)
    assert process._refusals() == []


async def test_refusals_of_several_causes_are_counted_apart() -> None:
    clock = FakeClock()
    process = process_of_acme(clock)
    for _ in range(3):
        for problem in (Problem.WEBHOOK_MALFORMED, Problem.FLOW_MALFORMED, Problem.STORE_REFUSED):
            process.activity.record_refused("acme", "malformed", clock.now(), problem)
        # An unknown caller has closed the connection.
        process.activity.record_refused("acme", "malformed", clock.now())
        process.activity.record_refused("acme", "conflict", clock.now(), Problem.FLOW_CONFLICT)
    assert {str(item.problem) for item in process._refusals()} == {"W400", "A400", "S60", "A409"}


async def test_a_few_wrong_secrets_an_hour_are_an_unknown_callers() -> None:
    clock = FakeClock()
    process = process_of_acme(clock)
    for _ in range(30):
        process.activity.record_refused("acme", "signature", clock.now(), Problem.WEBHOOK_UNSIGNED)
        process.activity.record_received("acme", "webhook", clock.now())
        assert process._refusals() == []
        await clock.advance(1_800.0)


async def test_many_wrong_secrets_need_a_person_although_others_are_right() -> None:
    """One of several flows has an old secret."""
    clock = FakeClock()
    process = process_of_acme(clock)
    activity = process.activity
    for _ in range(20):
        assert process._refusals() == []
        activity.record_refused("acme", "flow_secret", clock.now(), Problem.FLOW_SECRET)
        activity.record_received("acme", "flow", clock.now())
    [item] = process._refusals()
    assert item.problem is Problem.FLOW_SECRET
    assert item.text == (
        "acme: 20 flow calls refused with 401 within an hour while others are accepted: "
        "a flow call's secret is missing or wrong"
    )


async def test_a_restart_continues_what_was_counted() -> None:
    clock = FakeClock()
    now = clock.now()
    before = ProcessReport(
        version="0.1.0",
        public_url="",
        connections={
            "acme": ACME.model_copy(
                update={
                    "received": {"webhook": now},
                    "refused": {"signature": RefusedCalls(count=5, in_a_row=1, last=now)},
                    "refused_minutes": {"W401": {now // 60_000: 4}},
                    "skipped": {"shadow": 2},
                    "unattached": 3,
                }
            )
        },
        lanes={1: LaneReport(per_second=9.0, delivered_at=now)},
    )
    process = Process(clock=clock)
    process.resume(ProcessReport.model_validate_json(before.model_dump_json()))
    activity = process.activity
    assert activity.received == {("acme", "webhook"): now}
    calls = activity.refused["acme", "signature"]
    assert (calls.count, calls.in_a_row, calls.last) == (5, 1, now)
    assert activity.recently_refused("acme", Problem.WEBHOOK_UNSIGNED, now) == 4
    assert activity.skipped == {("acme", "shadow"): 2}
    assert activity.unattached == {"acme": 3}
    assert list(activity.delivered.values()) == [now]
    assert activity.per_second(next(iter(activity.delivered)), clock.monotonic()) == 0.0
