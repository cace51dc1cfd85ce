"""The people who were erased and must not come back: salted digests without personal data.

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

from connector.domain.lanes import Millis
from connector.store.statements import chunks, upsert
from connector.store.tables import salts, tombstones

if TYPE_CHECKING:
    from connector.store.people.people import Identified


@dataclass(frozen=True, slots=True)
class Tombstones:
    """Those of one connection that concern the people it was loaded for."""

    salt: bytes | None
    digests: frozenset[bytes] = frozenset()

    def contains(self, record: Identified) -> bool:
        return any(digest in self.digests for digest in _digests_of(self.salt, record))


_SALT = select(salts.c.salt).where(salts.c.connection == bindparam("connection"))


def load(c: Connection, connection: str, people: Sequence[Identified]) -> Tombstones:
    salt = c.execute(_SALT, {"connection": connection}).scalar()
    if salt is None:
        return Tombstones(None)
    salt = bytes(salt)
    digests = {digest for record in people for digest in _digests_of(salt, record)}
    found: set[bytes] = set()
    for part in chunks(list(digests)):
        mine = tombstones.c.connection == connection, tombstones.c.digest.in_(part)
        found.update(
            bytes(row.digest) for row in c.execute(select(tombstones.c.digest).where(*mine))
        )
    return Tombstones(salt, frozenset(found))


def add(c: Connection, connection: str, names: Iterable[tuple[str, str]], now: Millis) -> None:
    """`names` are ("person", platform's id) and ("email", address)."""
    salt = c.execute(_SALT, {"connection": connection}).scalar()
    if salt is None:
        salt = secrets.token_bytes(16)
        c.execute(insert(salts).values(connection=connection, salt=salt))
    erasure_id = {"connection": connection, "erasure_id": secrets.token_hex(8), "erased_at": now}
    rows = [erasure_id | {"digest": _digest(bytes(salt), *name)} for name in names]
    c.execute(upsert(c.dialect.name, tombstones).on_conflict_do_nothing(), rows)


def remove(c: Connection, connection: str, names: Iterable[tuple[str, str]]) -> int:
    """Also the other names that were forgotten with one of these; how many there were."""
    salt = c.execute(_SALT, {"connection": connection}).scalar()
    if salt is None:
        return 0
    digests = [_digest(bytes(salt), *name) for name in names]
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
    pairs = (("person", record.person), ("email", record.email))
    return [_digest(salt, kind, value) for kind, value in pairs if value]


def _digest(salt: bytes, kind: str, value: str) -> bytes:
    if kind == "email":
        value = value.strip().lower()
    return blake2b(f"{kind}\0{value}".encode(), key=salt, digest_size=16).digest()
