"""Erased people, who must not be stored again: salted digests without personal data.

A connection's salt is created with its first erasure; until then a commit costs one small query.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Protocol

from sqlalchemy import Connection, delete, func, insert, select

from connector.domain.lanes import Millis
from connector.store.prepared import Prepared, param
from connector.store.statements import chunks, upsert
from connector.store.tables import salts, tombstones


class Identified(Protocol):
    """A record, key or listed person: the platform's id and address, where they are known. Further
    ids are `aliases`, where there can be any."""

    @property
    def person(self) -> str | None: ...
    @property
    def email(self) -> str | None: ...


@dataclass(frozen=True, slots=True)
class Tombstones:
    """The tombstones of one connection for the people they were loaded for."""

    salt: bytes | None
    digests: frozenset[bytes] = frozenset()

    def contains(self, record: Identified) -> bool:
        return any(digest in self.digests for digest in _digests_of(self.salt, record))


_SALT = Prepared(select(salts.c.salt).where(salts.c.connection == param("connection")))


def _salt(c: Connection, connection: str) -> bytes | None:
    row = _SALT.first(c, connection=connection)
    return bytes(row[0]) if row else None


def load(c: Connection, connection: str, people: Sequence[Identified]) -> Tombstones:
    salt = _salt(c, connection)
    if salt is None:
        return Tombstones(None)
    digests = {digest for record in people for digest in _digests_of(salt, record)}
    found: set[bytes] = set()
    for part in chunks(list(digests)):
        query = select(tombstones.c.digest).where(
            tombstones.c.connection == connection, tombstones.c.digest.in_(part)
        )
        found.update(bytes(digest) for digest in c.execute(query).scalars())
    return Tombstones(salt, frozenset(found))


def add(c: Connection, connection: str, names: Iterable[tuple[str, str]], now: Millis) -> None:
    """`names` are ("person", an id at the platform or at Klaviyo) and ("email", address)."""
    salt = _salt(c, connection)
    if salt is None:
        salt = secrets.token_bytes(16)
        c.execute(insert(salts).values(connection=connection, salt=salt))
    erasure = {"connection": connection, "erasure_id": secrets.token_hex(8), "erased_at": now}
    rows = [erasure | {"digest": _digest(salt, *name)} for name in names]
    c.execute(upsert(c.dialect.name, tombstones).on_conflict_do_nothing(), rows)


def erased_at(c: Connection, connection: str, names: Iterable[tuple[str, str]]) -> Millis | None:
    """When one of these names was erased, the last time; None without a tombstone."""
    salt = _salt(c, connection)
    if salt is None:
        return None
    digests = [_digest(salt, *name) for name in names]
    found = c.execute(
        select(func.max(tombstones.c.erased_at)).where(
            tombstones.c.connection == connection, tombstones.c.digest.in_(digests)
        )
    ).scalar()
    return None if found is None else Millis(found)


def remove(c: Connection, connection: str, names: Iterable[tuple[str, str]]) -> int:
    """Remove the tombstones of all names that were erased together with one of these; how many."""
    salt = _salt(c, connection)
    if salt is None:
        return 0
    digests = [_digest(salt, *name) for name in names]
    of_connection = tombstones.c.connection == connection
    erasure_ids = select(tombstones.c.erasure_id).where(
        of_connection, tombstones.c.digest.in_(digests)
    )
    return c.execute(
        delete(tombstones).where(of_connection, tombstones.c.erasure_id.in_(erasure_ids))
    ).rowcount


def _digests_of(salt: bytes | None, record: Identified) -> list[bytes]:
    if salt is None:
        return []
    ids = (record.person, *getattr(record, "aliases", ()))
    pairs = [*(("person", id) for id in ids), ("email", record.email)]
    return [_digest(salt, kind, value) for kind, value in pairs if value]


def _digest(salt: bytes, kind: str, value: str) -> bytes:
    if kind == "email":
        value = value.strip().lower()
    return blake2b(f"{kind}\0{value}".encode(), key=salt, digest_size=16).digest()
