"""Who was forgotten and must not come back: salted digests that name nobody.

A connection's salt is made when it forgets its first person, so that all others pay one small
look for each commit and nothing more.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING

from sqlalchemy import Connection, bindparam, delete, insert, select
from sqlalchemy.dialects import postgresql, sqlite

from connector.domain.lanes import (
    Millis,
)
from connector.store.queues.queue import chunks
from connector.store.tables import forgotten, salts

if TYPE_CHECKING:
    from connector.store.people.people import Identified


@dataclass(frozen=True, slots=True)
class Tombstones:
    """Those of one connection that concern the people it was loaded for."""

    salt: bytes | None
    digests: frozenset[bytes] = frozenset()

    def cover(self, one: Identified) -> bool:
        return any(digest in self.digests for digest in _of(self.salt, one))


_SALT = select(salts.c.salt).where(salts.c.connection == bindparam("connection"))


def load(c: Connection, connection: str, people: Sequence[Identified]) -> Tombstones:
    salt = c.execute(_SALT, {"connection": connection}).scalar()
    if salt is None:
        return Tombstones(None)
    salt = bytes(salt)
    digests = {digest for one in people for digest in _of(salt, one)}
    found: set[bytes] = set()
    for part in chunks(list(digests)):
        mine = forgotten.c.connection == connection, forgotten.c.digest.in_(part)
        found.update(
            bytes(row.digest) for row in c.execute(select(forgotten.c.digest).where(*mine))
        )
    return Tombstones(salt, frozenset(found))


def bury(c: Connection, connection: str, names: Iterable[tuple[str, str]], now: Millis) -> None:
    """`names` are ("person", platform's id) and ("email", address)."""
    salt = c.execute(_SALT, {"connection": connection}).scalar()
    if salt is None:
        salt = secrets.token_bytes(16)
        c.execute(insert(salts).values(connection=connection, salt=salt))
    grave = {"connection": connection, "grave": secrets.token_hex(8), "forgotten_at": now}
    rows = [grave | {"digest": _digest(bytes(salt), *name)} for name in names]
    dialect = postgresql if c.dialect.name == "postgresql" else sqlite
    c.execute(dialect.insert(forgotten).on_conflict_do_nothing(), rows)


def lift(c: Connection, connection: str, names: Iterable[tuple[str, str]]) -> int:
    """Also the other names that were forgotten with one of these; how many there were."""
    salt = c.execute(_SALT, {"connection": connection}).scalar()
    if salt is None:
        return 0
    digests = [_digest(bytes(salt), *name) for name in names]
    of_connection = forgotten.c.connection == connection
    graves = select(forgotten.c.grave).where(of_connection, forgotten.c.digest.in_(digests))
    return c.execute(delete(forgotten).where(of_connection, forgotten.c.grave.in_(graves))).rowcount


def _of(salt: bytes | None, one: Identified) -> list[bytes]:
    if salt is None:
        return []
    named = (("person", one.person), ("email", one.email))
    return [_digest(salt, kind, value) for kind, value in named if value]


def _digest(salt: bytes, kind: str, value: str) -> bytes:
    if kind == "email":
        value = value.strip().lower()
    return blake2b(f"{kind}\0{value}".encode(), key=salt, digest_size=16).digest()
