"""Rows of profiles read, locked and written in batches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import orjson
from sqlalchemy import Connection, select

from connector.domain import profile_state
from connector.domain.lanes import LaneId, Millis
from connector.domain.profile_state import AddressCleanup, Profile
from connector.domain.records import State
from connector.store.prepared import Prepared, param, prepared_update
from connector.store.tables import in_state, profiles

Values = dict[str, Any]
"""Column → new value. Those of a whole row have `person`."""


class ProfileRow(NamedTuple):
    """A stored profile. The names are those of the columns."""

    person: int
    lane: LaneId
    identity: str
    wanted: str
    confirmed: str
    address_cleanups: str | None
    pending_move: str | None
    profile_id: str | None
    mapping: str | None
    address: bytes | None
    state: int
    due: Millis
    since: Millis
    priority: int
    attempts: int
    failing_since: Millis | None
    problem: str | None
    position: int | None
    sent: bytes | None
    request: str | None
    lost_jobs: int
    merged_into: int | None

    @property
    def profile(self) -> Profile:
        profile = Profile(
            person=self.person,
            identity=orjson.loads(self.identity),
            wanted=_pairs(self.wanted),
            confirmed=_pairs(self.confirmed),
            profile_id=self.profile_id,
            address_cleanups=tuple(
                AddressCleanup(**cleanup | {"names": tuple(cleanup["names"])})
                for cleanup in orjson.loads(self.address_cleanups or "[]")
            ),
            pending_move=orjson.loads(self.pending_move) if self.pending_move else None,
            mapping=self.mapping,
            address=self.address.hex() if self.address else "",
        )
        return replace(profile, address=profile_state.current_address(profile))


COLUMNS = tuple(profiles.c[name] for name in ProfileRow._fields)

NOT_IN_FLIGHT: Values = {
    "claim": None,
    "receipt": None,
    "position": None,
    "sent": None,
    "problem": None,
    "detail": "",
    "attempts": 0,
    "failing_since": None,
}
"""Columns of a row whose write has ended."""


def _pairs(text: str) -> dict[str, Any]:
    return {name: (value, at) for name, (value, at) in orjson.loads(text).items()}


def profile_columns(profile: Profile) -> Values:
    """The columns of a profile's state."""
    cleanups = [asdict(cleanup) for cleanup in profile.address_cleanups]
    return {
        "person": profile.person,
        "identity": orjson.dumps(profile.identity).decode(),
        "wanted": orjson.dumps(profile.wanted).decode(),
        "confirmed": orjson.dumps(profile.confirmed).decode(),
        "address_cleanups": orjson.dumps(cleanups).decode() if cleanups else None,
        "pending_move": (
            orjson.dumps(profile.pending_move).decode() if profile.pending_move else None
        ),
        "profile_id": profile.profile_id,
        "mapping": profile.mapping,
    }


def idle_columns(profile: Profile) -> Values:
    """`profile_columns` of a row without a write in flight: its address is the person's own."""
    own = bytes.fromhex(profile.address) if profile.address else None
    return profile_columns(profile) | {"address": own}


def lock(c: Connection, people: Sequence[int], claim: int | None = None) -> dict[int, ProfileRow]:
    """The rows of these people, locked because they are written back whole. With `claim` only
    those that this claim holds."""
    if claim is None:
        rows = _LOCK.rows(c, people=people)
    else:
        rows = _LOCK_CLAIMED.rows(c, people=people, token=claim)
    return {row[0]: ProfileRow._make(row) for row in rows}


def load(c: Connection, people: Sequence[int]) -> dict[int, Profile]:
    """The profiles of these people, only to be read."""
    return {row[0]: ProfileRow._make(row).profile for row in _LOAD.rows(c, people=people)}


_QUERY = select(*COLUMNS).where(profiles.c.person.in_(param("people", expanding=True)))
_CLAIMED = _QUERY.where(in_state(State.CLAIMED, profiles), profiles.c.claim == param("token"))
_LOAD = Prepared(_QUERY, many="people")
_LOCK = Prepared(_QUERY.order_by(profiles.c.person).with_for_update(), many="people")
_LOCK_CLAIMED = Prepared(_CLAIMED.order_by(profiles.c.person).with_for_update(), many="people")


def save(c: Connection, changes: Iterable[Values]) -> None:
    """Write changed columns by `person`. Rows with the same columns are written together. A row
    that is settled is no longer in flight."""
    by_columns: dict[tuple[str, ...], list[Values]] = {}
    for change in changes:
        if "settled_at" in change and change.get("state") != State.CLAIMED:
            change = NOT_IN_FLIGHT | change
        by_columns.setdefault(tuple(sorted(change.keys() - {"person"})), []).append(change)
    for columns, rows in by_columns.items():
        statement = prepared_update(profiles, "person", columns)
        statement.run_all(c, [{"row": row["person"], **row} for row in rows])
