"""Lanes and orders: what runs, and what people asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import orjson
from sqlalchemy import Connection, insert, select, update

from connector.domain.errors import Problem
from connector.domain.lanes import Kind, Lane, LaneId, LaneMode, LaneState, Millis
from connector.ports import Command
from connector.store.database import Database
from connector.store.tables import commands, lanes


def lane_of(row: Any) -> Lane:
    return Lane(LaneId(row.id), row.connection, row.destination, cast(Kind, row.kind))


def state_of(row: Any) -> LaneState:
    problem = Problem.from_code(row.problem) if row.problem else None
    return LaneState(cast(LaneMode, row.mode), problem, row.detail, Millis(row.since))


class SqlLanes:
    """connector.ports.Lanes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def ensure(self, connection: str, destination: str, kind: Kind) -> Lane:
        route = {"connection": connection, "destination": destination, "kind": kind}

        def work(c: Connection) -> Lane:
            query = select(lanes).where(*(lanes.c[key] == value for key, value in route.items()))
            row = c.execute(query).one_or_none()
            if row is None:
                c.execute(insert(lanes).values(route))
                row = c.execute(query).one()
            return lane_of(row)

        return await self._database.write(work)

    async def all(self) -> Sequence[tuple[Lane, LaneState]]:
        def work(c: Connection) -> list[tuple[Lane, LaneState]]:
            query = select(lanes).order_by(lanes.c.connection, lanes.c.id)
            return [(lane_of(row), state_of(row)) for row in c.execute(query)]

        return await self._database.read(work)

    async def set_state(self, lane: LaneId, state: LaneState) -> None:
        values = {
            "mode": state.mode,
            "problem": state.problem.value if state.problem else None,
            "detail": state.detail,
            "since": state.since,
        }
        await self._database.write(
            lambda c: c.execute(update(lanes).where(lanes.c.id == lane).values(values))
        )


class SqlCommands:
    """connector.ports.Orders."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def submit(self, kind: str, args: Mapping[str, Any], *, by: str, now: Millis) -> int:
        values = {"kind": kind, "args": orjson.dumps(args).decode(), "created_by": by}

        def work(c: Connection) -> int:
            statement = insert(commands).values(values | {"submitted_at": now})
            return int(c.execute(statement.returning(commands.c.id)).scalar_one())

        return await self._database.write(work)

    async def fetch(self, *, now: Millis) -> Sequence[Command]:
        def work(c: Connection) -> list[Command]:
            query = (
                select(commands)
                .where(commands.c.claimed_at.is_(None))
                .order_by(commands.c.id)
                .with_for_update(skip_locked=True)
            )
            found = [_command(row) for row in c.execute(query)]
            if found:
                ids = [command.id for command in found]
                c.execute(update(commands).where(commands.c.id.in_(ids)).values(claimed_at=now))
            return found

        return await self._database.write(work)

    async def requeue(self) -> int:
        statement = (
            update(commands)
            .where(commands.c.claimed_at.is_not(None), commands.c.done_at.is_(None))
            .values(claimed_at=None)
        )
        return await self._database.write(lambda c: c.execute(statement).rowcount)

    async def finish(self, id: int, *, ok: bool, result: Mapping[str, Any], now: Millis) -> None:
        values = {"done_at": now, "ok": int(ok), "result": orjson.dumps(result).decode()}
        await self._database.write(
            lambda c: c.execute(update(commands).where(commands.c.id == id).values(values))
        )

    async def get(self, id: int) -> Command | None:
        def work(c: Connection) -> Command | None:
            row = c.execute(select(commands).where(commands.c.id == id)).one_or_none()
            return _command(row) if row else None

        return await self._database.read(work)


def _command(row: Any) -> Command:
    return Command(
        id=row.id,
        kind=row.kind,
        args=orjson.loads(row.args),
        submitted_at=row.submitted_at,
        done_at=row.done_at,
        ok=None if row.ok is None else bool(row.ok),
        result=orjson.loads(row.result) if row.result else None,
    )
