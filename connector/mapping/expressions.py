"""A path, or a named function over paths, compiled to one function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import tzinfo
from difflib import get_close_matches
from typing import Any, cast

from connector.mapping.functions import Function, built_in, installed
from connector.mapping.paths import (
    MISSING,
    Getter,
    PathError,
    Segment,
    getter,
    is_blank,
    parse_path,
)
from connector.mapping.rules import PairGetter
from connector.mapping.table_reader import TableReader, child_path
from connector.mapping.types import ConversionError
from connector.mapping.vocabulary import KEYWORDS, OPEN_PATHS, VIEW_PATHS

_EVENT_ROOTS = ("event", "raw")


@dataclass(frozen=True)
class Expression:
    """A path or a function over paths. `needs_person`: not all paths are below event or raw."""

    get: PairGetter
    paths: tuple[tuple[Segment, ...], ...]
    needs_person: bool
    simple_getter: Getter | None = None

    def as_getter(self) -> Getter:
        """The expression over one view."""
        if self.simple_getter is not None:
            return self.simple_getter
        get = self.get
        return lambda view: get(view, view)


class Expressions:
    """Compiles the expressions of one file; faults go to its reader."""

    def __init__(self, reader: TableReader, zone: tzinfo) -> None:
        self._read = reader
        self._functions = built_in(zone)

    def compile(self, item: Any, where: str) -> Expression | None:
        """The expression at `where`, or None after a fault."""
        if isinstance(item, dict):
            return self._call(item, where)
        path = self._path(item, where)
        if path is None:
            return None
        get = getter(path)
        needs_person = path[0] not in _EVENT_ROOTS
        pair = _on_person(get) if needs_person else _on_event(get)
        return Expression(pair, (path,), needs_person, get)

    def _path(self, item: Any, where: str) -> tuple[Segment, ...] | None:
        if not isinstance(item, str):
            self._read.wrong(where, item, 'a path such as "tier.name", or { fn = …, of = … }')
            return None
        try:
            path = parse_path(item)
        except PathError as error:
            self._read.fault(
                where, f'found the path "{item}": {error}, allowed: a.b, a."with space", a[0]'
            )
            return None
        self._check_known(path, item, where)
        return path

    def _check_known(self, path: tuple[Segment, ...], item: str, where: str) -> None:
        for word in VIEW_PATHS:
            parts = word.split(".")
            if list(path[: len(parts)]) == parts and (
                len(path) == len(parts) or word in OPEN_PATHS
            ):
                return
        near = get_close_matches(item, VIEW_PATHS, 1)
        hint = f'; did you mean "{near[0]}"?' if near else ""
        closed = ", ".join(word for word in VIEW_PATHS if word not in OPEN_PATHS)
        self._read.fault(
            where,
            f'found the path "{item}", which no view has, allowed: {closed}, '
            f"and all below {', '.join(OPEN_PATHS)}{hint}",
        )

    def _call(self, table: dict[str, Any], where: str) -> Expression | None:
        read = self._read
        read.check_keys(table, where, KEYWORDS["function"])
        function = self._function(table.get("fn"), child_path(where, "fn"))
        several = isinstance(table.get("of"), list)
        items = table["of"] if several else [table.get("of")]
        if not items:
            read.wrong(child_path(where, "of"), items, "a path, or a list of paths")
        paths = [self._path(item, child_path(where, "of")) for item in items]
        whole = tuple(path for path in paths if path is not None)
        if function is None or not whole or len(whole) != len(paths):
            return None
        gets = tuple(
            (_on_person if path[0] not in _EVENT_ROOTS else _on_event)(getter(path))
            for path in whole
        )
        needs_person = any(path[0] not in _EVENT_ROOTS for path in whole)
        return Expression(_applied(function, gets), whole, needs_person)

    def _function(self, name: Any, where: str) -> Function | None:
        if isinstance(name, str) and name in self._functions:
            return self._functions[name]
        known = sorted({*self._functions, *installed()})
        point = installed().get(name) if isinstance(name, str) else None
        if point is None:
            near = get_close_matches(name, known, 1) if isinstance(name, str) else []
            hint = f'; did you mean "{near[0]}"?' if near else ""
            self._read.wrong(where, name, ", ".join(known) + hint)
            return None
        try:
            function = point.load()
        except Exception as error:  # the import of a plug-in may raise anything
            self._read.fault(where, f'"{name}" from {point.value} does not import: {error!r}')
            self._read.broken += 1
            return None
        if not callable(function):
            self._read.fault(where, f'"{name}" from {point.value} is not a function')
            self._read.broken += 1
            return None
        self._functions[name] = function
        return cast(Function, function)


def _on_event(get: Getter) -> PairGetter:
    return lambda view, fresh: get(view)


def _on_person(get: Getter) -> PairGetter:
    return lambda view, fresh: get(fresh)


def _applied(function: Callable[..., Any], gets: tuple[PairGetter, ...]) -> PairGetter:
    def call(view: Any, fresh: Any) -> Any:
        found = [get(view, fresh) for get in gets]
        values = [None if is_blank(value) else value for value in found]
        if all(value is None for value in values):
            return MISSING
        try:
            result = function(*values)
        except ConversionError:
            raise
        except Exception as error:  # a failing function must not lose the event
            raise ConversionError(f"the function failed with {type(error).__name__}") from None
        return MISSING if result is None else result

    return call
