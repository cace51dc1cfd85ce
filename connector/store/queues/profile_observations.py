"""What is observed about people becomes the wanted state of their profiles, in SQL. Each function
is a part of its caller's transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection

from connector.domain import profile_state
from connector.domain.errors import Problem
from connector.domain.lanes import Millis
from connector.domain.profiles import Observation, OnLeave
from connector.domain.records import State
from connector.store.people import people as people_rows
from connector.store.prepared import Prepared, param
from connector.store.queues import profile_rows
from connector.store.queues.profile_addresses import hold_previous_owners
from connector.store.queues.profile_changes import after_observation, requeue
from connector.store.statements import upsert
from connector.store.tables import profiles

_RESENDABLE = (State.READY, State.CLAIMED, State.ACCEPTED, State.SKIPPED)


def observe(c: Connection, observations: Sequence[Observation], *, now: Millis) -> None:
    """Merge the observations into the profiles of their people."""
    left = list(observations)
    while left:
        first = {o.person: o for o in reversed(left)}
        _observe(c, list(first.values()), now)
        left = [o for o in left if o is not first[o.person]]


def _observe(c: Connection, observations: Sequence[Observation], now: Millis) -> None:
    """The same for observations of different people."""
    rows = profile_rows.lock(c, [o.person for o in observations])
    new = [o for o in observations if o.person not in rows]
    _create(c, new, now)
    rows |= profile_rows.lock(c, [o.person for o in new])
    changes: list[profile_rows.Values] = []
    unsaved: set[str] = set()  # addresses of the people whose changes are not saved yet
    held_people: set[int] = set()
    for observation in observations:
        if observation.address and observation.address.hex() in unsaved:
            profile_rows.save(c, changes)
            changes, unsaved = [], set()
        row = rows[observation.person]
        if observation.person in held_people:
            row = profile_rows.lock(c, [observation.person])[observation.person]
        before, held = row.profile, row.state == State.HELD
        o = profile_state.without_identity_if_known(before, observation, held=held)
        profile = profile_state.observe(before, o)
        profile = profile_state.expire_confirmed(profile, now=now, after=o.reconfirm_after)
        owners, names = hold_previous_owners(c, o)
        held_people |= owners
        if names:
            profile = profile_state.adopt_fields(profile_state.apply_ambiguous(profile, now), names)
        unsaved |= {before.address, profile.address}
        changes.append(after_observation(row, profile, o, now))
    profile_rows.save(c, changes)
    people_rows.record_addresses(c, observations, now)


def mark_gone(
    c: Connection,
    people: Mapping[int, OnLeave],
    *,
    at: Millis,
    now: Millis,
    backfill: frozenset[int] = frozenset(),
) -> None:
    """The platform no longer knows these people. `backfill` are those whose read a backfill
    requested."""
    changes = []
    gone = [person for person, on_leave in people.items() if on_leave == "unset"]
    for row in profile_rows.lock(c, gone).values():
        if row.state == State.HELD and row.problem == Problem.SHARED_ADDRESS.value:
            continue
        profile = profile_state.mark_gone(row.profile, at, on_leave=people[row.person])
        in_backfill = row.person in backfill
        changes.append(requeue(row, profile, now, since=now, backfill=in_backfill))
    profile_rows.save(c, changes)


def invalidate_confirmed(c: Connection, people: Sequence[int], now: Millis) -> None:
    """Confirm nothing of these people, so that their next observation sends every field."""
    changes = [
        profile_rows.profile_columns(profile_state.apply_ambiguous(row.profile, now))
        for row in profile_rows.lock(c, people).values()
    ]
    profile_rows.save(c, changes)


def resend(c: Connection, people: Sequence[int], now: Millis) -> None:
    """Queue every wanted field of these people, at backfill priority."""
    changes = []
    for row in profile_rows.lock(c, people).values():
        if row.state in _RESENDABLE:
            profile = profile_state.apply_ambiguous(row.profile, now)
            changes.append(requeue(row, profile, now, since=now, backfill=True))
    profile_rows.save(c, changes)


def _create(c: Connection, observations: Sequence[Observation], now: Millis) -> None:
    _CREATE.run_all(c, [{"person": o.person, "lane": o.lane, "now": now} for o in observations])


_EMPTY = {"identity": "{}", "wanted": "{}", "confirmed": "{}", "state": State.ACCEPTED}
_CREATE = Prepared(
    lambda dialect: (
        upsert(dialect, profiles)
        .values(
            person=param("person"),
            lane=param("lane"),
            due=param("now"),
            since=param("now"),
            **_EMPTY,
        )
        .on_conflict_do_nothing(index_elements=["person"])
    )
)
