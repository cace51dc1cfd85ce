"""Erasure of a person: every row that names them, in every table, and tombstones instead."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from sqlalchemy import ColumnElement, Connection, Select, Table, and_, delete, or_, select, update

from connector.domain.errors import Problem, StoreError
from connector.domain.lanes import Millis
from connector.domain.records import State
from connector.ports import ErasureResult
from connector.store.database import Database, on_request
from connector.store.people import tombstones
from connector.store.people.identifiers import KINDS
from connector.store.people.person_locks import locked_alone
from connector.store.tables import (
    actions,
    commands,
    groups,
    lanes,
    memberships,
    merges,
    metadata,
    people,
    profiles,
    source_members,
)
from connector.store.tables import identifiers as identifier_rows

_LOG_ATTEMPTS = 3


@dataclass
class _Identifiers:
    """One person as a connection knows them, perhaps under several ids and addresses."""

    connection: str
    rows: set[int] = field(default_factory=set)
    ids: set[str] = field(default_factory=set)
    emails: set[str] = field(default_factory=set)

    @property
    def people(self) -> int:
        """How many people; one known only by groups or actions counts as one."""
        return len(self.rows) or int(bool(self.emails or self.ids))

    @property
    def names(self) -> list[tuple[str, str]]:
        return [("person", id) for id in self.ids] + [("email", email) for email in self.emails]


class SqlErasure:
    """connector.ports.Erasure."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, connection: str, identifier: str) -> ErasureResult:
        @on_request
        def work(c: Connection) -> ErasureResult:
            identifiers = _find(c, connection, identifier)
            return ErasureResult(identifiers.people, tuple(sorted(identifiers.emails)))

        return await self._database.read(work)

    async def forget(self, connection: str, identifier: str, *, now: Millis) -> ErasureResult:
        @on_request
        def work(c: Connection) -> ErasureResult:
            identifiers = locked_alone(
                c, lambda: _find(c, connection, identifier), lambda found: found.rows
            )
            if not identifiers.people:
                # Erased before, and named again by a command since.
                identifiers.ids.add(identifier)
                identifiers.emails.add(identifier.strip().lower())
                _clean_commands(c, identifiers)
                return ErasureResult(0)
            deleted = sum(_erase(c, table, identifiers, now) for table in metadata.sorted_tables)
            _clean_commands(c, identifiers)
            tombstones.add(c, connection, identifiers.names, now)
            return ErasureResult(identifiers.people, tuple(sorted(identifiers.emails)), deleted)

        result = await self._database.write(work)
        for _ in range(_LOG_ATTEMPTS):
            if await self._database.empty_log():
                return result
        raise StoreError(
            Problem.STORE_UNAVAILABLE,
            "the person is erased, but copies of their rows are still in the store's log, because "
            "another program reads the store; end that program and repeat the command",
        )

    async def erased_at(self, connection: str, identifier: str) -> Millis | None:
        return await self._database.read(
            lambda c: tombstones.erased_at(c, connection, _names(identifier))
        )

    async def remove_tombstone(self, connection: str, identifier: str) -> bool:
        names = _names(identifier)
        return await self._database.write(lambda c: tombstones.remove(c, connection, names) > 0)


def _names(identifier: str) -> list[tuple[str, str]]:
    return [("person", identifier), ("email", identifier)]


def _find(c: Connection, connection: str, identifier: str) -> _Identifiers:
    """All people with this id or address, and those who share an id or address with them in turn:
    one address is one human being, also one that a person had formerly."""
    identifiers = _Identifiers(connection)
    new = _with_identifier(c, connection, {identifier, identifier.strip().lower()})
    ids, emails = {identifier}, {identifier.strip().lower()}
    while new:
        identifiers.rows |= new
        query = select(identifier_rows.c.kind, identifier_rows.c.value)
        for kind, value in c.execute(query.where(identifier_rows.c.person.in_(new))):
            (identifiers.emails if kind == "email" else identifiers.ids).add(value)
        identifiers.emails |= _former_addresses(c, list(new))
        ids, emails = identifiers.ids, identifiers.emails
        new = _with_identifier(c, connection, ids | emails) - identifiers.rows
    identifiers.emails |= _member_addresses(c, connection, ids, emails)
    identifiers.ids |= _customers(c, connection, ids)
    return identifiers


def _with_identifier(c: Connection, connection: str, values: set[str]) -> set[int]:
    query = select(identifier_rows.c.person).where(
        identifier_rows.c.connection == connection,
        identifier_rows.c.kind.in_(KINDS),
        identifier_rows.c.value.in_(values),
    )
    return set(c.execute(query).scalars())


def _member_addresses(c: Connection, connection: str, ids: set[str], emails: set[str]) -> set[str]:
    """Addresses under which only groups may know the person."""
    matches = or_(source_members.c.platform_id.in_(ids), source_members.c.email.in_(emails))
    of_groups = source_members.c.source.in_(_groups(connection))
    on_targets = memberships.c.target.in_(_groups(connection))
    found = set(c.execute(select(source_members.c.email).where(of_groups, matches)).scalars())
    kept = select(memberships.c.email).where(on_targets, memberships.c.email.in_(emails | found))
    return found | set(c.execute(kept).scalars())


def _customers(c: Connection, connection: str, ids: set[str]) -> set[str]:
    """Ids under which only actions may know the person."""
    query = select(actions.c.customer).where(
        actions.c.person.is_(None), actions.c.customer.in_(ids), _within(actions, connection)
    )
    return set(c.execute(query).scalars())


def _groups(connection: str) -> Select[tuple[int]]:
    return select(groups.c.id).where(groups.c.connection == connection)


def _former_addresses(c: Connection, rows: Sequence[int]) -> set[str]:
    """Addresses that a person's profile has, had, or is to lose."""
    columns = (profiles.c.identity, profiles.c.address_cleanups, profiles.c.pending_move)
    query = select(*columns).where(profiles.c.person.in_(rows))
    texts = [text for row in c.execute(query) for text in row if text]
    return {email.strip().lower() for text in texts for email in _emails(orjson.loads(text))}


def _emails(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("email"), str):
            yield value["email"]
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _emails(item)


def _erase(c: Connection, table: Table, identifiers: _Identifiers, now: Millis) -> int:
    if table is people:
        return c.execute(delete(people).where(people.c.id.in_(identifiers.rows))).rowcount
    if table is merges:
        # Only numbers: who was merged is not an erased row of its own.
        c.execute(delete(merges).where(merges.c.merged_into.in_(identifiers.rows)))
        return 0
    if table is actions:
        return _blank_actions(c, identifiers, now)
    wanted = _rows_about(table, identifiers)
    return 0 if wanted is None else c.execute(delete(table).where(wanted)).rowcount


def _blank_actions(c: Connection, identifiers: _Identifiers, now: Millis) -> int:
    """Keep the rows without personal data, so that a repeated call is not applied twice (guarantee
    4). Actions that were not sent yet are discarded."""
    customer = and_(
        _within(actions, identifiers.connection), actions.c.customer.in_(identifiers.ids)
    )
    matches = _rows_about(actions, identifiers)
    assert matches is not None
    theirs = or_(matches, customer)
    waiting = theirs, actions.c.state.in_((State.READY, State.HELD)), actions.c.sent_at.is_(None)
    discarded = {"state": State.DISCARDED, "problem": None, "detail": "", "settled_at": now}
    c.execute(update(actions).where(*waiting).values(discarded))
    empty = {"person": None, "email": None, "customer": None, "data": b"{}", "evidence": None}
    return c.execute(update(actions).where(theirs).values(empty | {"person_key": b""})).rowcount


def _rows_about(table: Table, identifiers: _Identifiers) -> ColumnElement[Any] | None:
    """The rows of a table about the person: by number, and within the connection by address. None
    where a table holds no person. Raises LookupError where the connection cannot be found."""
    found: list[ColumnElement[Any]] = []
    for name in ("person", "merged_into"):
        if name in table.c:
            found.append(table.c[name].in_(identifiers.rows))
    if "email" in table.c:
        found.append(
            and_(_within(table, identifiers.connection), table.c.email.in_(identifiers.emails))
        )
    return or_(*found) if found else None


def _within(table: Table, connection: str) -> ColumnElement[Any]:
    if "connection" in table.c:
        return table.c.connection == connection
    if "source" in table.c:
        return table.c.source.in_(_groups(connection))
    if "lane" in table.c:
        return table.c.lane.in_(select(lanes.c.id).where(lanes.c.connection == connection))
    raise LookupError(f"{table.name} holds addresses, and nothing says of which connection")


def _clean_commands(c: Connection, identifiers: _Identifiers) -> None:
    """Remove the person's id and addresses from the arguments of commands, which stay."""
    names = identifiers.ids | identifiers.emails
    for id, text in c.execute(select(commands.c.id, commands.c.args)).all():
        args = orjson.loads(text)
        # A command about dead letters of all connections may have searched for the person.
        if args.get("connection") not in (None, "", identifiers.connection):
            continue
        clean = {
            key: "forgotten" if isinstance(value, str) and _is_one_of(value, names) else value
            for key, value in args.items()
        }
        if clean != args:
            values = {"args": orjson.dumps(clean).decode()}
            c.execute(update(commands).where(commands.c.id == id).values(values))


def _is_one_of(value: str, names: set[str]) -> bool:
    return value in names or value.strip().lower() in names
