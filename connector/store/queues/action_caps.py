"""The caps of a day: what counts against them, what they hold, and the approvals to release it.

An action counts from `counted_at` on: when it was received, or released from a hold.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import BindParameter, ColumnElement, Connection, and_, func, or_, select

from connector.domain.actions import Caps
from connector.domain.errors import Problem
from connector.domain.lanes import Lane, LaneId, Millis
from connector.domain.records import State
from connector.store.admin import approvals
from connector.store.statements import chunks
from connector.store.tables import actions, in_state

CAP = "cap"
DAY = 86_400_000
CAPS = {
    "daily_per_person": Problem.ACTION_PERSON_CAP,
    "daily_total": Problem.ACTION_TOTAL_CAP,
}
"""Cap, by its configuration key → the problem of the actions that it holds."""

_COUNTED = and_(
    actions.c.name != "push",
    or_(
        *(in_state(s, actions) for s in (State.READY, State.CLAIMED, State.ACCEPTED)),
        and_(in_state(State.HELD, actions), actions.c.sent_at.is_not(None)),
    ),
)
"""Adjustments that were applied, may have been applied or are going to be."""


def adjustments_by_person(
    c: Connection, person_keys: set[bytes], since: Millis
) -> dict[bytes, int]:
    """Person key → adjustments since then."""
    found: dict[bytes, int] = {}
    for part in chunks(list(person_keys)):
        query = (
            select(actions.c.person_key, func.count())
            .where(actions.c.person_key.in_(part), actions.c.counted_at > since, _COUNTED)
            .group_by(actions.c.person_key)
        )
        found.update((bytes(key), count) for key, count in c.execute(query))
    return found


def points_of_lane(c: Connection, lane: LaneId, since: Millis) -> int:
    """Absolute points of a lane since then."""
    query = select(func.coalesce(func.sum(func.abs(actions.c.amount)), 0)).where(
        actions.c.lane == lane, actions.c.counted_at > since, _COUNTED
    )
    return int(c.execute(query).scalar_one())


@dataclass
class CapCounter:
    """What counts against the caps of a lane, kept up to date while actions are admitted.

    `by_person` are adjustments by person key, `points` those of the lane; both of the last day.
    """

    caps: Caps
    by_person: dict[bytes, int]
    points: int

    @classmethod
    def load(
        cls, c: Connection, lane: LaneId, caps: Caps, person_keys: set[bytes], now: Millis
    ) -> CapCounter:
        since = Millis(now - DAY)
        points = points_of_lane(c, lane, since) if caps.total else 0
        return cls(caps, adjustments_by_person(c, person_keys, since), points)

    def admit(
        self, name: str, amount: int, person_key: bytes, *, ignore: str | None = None
    ) -> str | None:
        """The cap that an adjustment exceeds, other than `ignore`; else None, and it is counted."""
        if name == "push":
            return None
        count, points = self.by_person.get(person_key, 0), self.points + abs(amount)
        if ignore != "daily_per_person" and count >= self.caps.per_person:
            return "daily_per_person"
        if ignore != "daily_total" and self.caps.total and points > self.caps.total:
            return "daily_total"
        self.by_person[person_key], self.points = count + 1, points
        return None


def held(
    lane: LaneId | ColumnElement[Any], problem: str | BindParameter[Any]
) -> ColumnElement[bool]:
    """Actions of this lane that are held because of this problem."""
    return and_(
        actions.c.lane == lane,
        in_state(State.HELD, actions),
        actions.c.problem == problem,
    )


def request_approvals(c: Connection, lane: Lane, caps: set[str], now: Millis) -> None:
    """Request an approval for each of these caps that holds actions."""
    for cap in sorted(caps):
        people = (
            select(
                func.count().label("adjustments"),
                func.sum(func.abs(actions.c.amount)).label("points"),
            )
            .where(held(lane.id, CAPS[cap].value))
            .group_by(actions.c.person_key)
            .with_hint(actions, "INDEXED BY actions_held", "sqlite")
            .subquery()
        )
        query = select(func.sum(people.c.adjustments), func.count(), func.sum(people.c.points))
        adjustments, persons, points = (int(x or 0) for x in c.execute(query).one())
        if adjustments:
            detail = {"adjustments": adjustments, "people": persons, "points": points}
            approvals.request(c, lane.connection, CAP, cap, detail, now=now)
