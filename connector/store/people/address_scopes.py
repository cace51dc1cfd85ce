"""The account that the addresses of a connection are compared within."""

from __future__ import annotations

import orjson
from sqlalchemy import ColumnElement, Connection, Table, bindparam, select, update

from connector.domain.profile_state import address_hash
from connector.domain.records import State
from connector.store.database import Database, on_request
from connector.store.pieces import Pieces
from connector.store.tables import groups, lanes, memberships, profiles

_MOST = 1_000
"""Rows of one transaction."""


class SqlAddressScopes:
    """connector.ports.AddressScopes."""

    def __init__(self, database: Database) -> None:
        self._moved = {table: Pieces(database, _MOST) for table in (profiles, memberships)}

    async def move(self, connection: str, account: str) -> int:
        of_connection = select(lanes.c.id).where(lanes.c.connection == connection)
        lists = select(groups.c.id).where(
            groups.c.connection == connection, groups.c.kind == "list"
        )
        moved = await self._move(
            profiles, "person", "identity", account, profiles.c.lane.in_(of_connection)
        )
        return moved + await self._move(
            memberships, "id", "email", account, memberships.c.target.in_(lists)
        )

    async def _move(
        self, table: Table, key: str, email: str, account: str, mine: ColumnElement[bool]
    ) -> int:
        at_rest = table.c.state != State.CLAIMED, table.c.address.is_not(None)
        id, statement = table.c[key], update(table).where(table.c[key] == bindparam("row"))

        @on_request
        def part(c: Connection, after: int, rows: int) -> tuple[int, int | None]:
            query = select(id, table.c[email]).where(mine, *at_rest, id > after)
            found = list(c.execute(query.order_by(id).limit(rows).with_for_update()))
            if found:
                c.execute(
                    statement, [{"row": r[0], "address": _address(account, r[1])} for r in found]
                )
            return len(found), found[-1][0] if len(found) == rows else None

        return await self._moved[table].each(part, 0)


def _address(account: str, email: str) -> bytes | None:
    """`email` may be an identity, as profiles store it."""
    plain = orjson.loads(email).get("email") if email.startswith("{") else email
    return address_hash(account, plain) if plain else None
