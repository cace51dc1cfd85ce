"""What needs a person, from the state of the lanes: causes, and what they affect."""

from __future__ import annotations

from connector.domain.errors import Problem
from connector.domain.lanes import Lane, LaneId, LaneState
from connector.domain.records import State
from connector.ports import Backlog, StuckGroup
from connector.service import attention

EVENTS = Lane(LaneId(1), "acme", "klaviyo", "event")
PROFILES = Lane(LaneId(2), "acme", "klaviyo", "profile")
READS = Lane(LaneId(3), "acme", "jericommerce", "profile")
RUNNING = LaneState("running")


def backlog(lane: Lane, *, dead: int = 0, state: LaneState = RUNNING) -> Backlog:
    return Backlog(lane, state, ready=0, claimed=0, held=0, dead=dead, oldest=None)


def stuck(b: Backlog, **causes: int) -> list[StuckGroup]:
    return [StuckGroup(b.lane, State.DEAD, code, entries) for code, entries in causes.items()]


def test_dead_entries_of_each_lane_have_their_own_cause() -> None:
    lanes = [backlog(EVENTS, dead=2), backlog(PROFILES, dead=3), backlog(READS, dead=1)]
    groups = [*stuck(lanes[0], E10=2), *stuck(lanes[1], K400=3), *stuck(lanes[2], P400=1)]
    events, profiles, reads = attention.of_lanes(lanes, groups)
    assert [item.problem for item in (events, profiles, reads)] == ["E10", "K400", "P400"]
    assert "`connector dead-letters retry --cause E10`" in events.remedy
    assert "`connector people refresh CONNECTION --cause K400`" in profiles.remedy
    assert "`connector people refresh CONNECTION --cause P400`" in reads.remedy


def test_several_causes_of_a_lane_are_counted() -> None:
    lane = backlog(PROFILES, dead=5)
    held = StuckGroup(lane.lane, State.HELD, "I10", 7)
    [item] = attention.of_lanes([lane], [*stuck(lane, K400=4, E13=1), held])
    assert item.problem is None
    assert item.text.endswith("5 refused profiles (1 E13, 4 K400)")
    assert "`connector people list --connection CONNECTION`" in item.remedy


def test_lanes_that_were_held_for_one_cause_each_say_what_they_met() -> None:
    lanes = [
        backlog(lane, state=LaneState("held", Problem.HIGH_DEAD_RATE, f"{count} died"))
        for lane, count in ((EVENTS, 53), (PROFILES, 74))
    ]
    [item] = attention.by_cause(attention.of_lanes(lanes, []))
    assert item.text.endswith("; events and profiles wait: events: 53 died; profiles: 74 died")


def test_lanes_with_the_same_detail_say_it_once() -> None:
    lanes = [
        backlog(lane, state=LaneState("blocked", Problem.KLAVIYO_KEY, "HTTP 401"))
        for lane in (EVENTS, PROFILES)
    ]
    [item] = attention.by_cause(attention.of_lanes(lanes, []))
    assert item.text.endswith("; events and profiles wait: HTTP 401")
