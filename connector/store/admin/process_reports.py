"""What each process last reported about itself."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import orjson
from sqlalchemy import Connection, delete, func, select, update

from connector.domain.lanes import Millis
from connector.ports import ProcessState
from connector.store import schema
from connector.store.database import Database
from connector.store.prepared import Prepared, param
from connector.store.statements import Upsert, upsert
from connector.store.tables import process_reports

_NAMES = tuple(ProcessState.__dataclass_fields__)
_NEWEST_FIRST = process_reports.c.saved_at.desc(), process_reports.c.holder.desc()
_COLUMNS = tuple(process_reports.c[name] for name in _NAMES)


def _save(dialect: str) -> Upsert:
    names = (*_NAMES, "revision")
    statement = upsert(dialect, process_reports).values({name: param(name) for name in names})
    changed = {name: statement.excluded[name] for name in names if name != "holder"}
    return statement.on_conflict_do_update(index_elements=["holder"], set_=changed)


_SAVE = Prepared(_save)
_SINCE = Prepared(
    select(*_COLUMNS)
    .where(process_reports.c.saved_at >= param("saved_at"))
    .order_by(*_NEWEST_FIRST)
)


def _load(row: Any) -> ProcessState:
    holder, saved_at, offers, document = row
    return ProcessState(holder, saved_at, frozenset(orjson.loads(offers)), document)


def _values(state: ProcessState) -> dict[str, Any]:
    return {
        "holder": state.holder,
        "saved_at": state.saved_at,
        "offers": orjson.dumps(sorted(state.offers)).decode(),
        "document": state.document,
        "revision": schema.HEAD,
    }


class SqlProcessReports:
    """connector.ports.ProcessReports."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def save(self, state: ProcessState) -> None:
        await self._database.write(lambda c: _SAVE.run(c, **_values(state)))

    async def since(self, saved_at: Millis) -> Sequence[ProcessState]:
        def work(c: Connection) -> list[ProcessState]:
            return [_load(row) for row in _SINCE.rows(c, saved_at=saved_at)]

        return await self._database.read(work)

    async def latest(self) -> ProcessState | None:
        query = select(*_COLUMNS).order_by(*_NEWEST_FIRST).limit(1)

        def work(c: Connection) -> ProcessState | None:
            row = c.execute(query).one_or_none()
            return _load(row) if row else None

        return await self._database.read(work)

    async def withdraw(self, state: ProcessState) -> None:
        values = _values(state)
        statement = update(process_reports).where(process_reports.c.holder == state.holder)
        await self._database.write(lambda c: c.execute(statement.values(values)))

    async def take(self, holders: Collection[str]) -> Sequence[ProcessState]:
        statement = delete(process_reports).where(process_reports.c.holder.in_(list(holders)))
        taken = statement.returning(*_COLUMNS)
        return await self._database.write(lambda c: [_load(row) for row in c.execute(taken)])

    async def prune(self, *, before: Millis) -> int:
        newest = select(func.max(process_reports.c.saved_at)).scalar_subquery()
        old = process_reports.c.saved_at < before, process_reports.c.saved_at < newest
        return await self._database.write(
            lambda c: c.execute(delete(process_reports).where(*old)).rowcount
        )
