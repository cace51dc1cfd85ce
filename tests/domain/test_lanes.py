"""The registry of lane kinds: complete, and the only source of what differs between lanes."""

from __future__ import annotations

from typing import get_args

import pytest

from connector.domain.lanes import (
    ACTIONS,
    EVENTS,
    LANE_KINDS,
    LIST_MEMBERS,
    PROFILES,
    READS,
    SEGMENT_MEMBERS,
    Kind,
    Lane,
    LaneId,
    LaneKind,
    QueueName,
    find_lane_kind,
)


@pytest.mark.parametrize(
    ("kind", "destination", "expected", "title"),
    [
        ("event", "klaviyo", EVENTS, "acme events → klaviyo"),
        ("profile", "klaviyo", PROFILES, "acme profiles → klaviyo"),
        ("profile", "yotpo", READS, "acme people ← yotpo"),
        ("membership", "klaviyo", LIST_MEMBERS, "acme memberships → klaviyo"),
        ("membership", "yotpo", SEGMENT_MEMBERS, "acme memberships → yotpo"),
        ("action", "yotpo", ACTIONS, "acme actions → yotpo"),
    ],
)
def test_a_stored_lane_has_its_kind(
    kind: Kind, destination: str, expected: LaneKind, title: str
) -> None:
    assert find_lane_kind(kind, destination) is expected
    lane = Lane(LaneId(1), "acme", destination, kind)
    assert (lane.lane_kind, lane.title) == (expected, title)


def test_every_kind_and_every_queue_has_a_lane_kind() -> None:
    assert {kind.kind for kind in LANE_KINDS} == set(get_args(Kind))
    assert {kind.queue for kind in LANE_KINDS} == set(get_args(QueueName))
    assert len({(kind.kind, kind.side) for kind in LANE_KINDS}) == len(LANE_KINDS)
