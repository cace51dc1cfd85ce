"""When removing one field from many people counts as a mass unset."""

from __future__ import annotations

from connector.domain.lanes import Millis
from connector.domain.unsets import FLOOR, UnsetCount

DAY = 86_400_000


def make(**changes: int) -> UnsetCount:
    return UnsetCount("tier", Millis(0), **changes)


def test_more_than_the_floor_and_the_share_are_held() -> None:
    assert not make().add(FLOOR, FLOOR, Millis(1)).held
    assert make().add(FLOOR + 1, FLOOR + 1, Millis(1)).held
    assert not make().add(FLOOR + 1, 4 * FLOOR, Millis(1)).held
    assert make(people=40, writes=100).add(20, 40, Millis(1)).held


def test_a_held_field_stays_held_whatever_is_counted() -> None:
    held = make().add(100, 100, Millis(1))
    assert held.add(0, 10_000, Millis(2 * DAY)).held


def test_what_was_normal_before_does_not_hide_what_is_not() -> None:
    quiet = make().add(5, 10_000, Millis(1))
    assert quiet.add(FLOOR + 1, FLOOR + 1, Millis(2)).held


def test_a_new_day_counts_from_zero() -> None:
    full = make().add(FLOOR, FLOOR, Millis(1))
    assert full.add(1, 1, Millis(DAY - 1)).held
    assert not full.add(1, 1, Millis(DAY)).held


def test_an_approval_covers_its_number_of_people_within_its_day() -> None:
    approved = make(allowed=200)
    used = approved.add(200, 200, Millis(1))
    assert not used.held
    assert used.add(1, 1, Millis(2)).held
    assert approved.add(201, 201, Millis(DAY)).held
    quiet = approved.add(100, 1_000, Millis(1))
    assert not quiet.add(100, 100, Millis(2)).held
    assert quiet.add(101, 101, Millis(2)).held
