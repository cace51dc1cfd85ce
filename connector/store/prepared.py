"""Statements that run for every event or every second: built once, and on SQLite compiled once and
run by the driver.

An event runs some thirty statements. Building each of them, looking up its compiled form and
wrapping its result costs SQLAlchemy several times what SQLite does for it. On PostgreSQL the way to
the server costs more, so SQLAlchemy runs them.
"""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any, cast

from sqlalchemy import BindParameter, Connection, CursorResult, Executable, Table, bindparam, update
from sqlalchemy.sql.compiler import SQLCompiler

from connector.store.statements import chunks

Values = Mapping[str, Any]
"""Bind parameter → value."""


_PREFIX = "p_"
"""SQLAlchemy takes a parameter with a column's name for a value of that column."""


def param(name: str, type_: Any = None, *, expanding: bool = False) -> BindParameter[Any]:
    """A bind parameter of a prepared statement; `expanding`: a list."""
    return bindparam(_PREFIX + name, type_=type_, expanding=expanding)


class Prepared:
    """A statement whose values are constants or a `param`.

    `build` makes it for a dialect's name, where engines differ. `many` names the one parameter that
    is a list (`column.in_(param("people", expanding=True))`): with an empty list nothing runs,
    a long one runs in parts. Raises the errors of SQLAlchemy or of the driver
    (connector.store.engine_errors).
    """

    def __init__(
        self, build: Executable | Callable[[str], Executable], *, many: str | None = None
    ) -> None:
        self._build = build if callable(build) else lambda _: build
        self._many = many
        self._statements: dict[str, Executable] = {}
        self._texts: dict[int, _Text] = {}

    def rows(self, c: Connection, **values: Any) -> list[Any]:
        """The rows, as tuples."""
        if self._many is None:
            return list(self._run(c, values).fetchall())
        return [row for part in self._parts(values) for row in self._run(c, part).fetchall()]

    def first(self, c: Connection, **values: Any) -> Any:
        """The first row, None without one."""
        rows = self.rows(c, **values)
        return rows[0] if rows else None

    def run(self, c: Connection, **values: Any) -> int:
        """How many rows were changed."""
        if self._many is None:
            return self._run(c, values).rowcount
        return sum(self._run(c, part).rowcount for part in self._parts(values))

    def run_all(self, c: Connection, rows: Sequence[Values]) -> None:
        """Once for each row of values, all with the same keys and none with a list."""
        if not rows:
            return
        driver = _driver(c)
        if driver is None:
            c.execute(self._statement(c), [_prefixed(values) for values in rows])
        else:
            text = self._text(c, rows[0])
            driver.executemany(text.text, [text.parameters(values) for values in rows])

    def _run(self, c: Connection, values: dict[str, Any]) -> sqlite3.Cursor | CursorResult[Any]:
        driver = _driver(c)
        if driver is None:
            return c.execute(self._statement(c), _prefixed(values))
        text = self._text(c, values)
        return driver.execute(text.text, text.parameters(values))

    def _parts(self, values: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if self._many is None:
            yield values
        else:
            for part in chunks(values[self._many]):
                yield {**values, self._many: part}

    def _statement(self, c: Connection) -> Executable:
        name = c.dialect.name
        if name not in self._statements:
            self._statements[name] = self._build(name)
        return self._statements[name]

    def _text(self, c: Connection, values: Values) -> _Text:
        """Lists are filled up to the next power of two, so that there are few texts."""
        many = self._many
        size = 1 << (len(values[many]) - 1).bit_length() if many else 0
        text = self._texts.get(size)
        if text is None:
            statement: Any = self._statement(c)
            text = self._texts[size] = _Text(statement.compile(dialect=c.dialect), many, size)
        return text


@functools.cache
def prepared_update(table: Table, key: str, columns: tuple[str, ...]) -> Prepared:
    """Sets these columns where the column `key` is the parameter `row`."""
    statement = update(table).where(table.c[key] == param("row"))
    return Prepared(statement.values({name: param(name) for name in columns}))


def _prefixed(values: Values) -> dict[str, Any]:
    return {_PREFIX + name: value for name, value in values.items()}


class _Text:
    """A statement as SQLite takes it, with `size` places for the list `many`."""

    def __init__(self, compiled: SQLCompiler, many: str | None, size: int) -> None:
        places = ", ".join("?" * size)
        self.text = str(compiled).replace(f"__[POSTCOMPILE_{_PREFIX}{many}]", places)
        self._constants = {
            name: bind.value for name, bind in compiled.binds.items() if not bind.required
        }
        for column in compiled.insert_prefetch:
            default: Any = column.default
            self._constants[column.key] = default.arg
        self._many, self._size = many, size
        names: list[str] = []
        for bound in compiled.positiontup or ():
            name = bound.removeprefix(_PREFIX)
            names += [f"{many}_{n}" for n in range(size)] if name == many else [name]
        self._places = [f"{many}_{n}" for n in range(size)]
        self._pick = _picker(names)

    def parameters(self, values: Values) -> tuple[Any, ...]:
        if self._constants:
            values = {**self._constants, **values}
        if self._many:
            listed = values[self._many]
            last = [listed[-1]] * (self._size - len(listed))
            values = {**values, **dict(zip(self._places, [*listed, *last], strict=True))}
        return self._pick(values)


def _picker(names: Sequence[str]) -> Callable[[Values], tuple[Any, ...]]:
    """A function that returns the values of these names."""
    if len(names) > 1:
        return cast("Callable[[Values], tuple[Any, ...]]", itemgetter(*names))
    return lambda values: tuple(values[name] for name in names)


def _driver(c: Connection) -> sqlite3.Connection | None:
    """The connection that runs a text itself; None where SQLAlchemy should, also because something
    listens to statements."""
    if c.dialect.name != "sqlite" or c.engine.dispatch.before_cursor_execute:
        return None
    return cast(sqlite3.Connection, c.connection.driver_connection)
