"""What needs a person, from the state of the lanes: causes, and what they affect."""

from __future__ import annotations

from connector.domain.errors import Problem
from connector.domain.lanes import Lane, LaneId, LaneState
from connector.ports import Backlog
from connector.service import attention

EVENTS = Lane(LaneId(1), "acme", "klaviyo", "event")
PROFILES = Lane(LaneId(2), "acme", "klaviyo", "profile")
READS = Lane(LaneId(3), "acme", "jericommerce", "profile")
RUNNING = LaneState("running")


def backlog(lane: Lane, *, dead: int = 0, state: LaneState = RUNNING) -> Backlog:
    return Backlog(lane, state, ready=0, claimed=0, held=0, dead=dead, oldest=None)


def test_dead_records_of_two_lanes_name_the_one_cause_that_all_have() -> None:
    lanes = [backlog(EVENTS, dead=2), backlog(PROFILES, dead=3)]
    events, profiles = attention.of_lanes(lanes, {"acme": {"K400": 5}})
    assert events.problem is profiles.problem is Problem.KLAVIYO_REFUSED
    assert "`connector dead-letters retry --cause K400`" in events.remedy


def test_dead_reads_are_not_given_the_cause_of_events() -> None:
    lanes = [backlog(EVENTS, dead=2), backlog(READS, dead=3)]
    items = attention.of_lanes(lanes, {"acme": {"E10": 2}})
    assert [item.problem for item in items] == [None, None]


def test_dead_records_of_two_lanes_name_no_cause_where_there_are_several() -> None:
    lanes = [backlog(EVENTS, dead=2), backlog(PROFILES, dead=3)]
    items = attention.of_lanes(lanes, {"acme": {"K400": 4, "E13": 1}})
    assert [item.problem for item in items] == [None, None]


def test_lanes_that_were_held_for_one_cause_each_say_what_they_met() -> None:
    lanes = [
        backlog(lane, state=LaneState("held", Problem.HIGH_DEAD_RATE, f"{count} died"))
        for lane, count in ((EVENTS, 53), (PROFILES, 74))
    ]
    [item] = attention.by_cause(attention.of_lanes(lanes, {}))
    assert item.text.endswith("; events and profiles wait: events: 53 died; profiles: 74 died")


def test_lanes_with_the_same_detail_say_it_once() -> None:
    lanes = [
        backlog(lane, state=LaneState("blocked", Problem.KLAVIYO_KEY, "HTTP 401"))
        for lane in (EVENTS, PROFILES)
    ]
    [item] = attention.by_cause(attention.of_lanes(lanes, {}))
    assert item.text.endswith("; events and profiles wait: HTTP 401")
