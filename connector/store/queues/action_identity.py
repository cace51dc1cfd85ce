"""Actions follow their person: one who becomes known, and one who is merged into another.

Each function is a part of its caller's transaction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, and_, case, select, update

from connector.domain.errors import Problem
from connector.domain.records import State
from connector.store.prepared import Prepared, param
from connector.store.queues.action_keys import person_key
from connector.store.tables import actions, in_state, lanes

_WAITS = and_(in_state(State.HELD, actions), actions.c.problem == Problem.ACTION_PERSON.value)
"""Held because something about its person was not known."""


def adopt(c: Connection, connection: str, ids: Mapping[str, int]) -> int:
    """Actions that named these ids before anybody had them belong to their people from now on, for
    order and caps too. Those that wait for their person can be released. Returns how many."""
    rows = [
        {"row": seq, "new_person": ids[id], "new_key": person_key(connection, ids[id])}
        for seq, id in _OF_UNKNOWN.rows(c, connection=connection, ids=list(ids))
    ]
    _ADOPT.run_all(c, rows)
    return len(rows)


_OF_UNKNOWN = Prepared(
    select(actions.c.seq, actions.c.customer).where(
        actions.c.person.is_(None),
        actions.c.customer.in_(param("ids", expanding=True)),
        actions.c.lane.in_(select(lanes.c.id).where(lanes.c.connection == param("connection"))),
    ),
    many="ids",
)
_ADOPT = Prepared(
    update(actions)
    .where(actions.c.seq == param("row"))
    .values(
        person=param("new_person"),
        person_key=param("new_key"),
        releasable=case((_WAITS, 1), else_=actions.c.releasable),
    )
)


def mark_releasable(c: Connection, connection: str, people: Sequence[int]) -> int:
    """More is known of these people: what waits for that can be released, within the caps. Returns
    how many."""
    return _MARK_RELEASABLE.run(c, keys=[person_key(connection, person) for person in people])


_MARK_RELEASABLE = Prepared(
    update(actions)
    .where(actions.c.person_key.in_(param("keys", expanding=True)), _WAITS)
    .values(releasable=1),
    many="keys",
)


def move(c: Connection, connection: str, gone: int, keep: int) -> None:
    """All actions of one person to another: they are counted and ordered together from now on."""
    theirs = actions.c.person_key == person_key(connection, gone)
    moved = {"person": keep, "person_key": person_key(connection, keep)}
    c.execute(update(actions).where(theirs).values(moved))
