"""The account that the addresses of a connection are compared within."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
from sqlalchemy import ColumnElement, Connection, Table, bindparam, select, update

from connector.domain.profile_state import address_hash
from connector.domain.records import State
from connector.store.database import Database, on_request
from connector.store.tables import groups, lanes, memberships, profiles

_BATCH = 1_000


class SqlAddressScopes:
    """connector.ports.AddressScopes."""

    def __init__(self, database: Database) -> None:
        self._database = database

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
        total, after = 0, 0
        at_rest = table.c.state != State.CLAIMED, table.c.address.is_not(None)
        id, statement = table.c[key], update(table).where(table.c[key] == bindparam("row"))
        while True:

            @on_request
            def part(c: Connection, after: int = after) -> Sequence[Any]:
                query = select(id, table.c[email]).where(mine, *at_rest, id > after)
                found = list(c.execute(query.order_by(id).limit(_BATCH).with_for_update()))
                if found:
                    rows = [{"row": r[0], "address": _address(account, r[1])} for r in found]
                    c.execute(statement, rows)
                return found

            found = await self._database.write(part)
            total += len(found)
            if len(found) < _BATCH:
                return total
            after = found[-1][0]


def _address(account: str, email: str) -> bytes | None:
    """`email` may be an identity, as profiles store it."""
    plain = orjson.loads(email).get("email") if email.startswith("{") else email
    return address_hash(account, plain) if plain else None
