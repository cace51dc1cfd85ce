"""Commands that people submitted, until the process with the lease has run them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from hashlib import sha256
from typing import Any, NamedTuple

import orjson
from sqlalchemy import ColumnElement, Connection, or_, select, text, update

from connector.domain.lanes import Millis
from connector.ports import ALL_COMMANDS, Command, CommandScope, KeyReused
from connector.store.database import Database
from connector.store.prepared import Prepared, param
from connector.store.statements import upsert
from connector.store.tables import RELOADS, commands


class _CommandRow(NamedTuple):
    """A stored command. The names are those of the columns."""

    id: int
    kind: str
    args: str
    submitted_at: Millis
    done_at: Millis | None
    ok: int | None
    result: str | None
    created_by: str

    def command(self) -> Command:
        return Command(
            id=self.id,
            kind=self.kind,
            args=orjson.loads(self.args),
            submitted_at=self.submitted_at,
            done_at=self.done_at,
            ok=None if self.ok is None else bool(self.ok),
            result=orjson.loads(self.result) if self.result else None,
            by=self.created_by,
        )


def _submitted_before(c: Connection, values: Mapping[str, Any]) -> int:
    """The id of the command that has the key of these values. Raises KeyReused."""
    query = select(commands.c.id, commands.c.kind, commands.c.args)
    key = commands.c.idempotency_key == values["idempotency_key"]
    id, kind, args = c.execute(query.where(key)).one()
    if (kind, _comparable(args)) != (values["kind"], _comparable(values["args"])):
        raise KeyReused
    return int(id)


def _comparable(args: str) -> Any:
    """Arguments without ciphertexts: that of an equal value is another one each time, and a digest
    is beside it."""

    def without(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                k: without(v) for k, v in value.items() if k != "sealed" or "digest" not in value
            }
        return value

    return without(orjson.loads(args))


def _within(scope: CommandScope) -> ColumnElement[bool]:
    named = commands.c.connection.in_(list(scope.connections))
    if scope.but is None:
        return named
    return or_(named, commands.c.connection.not_in(list(scope.but)))


_IS_OPEN = commands.c.claimed_at.is_(None), commands.c.done_at.is_(None)
_ANY_OPEN = Prepared(select(commands.c.id).where(*_IS_OPEN).limit(1))
_LAST_RELOAD = Prepared(
    select(commands.c.id)
    .where(
        commands.c.done_at.is_not(None),
        commands.c.ok == 1,
        text(RELOADS),
        commands.c.claimed_by != param("not_by"),
    )
    .order_by(commands.c.id.desc())
    .limit(1)
)
_COLUMNS = tuple(commands.c[name] for name in _CommandRow._fields)


class SqlCommands:
    """connector.ports.CommandQueue."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def submit(
        self, kind: str, args: Mapping[str, Any], *, by: str, key: str = "", now: Millis
    ) -> int:
        values = {
            "kind": kind,
            "connection": str(args.get("connection", "")),
            "args": orjson.dumps(args).decode(),
            "created_by": by,
            "idempotency_key": sha256(f"{by}\0{key}".encode()).hexdigest() if key else None,
            "submitted_at": now,
        }

        def work(c: Connection) -> int:
            statement = upsert(c.dialect.name, commands).on_conflict_do_nothing().values(values)
            id = c.execute(statement.returning(commands.c.id)).scalar()
            return int(id) if id is not None else _submitted_before(c, values)

        return await self._database.write(work)

    async def fetch(
        self, *, now: Millis, by: str = "", scope: CommandScope = ALL_COMMANDS
    ) -> Sequence[Command]:
        # Asked several times a second and mostly in vain, so it does not wait for the writer.
        if await self._database.read(_ANY_OPEN.first) is None:
            return []
        query = (
            select(*_COLUMNS)
            .where(*_IS_OPEN, _within(scope))
            .order_by(commands.c.id)
            .with_for_update(skip_locked=True)
        )

        def work(c: Connection) -> list[Command]:
            found = [_CommandRow._make(row).command() for row in c.execute(query)]
            if found:
                ids = [command.id for command in found]
                mine = {"claimed_at": now, "claimed_by": by}
                c.execute(update(commands).where(commands.c.id.in_(ids)).values(mine))
            return found

        return await self._database.write(work)

    async def requeue(
        self, *, keep: Collection[int] = (), scope: CommandScope = ALL_COMMANDS
    ) -> int:
        unfinished = (
            commands.c.claimed_at.is_not(None),
            commands.c.done_at.is_(None),
            _within(scope),
        )
        statement = (
            update(commands)
            .where(*unfinished, commands.c.id.not_in(list(keep)))
            .values(claimed_at=None)
        )
        return await self._database.write(lambda c: c.execute(statement).rowcount)

    async def last_reload(self, *, not_by: str) -> int:
        def work(c: Connection) -> int:
            row = _LAST_RELOAD.first(c, not_by=not_by)
            return row[0] if row else 0

        return await self._database.read(work)

    async def report(self, id: int, progress: Mapping[str, Any]) -> None:
        statement = (
            update(commands)
            .where(commands.c.id == id, commands.c.done_at.is_(None))
            .values(result=orjson.dumps(progress).decode())
        )
        await self._database.write(lambda c: c.execute(statement))

    async def finish(self, id: int, *, ok: bool, result: Mapping[str, Any], now: Millis) -> None:
        values = {"done_at": now, "ok": int(ok), "result": orjson.dumps(result).decode()}
        await self._database.write(
            lambda c: c.execute(update(commands).where(commands.c.id == id).values(values))
        )

    async def get(self, id: int) -> Command | None:
        query = select(*_COLUMNS).where(commands.c.id == id)

        def work(c: Connection) -> Command | None:
            row = c.execute(query).one_or_none()
            return _CommandRow._make(row).command() if row else None

        return await self._database.read(work)
