"""Compiles `[profile]`: custom properties and Klaviyo's own attributes."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import tzinfo
from difflib import get_close_matches
from typing import Any

from connector.mapping.expressions import Expressions
from connector.mapping.paths import Getter, format_path
from connector.mapping.rules import EventRule, Field, FieldSource
from connector.mapping.table_reader import TableReader, child_path
from connector.mapping.types import TYPES, ConversionError, Converter, converter
from connector.mapping.vocabulary import ATTRIBUTES, KEYWORDS


class ProfileCompiler:
    """`paths` collects the paths of the person's view that enabled fields and attributes use."""

    def __init__(
        self,
        reader: TableReader,
        expressions: Expressions,
        zone: tzinfo,
        rules: Mapping[str, EventRule],
    ) -> None:
        self.paths: set[str] = set()
        self._read = reader
        self._expressions = expressions
        self._zone = zone
        self._rules = rules

    def attributes(self, table: dict[str, Any]) -> tuple[Field, ...]:
        """The enabled `[profile.attributes.…]`."""
        found: list[Field] = []
        flat: dict[str, Any] = {}
        for key, value in table.items():
            if key == "location" and isinstance(value, dict):
                flat |= {f"location.{inner}": item for inner, item in value.items()}
            else:
                flat[key] = value
        for name, value in flat.items():
            if name in ATTRIBUTES:
                found += self._attribute(name, value)
                continue
            near = get_close_matches(name, ATTRIBUTES, 1)
            hint = f'; did you mean "{near[0]}"?' if near else ""
            self._read.fault(
                f"profile.attributes.{name}",
                f"unknown attribute, allowed: {', '.join(ATTRIBUTES)}{hint}",
            )
        return tuple(found)

    def _attribute(self, name: str, value: Any) -> list[Field]:
        """A list of one; empty if it is not enabled."""
        read, where = self._read, f"profile.attributes.{name}"
        entry = read.table({name: value}, name, "profile.attributes")
        read.check_keys(entry, where, KEYWORDS["profile.attributes"])
        enabled = read.flag(entry, "enabled", where, True)
        sources = self._sources(entry, where, enabled)
        if not sources:
            read.fault(where, "found no from, allowed: from with at least one path")
        kind = "number" if name.endswith("itude") else "string"
        return [Field(name, sources, converter(kind, self._zone), False, {}, {})] if enabled else []

    def fields(self, table: dict[str, Any]) -> tuple[Field, ...]:
        """The enabled `[profile.fields.…]`."""
        found = (
            self._field(name, self._read.table(table, name, "profile.fields")) for name in table
        )
        return tuple(field for field in found if field is not None)

    def _field(self, name: str, entry: dict[str, Any]) -> Field | None:
        read, where = self._read, child_path("profile.fields", name)
        read.check_keys(entry, where, KEYWORDS["profile.fields"])
        enabled = read.flag(entry, "enabled", where, True)
        kind = read.choice(entry, "type", where, TYPES, "")
        convert = converter(kind or None, self._zone)
        missing = read.choice(entry, "missing", where, ("unset", "keep"), "unset")
        sources = self._sources(entry, where, enabled)
        trusted = self._trusted(entry, where)
        event_values = self._event_values(entry, where, kind, convert)
        if not sources and not entry.keys() & {"from", "trusted", "from_event"}:
            read.fault(where, "found no source, allowed: from, trusted, from_event")
        if not enabled:
            return None
        return Field(name, sources, convert, missing == "unset", trusted, event_values)

    def _trusted(self, entry: dict[str, Any], where: str) -> dict[str, Getter]:
        found: dict[str, Getter] = {}
        for event, item in self._read.table(entry, "trusted", where).items():
            place = child_path(child_path(where, "trusted"), event)
            expression = self._expressions.compile(item, place)
            if expression is not None and expression.needs_person:
                self._read.wrong(place, item, "paths below event. or raw., which the event has")
            elif expression is not None:
                found[self._event_key(event)] = expression.as_getter()
        return found

    def _event_values(
        self, entry: dict[str, Any], where: str, kind: str, convert: Converter
    ) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for event, value in self._read.table(entry, "from_event", where).items():
            try:
                found[self._event_key(event)] = convert(value)
            except ConversionError as error:
                allowed = f"a value of the type {kind}" if kind else "a text, number or boolean"
                place = child_path(child_path(where, "from_event"), event)
                self._read.fault(place, f"found {error}, allowed: {allowed}")
        return found

    def _event_key(self, name: str) -> str:
        folded = name.strip().casefold()
        rule = self._rules.get(folded)
        return rule.key.strip().casefold() if rule else folded

    def _sources(self, entry: dict[str, Any], where: str, enabled: bool) -> tuple[FieldSource, ...]:
        sources: list[FieldSource] = []
        for n, item in enumerate(self._read.items(entry, "from", where, ())):
            place = f"{child_path(where, 'from')}[{n}]"
            expression = self._expressions.compile(item, place)
            if expression is None:
                continue
            if any(path[0] == "event" for path in expression.paths):
                self._read.wrong(
                    place, item, "a field of the person's view; for an event's, trusted"
                )
                continue
            if enabled:
                self.paths |= {format_path(path) for path in expression.paths}
            required = tuple(
                frozenset(format_path(path[:end]) for end in range(1, len(path) + 1))
                for path in expression.paths
            )
            sources.append(FieldSource(expression.as_getter(), required))
        return tuple(sources)
