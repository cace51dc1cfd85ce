"""Forgetting a person: every row that names him, in every table, and a tombstone in their place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from sqlalchemy import ColumnElement, Connection, Select, Table, and_, delete, or_, select, update

from connector.domain.lanes import (
    Millis,
)
from connector.domain.records import (
    State,
)
from connector.ports import Forgotten
from connector.store.database import Database
from connector.store.people import tombstones
from connector.store.tables import (
    actions,
    groups,
    lanes,
    memberships,
    metadata,
    orders,
    people,
    profiles,
    sightings,
)


@dataclass
class _Whom:
    """One human as a connection knows him: perhaps under several ids and addresses."""

    connection: str
    rows: set[int] = field(default_factory=set)
    ids: set[str] = field(default_factory=set)
    emails: set[str] = field(default_factory=set)

    @property
    def people(self) -> int:
        """How many they are; one whom groups alone know is one, too."""
        return len(self.rows) or int(bool(self.emails))

    @property
    def names(self) -> list[tuple[str, str]]:
        return [("person", id) for id in self.ids] + [("email", email) for email in self.emails]


class SqlErasure:
    """connector.ports.Erasure."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, connection: str, who: str) -> Forgotten:
        def work(c: Connection) -> Forgotten:
            whom = _find(c, connection, who)
            return Forgotten(whom.people, tuple(sorted(whom.emails)))

        return await self._database.read(work)

    async def forget(self, connection: str, who: str, *, now: Millis) -> Forgotten:
        def work(c: Connection) -> Forgotten:
            whom = _find(c, connection, who)
            if not whom.people:
                return Forgotten(0)
            if c.dialect.name == "sqlite":
                # What is deleted is overwritten too, not only marked as free.
                c.exec_driver_sql("PRAGMA secure_delete = ON")
            gone = sum(_erase(c, table, whom, now) for table in metadata.sorted_tables)
            _clean_orders(c, whom)
            tombstones.bury(c, connection, whom.names, now)
            if c.dialect.name == "sqlite":
                c.exec_driver_sql("PRAGMA secure_delete = OFF")
            return Forgotten(whom.people, tuple(sorted(whom.emails)), gone)

        return await self._database.write(work)

    async def lift(self, connection: str, who: str) -> bool:
        names = [("person", who), ("email", who)]
        return await self._database.write(lambda c: tombstones.lift(c, connection, names) > 0)


def _find(c: Connection, connection: str, who: str) -> _Whom:
    """Everybody with this id or address, and with theirs in turn: one address is one human."""
    whom = _Whom(connection)
    ids, emails = {who}, {who.strip().lower()}
    while True:
        mine = or_(people.c.platform_id.in_(ids), people.c.email.in_(emails))
        known = select(people).where(people.c.connection == connection, mine)
        found = [row for row in c.execute(known) if row.id not in whom.rows]
        if not found:
            whom.emails |= _as_member(c, connection, ids, emails)
            return whom
        whom.rows |= {row.id for row in found}
        whom.ids |= {row.platform_id for row in found if row.platform_id}
        whom.emails |= {row.email for row in found if row.email}
        whom.emails |= _former(c, [row.id for row in found])
        ids, emails = whom.ids, whom.emails


def _as_member(c: Connection, connection: str, ids: set[str], emails: set[str]) -> set[str]:
    """Addresses by which groups alone may know him."""
    named = or_(sightings.c.platform_id.in_(ids), sightings.c.email.in_(emails))
    of_groups = sightings.c.source.in_(_groups(connection))
    on_targets = memberships.c.target.in_(_groups(connection))
    found = set(c.execute(select(sightings.c.email).where(of_groups, named)).scalars())
    kept = select(memberships.c.email).where(on_targets, memberships.c.email.in_(emails | found))
    return found | set(c.execute(kept).scalars())


def _groups(connection: str) -> Select[tuple[int]]:
    return select(groups.c.id).where(groups.c.connection == connection)


def _former(c: Connection, rows: Sequence[int]) -> set[str]:
    """Addresses that a person's profile has, had, or is to lose."""
    columns = (profiles.c.identity, profiles.c.farewells, profiles.c.move_from)
    query = select(*columns).where(profiles.c.person.in_(rows))
    texts = [text for row in c.execute(query) for text in row if text]
    return {email.strip().lower() for text in texts for email in _emails(orjson.loads(text))}


def _emails(said: Any) -> Iterator[str]:
    if isinstance(said, dict):
        if isinstance(said.get("email"), str):
            yield said["email"]
        said = list(said.values())
    if isinstance(said, list):
        for item in said:
            yield from _emails(item)


def _erase(c: Connection, table: Table, whom: _Whom, now: Millis) -> int:
    if table is people:
        return c.execute(delete(people).where(people.c.id.in_(whom.rows))).rowcount
    if table is actions:
        return _empty_actions(c, whom, now)
    wanted = _about(table, whom)
    return 0 if wanted is None else c.execute(delete(table).where(wanted)).rowcount


def _empty_actions(c: Connection, whom: _Whom, now: Millis) -> int:
    """The row stays, without anything of him: it is what keeps a repeated call from being applied
    a second time (promise 4). What was not sent yet is not sent any more."""
    customer = and_(_within(actions, whom.connection), actions.c.customer.in_(whom.ids))
    named = _about(actions, whom)
    assert named is not None
    mine = or_(named, customer)
    waits = mine, actions.c.state.in_((State.READY, State.HELD)), actions.c.sent_at.is_(None)
    given_up = {"state": State.DISCARDED, "problem": None, "detail": "", "settled_at": now}
    c.execute(update(actions).where(*waits).values(given_up))
    empty = {"person": None, "email": None, "customer": None, "data": b"{}", "evidence": None}
    return c.execute(update(actions).where(mine).values(empty | {"who": b""})).rowcount


def _about(table: Table, whom: _Whom) -> ColumnElement[Any] | None:
    """The rows of a table that are about him: by his number, and within the connection by his
    address. None where a table holds nobody. Raises LookupError for one that nobody thought of."""
    found: list[ColumnElement[Any]] = []
    if "person" in table.c:
        found.append(table.c.person.in_(whom.rows))
    if "email" in table.c:
        found.append(and_(_within(table, whom.connection), table.c.email.in_(whom.emails)))
    return or_(*found) if found else None


def _within(table: Table, connection: str) -> ColumnElement[Any]:
    if "connection" in table.c:
        return table.c.connection == connection
    if "source" in table.c:
        return table.c.source.in_(_groups(connection))
    if "lane" in table.c:
        return table.c.lane.in_(select(lanes.c.id).where(lanes.c.connection == connection))
    raise LookupError(f"{table.name} holds addresses, and nothing says of which connection")


def _clean_orders(c: Connection, whom: _Whom) -> None:
    """What people asked for named him by his id or address; that they asked stays."""
    names = whom.ids | whom.emails
    for id, text in c.execute(select(orders.c.id, orders.c.args)).all():
        args = orjson.loads(text)
        if args.get("connection") != whom.connection:
            continue
        clean = {
            key: "forgotten" if isinstance(value, str) and _is_one_of(value, names) else value
            for key, value in args.items()
        }
        if clean != args:
            values = {"args": orjson.dumps(clean).decode()}
            c.execute(update(orders).where(orders.c.id == id).values(values))


def _is_one_of(value: str, names: set[str]) -> bool:
    return value in names or value.strip().lower() in names
