"""Profiles that share an address, in SQL: the person who was active last has it."""

from __future__ import annotations

import orjson
from sqlalchemy import Connection, case, select, update

from connector.domain import profile_state
from connector.domain.errors import Problem
from connector.domain.lanes import LaneId, Millis
from connector.domain.profile_state import Profile
from connector.domain.profiles import Observation
from connector.domain.records import State
from connector.store.prepared import Prepared, param
from connector.store.queues import profile_rows
from connector.store.queues.profile_changes import requeue
from connector.store.queues.profile_rows import COLUMNS, ProfileRow
from connector.store.tables import in_state, profiles


def hold_previous_owners(c: Connection, o: Observation) -> tuple[set[int], set[str]]:
    """Hold the other people with the address of this observation. Returns them, and the fields that
    the profile at the address may have from them."""
    if o.address is None:
        return set(), set()
    names: set[str] = set()
    owners = _owners(c, o.address, o.lane, exclude=o.person)
    for row in owners:
        names |= profile_state.fields_at_address(row.profile)
        c.execute(
            update(profiles)
            .where(profiles.c.person == row.person)
            .values(
                state=case(
                    (profiles.c.state == State.CLAIMED, int(State.CLAIMED)), else_=int(State.HELD)
                ),
                problem=Problem.SHARED_ADDRESS.value,
                confirmed="{}",
            )
        )
    return {row.person for row in owners}, names


def transfer_address(c: Connection, profile: Profile, lane: LaneId, now: Millis) -> set[int]:
    """Give the address that the next write cleans up or moves to the other people who have it now.
    Returns them: what was read of their rows before is out of date.

    Their writes then correct the fields that the profile leaves there: a cleanup would unset
    fields of theirs, and a move would take their profile.
    """
    address = bytes.fromhex(profile_state.write_address(profile))
    owners = _owners(c, address, lane, exclude=profile.person) if address else []
    if owners:
        _, names = profile_state.abandon_address(profile)
        changes = [
            requeue(owner, profile_state.adopt_fields(owner.profile, names), now, since=now)
            for owner in owners
        ]
        profile_rows.save(c, changes)
    return {owner.person for owner in owners}


def is_in_flight(c: Connection, address: str, *, exclude: int) -> bool:
    """Whether another person's write to this address, or a move to it, is in flight. Slow, and
    asked only for the few people who leave an address."""
    raw = bytes.fromhex(address)
    query = select(profiles.c.address, profiles.c.pending_move).where(
        in_state(State.CLAIMED, profiles),
        profiles.c.person != exclude,
        (profiles.c.address == raw) | profiles.c.pending_move.is_not(None),
    )
    return any(
        found == raw or orjson.loads(move)[profile_state.TO] == address
        for found, move in c.execute(query)
    )


def _owners(c: Connection, address: bytes, lane: LaneId, *, exclude: int) -> list[ProfileRow]:
    """The people who have this address as their own, locked because they are written back."""
    rows = map(ProfileRow._make, _OWNERS.rows(c, address=address, exclude=exclude, lane=lane))
    return [row for row in rows if row.profile.address == address.hex()]


_OWNERS = Prepared(
    select(*COLUMNS)
    .where(
        profiles.c.address == param("address"),
        profiles.c.person != param("exclude"),
        profiles.c.lane == param("lane"),
        profiles.c.problem.is_distinct_from(Problem.SHARED_ADDRESS.value),
    )
    .order_by(profiles.c.person)
    .with_for_update()
)
