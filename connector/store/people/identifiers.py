"""What identifies people: ids and addresses, each pointing to a person."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, get_args

from sqlalchemy import Connection, delete, insert, select, update

from connector.domain.lanes import Millis
from connector.store.prepared import Prepared, param
from connector.store.statements import upsert
from connector.store.tables import identifiers, people

Kind = Literal["platform_id", "email", "profile_id"]
"""`platform_id`: an id at the platform, of which a person may have several. `profile_id`: the id of
a profile at Klaviyo, as a flow names the person."""

KINDS: tuple[Kind, ...] = get_args(Kind)


class PersonRow(NamedTuple):
    """A stored person. The names are those of the columns. `platform_id` is None while only the
    address has been seen."""

    id: int
    connection: str
    platform_id: str | None
    email: str | None


COLUMNS = tuple(people.c[name] for name in PersonRow._fields)
_QUERY = (
    select(identifiers.c.value, *COLUMNS)
    .join(people, people.c.id == identifiers.c.person)
    .where(
        identifiers.c.connection == param("connection"),
        identifiers.c.kind == param("kind"),
        identifiers.c.value.in_(param("values", expanding=True)),
    )
)
_BY_VALUE = Prepared(_QUERY, many="values")
_CURRENT_OWNERS = Prepared(
    _QUERY.where(people.c.email == identifiers.c.value).order_by(people.c.seen_at, people.c.id),
    many="values",
)
_BY_NUMBER = Prepared(
    select(*COLUMNS).where(people.c.id.in_(param("ids", expanding=True))), many="ids"
)

_EXISTING = Prepared(
    select(people.c.id).where(people.c.id.in_(param("ids", expanding=True))), many="ids"
)


def by_id(
    c: Connection, connection: str, ids: Iterable[str], kind: Kind = "platform_id"
) -> dict[str, PersonRow]:
    """The people with these ids."""
    rows = _BY_VALUE.rows(c, connection=connection, kind=kind, values=list(ids))
    return {value: PersonRow(*row) for value, *row in rows}


def owners(c: Connection, connection: str, emails: Iterable[str]) -> dict[str, list[PersonRow]]:
    """The people who have these addresses now, the most recently active last."""
    found: dict[str, list[PersonRow]] = {}
    for value, *row in _CURRENT_OWNERS.rows(
        c, connection=connection, kind="email", values=list(emails)
    ):
        found.setdefault(value, []).append(PersonRow(*row))
    return found


def lookup(
    c: Connection, connection: str, ids: Iterable[str], emails: Iterable[str]
) -> tuple[dict[str, PersonRow], dict[str, PersonRow]]:
    """Stored people by platform id and by address: of several with one address the latest."""
    latest = {email: rows[-1] for email, rows in owners(c, connection, emails).items()}
    return by_id(c, connection, ids), latest


def missing(c: Connection, people: set[int]) -> set[int]:
    """Those of these people who were merged into others or erased."""
    return people - {id for [id] in _EXISTING.rows(c, ids=list(people))}


def rows_by_id(c: Connection, ids: set[int]) -> dict[int, PersonRow]:
    """People by their number."""
    return {row[0]: PersonRow._make(row) for row in _BY_NUMBER.rows(c, ids=list(ids))}


def add(c: Connection, connection: str, kind: Kind, values: Sequence[tuple[str, int]]) -> None:
    """(identifier, person). One that the person has already changes nothing; another person's id
    is an IntegrityError."""
    _ADD.run_all(
        c,
        [
            {"connection": connection, "kind": kind, "value": value, "person": person}
            for value, person in dict.fromkeys(values)
        ],
    )


_KEY = ("connection", "kind", "value", "person")
_ADD = Prepared(
    lambda dialect: (
        upsert(dialect, identifiers)
        .values({name: param(name) for name in _KEY})
        .on_conflict_do_nothing(index_elements=_KEY)
    )
)


def point(c: Connection, connection: str, kind: Kind, value: str, person: int) -> None:
    """The id belongs to this person from now on, whoever had it."""
    named = (identifiers.c.connection == connection, identifiers.c.kind == kind)
    c.execute(delete(identifiers).where(*named, identifiers.c.value == value))
    add(c, connection, kind, [(value, person)])


def move(c: Connection, gone: int, keep: int) -> None:
    """All identifiers of one person to another."""
    theirs = select(identifiers.c.value).where(
        identifiers.c.person == keep, identifiers.c.kind == "email"
    )
    same = (identifiers.c.person == gone, identifiers.c.kind == "email")
    c.execute(delete(identifiers).where(*same, identifiers.c.value.in_(theirs)))
    c.execute(update(identifiers).where(identifiers.c.person == gone).values(person=keep))


def create_by_address(c: Connection, connection: str, emails: Sequence[str], now: Millis) -> None:
    """Create people with nothing but an address."""
    if not emails:
        return
    rows = [{"connection": connection, "email": email, "seen_at": now} for email in emails]
    created = c.execute(insert(people).returning(people.c.id, people.c.email), rows).all()
    add(c, connection, "email", [(email, id) for id, email in created])
