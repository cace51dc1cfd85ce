"""Records every statement that a store runs, and explains it: what reads more than it returns."""

from __future__ import annotations

import re
import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import orjson
from sqlalchemy import Connection, event

from connector.store.database import Database
from connector.store.prepared import param
from connector.store.sqlite import Work
from connector.store.tables import metadata
from connector.store.tables.columns import Bounded

T = TypeVar("T")
_LISTS = re.compile(r"\((?:(?:\?|\$\d+(?:::\w+)?|__\[\w+\])(?:, )?)+\)")
_PARTIAL = {
    index.name
    for table in metadata.tables.values()
    for index in table.indexes
    if any("where" in option for option in index.dialect_kwargs)
}
_PREPARED = param("").key
_FREQUENT = ("connector.store.queues.action_intake:", "connector.store.queues.outbox:")
"""Those that take what others send, one at a time, beside what is prepared."""
_SMALL = {str(table.__tablename__) for table in Bounded.__subclasses__()}


@dataclass(frozen=True, slots=True)
class Statement:
    """`by`: the function that ran it. `frequent`: run for a few rows each time, where to compile it
    would take longer than to run it."""

    by: str
    text: str
    values: Any
    frequent: bool


class RecordingDatabase:
    """connector.store.database.Database that remembers the statements of another one, each once."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._running = threading.local()
        self.statements: dict[str, Statement] = {}
        event.listen(database.engine, "after_cursor_execute", self._note)
        # What is prepared is run by SQLAlchemy, and so noted, where something listens to this.
        event.listen(database.engine, "before_cursor_execute", lambda *_: None)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    async def write(self, work: Work[T], *, patient: bool = False) -> T:
        return await self._database.write(self._named(work), patient=patient)

    async def read(self, work: Work[T], *, brief: bool = False) -> T:
        return await self._database.read(self._named(work), brief=brief)

    def _named(self, work: Work[T]) -> Work[T]:
        def named(c: Connection) -> T:
            ignored = getattr(work, "on_request", False) or work.__module__.startswith("tests.")
            self._running.work = None if ignored else f"{work.__module__}:{work.__qualname__}"
            try:
                return work(c)
            finally:
                self._running.work = None

        return named

    def _note(self, _: Any, __: Any, text: str, values: Any, context: Any, many: bool) -> None:
        by = getattr(self._running, "work", None)
        if by is None or not text.lstrip().startswith(("SELECT", "UPDATE", "DELETE", "WITH")):
            return
        if many:
            values = values[0]
        binds = context.compiled.binds if context.compiled else ()
        prepared = any(name.startswith(_PREPARED) for name in binds)
        statement = Statement(by, text, values, prepared or by.startswith(_FREQUENT))
        self.statements.setdefault(_LISTS.sub("(…)", text), statement)


async def faults(database: RecordingDatabase, known: set[str]) -> list[str]:
    """What is wrong with the recorded statements that are not `known`, which they are from now."""
    new = {key: each for key, each in database.statements.items() if key not in known}
    if not new:
        return []
    known.update(new)
    on_sqlite = database.engine.dialect.name == "sqlite"
    judge = _on_sqlite if on_sqlite else _on_postgresql

    def work(c: Connection) -> list[str]:
        if not on_sqlite:
            for setting in ("seqscan", "mergejoin", "hashjoin"):
                # Small tables are read whole, unless that is made expensive.
                c.exec_driver_sql(f"SET LOCAL enable_{setting} = off")
        return [
            f"{each.by}: {fault}\n    {' '.join(each.text.split())[:700]}"
            for each in new.values()
            for fault in judge(c, each)
        ]

    return await database._database.read(work)


def _on_sqlite(c: Connection, statement: Statement) -> Iterator[str]:
    lines = [
        str(row[3])
        for row in c.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement.text}", statement.values)
    ]
    words = set(statement.text.split())
    limited = "LIMIT" in words
    # Walks an index until it has what it returns, and passes over nothing.
    walked = limited and "WHERE" not in words
    read = [found for line in lines if (found := re.match(r"(SCAN|SEARCH) (\w+)", line))]
    grows = [found[2] for found in read if found[2] in metadata.tables and found[2] not in _SMALL]
    for line in lines:
        scan = re.match(r"SCAN (\w+)(?: USING (?:COVERING )?INDEX (\w+))?", line)
        if scan and scan[1] in grows and scan[2] not in _PARTIAL and not walked:
            yield line
        if "TEMP B-TREE" in line and grows and (limited or "ORDER BY" not in line):
            yield line
    if statement.frequent and _is_compiled_again(c, statement):
        yield "compiled again at each execution"


def _is_compiled_again(c: Connection, statement: Statement) -> bool:
    """Whether SQLite compiles the statement at each execution, which costs more than to run it. It
    does where it compared a bound value with the condition of a partial index, because the next
    value may meet it."""
    raw = cast(sqlite3.Connection, c.connection.driver_connection)
    compiled: list[int] = []
    text = f"EXPLAIN QUERY PLAN {statement.text}"
    raw.execute(text, statement.values).fetchall()
    # What the authorizer would refuse is asked while a statement is compiled, at no other time.
    raw.set_authorizer(lambda *_: compiled.append(1) or sqlite3.SQLITE_OK)
    try:
        raw.execute(text, statement.values).fetchall()
        compiled.clear()  # setting the authorizer had everything compiled once more
        raw.execute(text, statement.values).fetchall()
    finally:
        raw.set_authorizer(None)
    return bool(compiled)


def _on_postgresql(c: Connection, statement: Statement) -> Iterator[str]:
    # Sorting a few rows is cheaper than an index that has them in order: what a limit cuts off
    # must not be sorted where there are many.
    sort = "off" if "LIMIT" in statement.text.split() else "on"
    c.exec_driver_sql(f"SET LOCAL enable_sort = {sort}")
    explained = c.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {statement.text}", statement.values)
    document = explained.scalar_one()
    plan = (document if isinstance(document, list) else orjson.loads(document))[0]["Plan"]
    # Which index it takes depends on sizes, which are small here: SQLite's plans do not.
    yield from _nodes(plan, limited=False)


def _nodes(plan: dict[str, Any], *, limited: bool) -> Iterator[str]:
    kind, table = plan["Node Type"], plan.get("Relation Name")
    limited = limited or kind == "Limit"
    if table and table not in _SMALL and kind == "Seq Scan":
        yield f"Seq Scan on {table}"
    if kind in ("Sort", "Incremental Sort") and limited and any(_tables(plan)):
        yield f"{kind} by {plan.get('Sort Key')} below a limit"
    for part in plan.get("Plans", ()):
        yield from _nodes(part, limited=limited)


def _tables(plan: dict[str, Any]) -> Iterator[str]:
    """Tables that grow, below a node."""
    if (table := plan.get("Relation Name")) and table not in _SMALL:
        yield table
    for part in plan.get("Plans", ()):
        yield from _tables(part)
