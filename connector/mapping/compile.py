"""TOML text to a compiled mapping: every word is checked, every path becomes a function, once."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from datetime import UTC
from difflib import get_close_matches
from typing import Any, cast
from zoneinfo import ZoneInfo

from connector.domain.errors import ConfigError, Problem
from connector.mapping.address import known_region
from connector.mapping.expressions import Expressions
from connector.mapping.paths import Getter, format_path
from connector.mapping.render import CompiledMapping
from connector.mapping.rules import EventRule, Field, FieldSource, PairGetter, UnknownPolicy
from connector.mapping.table_reader import TableReader, child_path
from connector.mapping.types import TYPES, ConversionError, converter
from connector.mapping.vocabulary import ATTRIBUTES, KEYWORDS, METRIC_NAME_LIMIT


def parse_toml(text: str, *, origin: str = "") -> dict[str, Any]:
    """The tables of a mapping file. `origin` comes before the fault. Raises ConfigError."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        reader = TableReader(origin)
        reader.fault("", f"not a TOML file: {error}")
        raise ConfigError(reader.faults, Problem.MAPPING_FAULTY) from error


def compile_mapping(text: str, *, origin: str = "") -> CompiledMapping:
    """Compiles the text of a mapping file that extends no other. `origin` comes before every fault.

    Raises ConfigError with all faults at once: MAPPING_FAULTY, or PLUGIN_BROKEN if the package of a
    function is the only thing wrong.
    """
    reader = TableReader(origin)
    mapping = _Compiler(reader).mapping(parse_toml(text, origin=origin), text)
    if reader.faults:
        only = reader.broken == len(reader.faults)
        problem = Problem.PLUGIN_BROKEN if only else Problem.MAPPING_FAULTY
        raise ConfigError(reader.faults, problem)
    return mapping


class _Compiler:
    def __init__(self, reader: TableReader) -> None:
        self._read = reader
        self._expressions = Expressions(reader, UTC)
        self._paths: set[str] = set()
        self._rules: dict[str, EventRule] = {}

    def mapping(self, data: dict[str, Any], text: str) -> CompiledMapping:
        read = self._read
        read.check_keys(data, "", KEYWORDS[""])
        if "extends" in data:
            read.wrong("extends", data["extends"], "only in a mapping file, not in its stored text")
        version = data.get("version")
        if type(version) is not int or version != 1:
            read.wrong("version", version, "1")
        source = read.text(data, "source", "")
        if not source.strip():
            read.wrong("source", data.get("source"), "the platform's name")
        zone_name = read.text(data, "timezone", "", "UTC")
        zone = self._zone(zone_name)
        self._expressions = Expressions(read, zone)
        identity, region = self._identity(read.table(data, "identity", ""))
        events = read.table(data, "events", "")
        read.check_keys(events, "events", KEYWORDS["events"])
        prefix = read.text(events, "prefix", "events")
        unknown = read.choice(events, "unknown", "events", ("pass", "drop", "dead-letter"), "pass")
        attach = read.flag(events, "attach_profile", "events", True)
        self._metrics(read.table(events, "metrics", "events"), prefix)
        profile = read.table(data, "profile", "")
        read.check_keys(profile, "profile", KEYWORDS["profile"])
        self._paths = set()
        attributes = self._attributes(read.table(profile, "attributes", "profile"), zone)
        fields, named = self._fields(read.table(profile, "fields", "profile"), zone)
        return CompiledMapping(
            text=text,
            version=_version(data),
            source=source,
            timezone=zone_name,
            prefix=prefix,
            unknown=cast(UnknownPolicy, unknown),
            attach_profile=attach,
            rules=self._rules,
            email=identity["email"],
            external_id=identity["external_id"],
            phone_number=identity["phone_number"],
            default_region=region,
            fields=fields,
            attributes=attributes,
            declared=named,
            reads=frozenset(self._paths),
            added=tuple(
                (rule.key, name)
                for rule in dict.fromkeys(self._rules.values())
                for name, _ in (*rule.event_adds, *rule.person_adds)
            ),
            event_sourced=frozenset(
                key for field in fields for key in (*field.trusted, *field.event_values)
            ),
        )

    def _zone(self, name: str) -> ZoneInfo:
        try:
            return ZoneInfo(name)
        except (KeyError, ValueError, OSError):
            self._read.wrong("timezone", name, 'an IANA name such as "Europe/Madrid"')
            return ZoneInfo("UTC")

    # ── identity ────────────────────────────────────────────────────────────────────────────────

    def _identity(self, table: dict[str, Any]) -> tuple[dict[str, tuple[Getter, ...]], str]:
        read = self._read
        read.check_keys(table, "identity", KEYWORDS["identity"])
        found: dict[str, tuple[Getter, ...]] = {}
        asked = 0
        for word, default in (("email", ("email",)), ("external_id", ()), ("phone_number", ())):
            items = read.items(table, word, "identity", default)
            asked += len(items)
            expressions = [
                self._expressions.compile(item, f"{child_path('identity', word)}[{n}]")
                for n, item in enumerate(items)
            ]
            found[word] = tuple(item.as_getter() for item in expressions if item is not None)
        if not asked:
            read.fault("identity", "found no path at all, allowed: at least one, best email")
        region = read.text(table, "default_region", "identity")
        shaped = re.fullmatch("[A-Z]{2}", region) is not None
        # Only who sends phone numbers pays for loading what is known about them.
        if region and not (shaped and (not found["phone_number"] or known_region(region))):
            read.wrong("identity.default_region", region, 'two capitals such as "ES", or ""')
        return found, region

    # ── events ──────────────────────────────────────────────────────────────────────────────────

    def _metrics(self, table: dict[str, Any], prefix: str) -> None:
        read = self._read
        for key in table:
            where = child_path("events.metrics", key)
            rule = self._metric(key, read.table(table, key, "events.metrics"), where, prefix)
            self._rules[key] = rule
        taken: dict[str, str] = {}
        for key in table:
            taken.setdefault(key.strip().casefold(), key)
        for rule in list(self._rules.values()):
            for name in (rule.key, *rule.aliases):
                folded = name.strip().casefold()
                owner = taken.setdefault(folded, rule.key)
                if owner != rule.key:
                    where = child_path("events.metrics", rule.key)
                    read.fault(
                        where,
                        f'found the name "{name}", which "{owner}" has already; '
                        "allowed: each name once, whatever its case",
                    )
                else:
                    self._rules[folded] = rule

    def _metric(self, key: str, table: dict[str, Any], where: str, prefix: str) -> EventRule:
        read = self._read
        read.check_keys(table, where, KEYWORDS["events.metrics"])
        metric = prefix + read.text(table, "name", where, key)
        if not metric.strip() or len(metric) >= METRIC_NAME_LIMIT:
            read.fault(
                child_path(where, "name"),
                f"found {len(metric)} characters (prefix included), "
                f"allowed: 1 to {METRIC_NAME_LIMIT - 1}",
            )
        value = None
        if "value" in table:
            value = self._expressions.compile(table["value"], child_path(where, "value"))
        event_adds: list[tuple[str, Getter]] = []
        person_adds: list[tuple[str, PairGetter]] = []
        add = read.table(table, "add", where)
        for name, item in add.items():
            expression = self._expressions.compile(item, child_path(child_path(where, "add"), name))
            if expression is not None and expression.needs_person:
                person_adds.append((name, expression.get))
            elif expression is not None:
                event_adds.append((name, expression.as_getter()))
        return EventRule(
            key=key,
            metric=metric,
            aliases=tuple(read.texts(table, "aliases", where)),
            enabled=read.flag(table, "enabled", where, True),
            refresh=read.flag(table, "refresh", where, True),
            value=value.get if value else None,
            value_needs_person=bool(value and value.needs_person),
            event_adds=tuple(event_adds),
            person_adds=tuple(person_adds),
        )

    def _event_key(self, name: str) -> str:
        folded = name.strip().casefold()
        rule = self._rules.get(folded)
        return rule.key.strip().casefold() if rule else folded

    # ── profile ─────────────────────────────────────────────────────────────────────────────────

    def _attributes(self, table: dict[str, Any], zone: ZoneInfo) -> tuple[Field, ...]:
        read = self._read
        found: list[Field] = []
        flat: dict[str, Any] = {}
        for key, value in table.items():
            if key == "location" and isinstance(value, dict):
                flat |= {f"location.{inner}": item for inner, item in value.items()}
            else:
                flat[key] = value
        for name, value in flat.items():
            where = f"profile.attributes.{name}"
            if name not in ATTRIBUTES:
                near = get_close_matches(name, ATTRIBUTES, 1)
                hint = f'; did you mean "{near[0]}"?' if near else ""
                read.fault(where, f"unknown attribute, allowed: {', '.join(ATTRIBUTES)}{hint}")
                continue
            entry = read.table({name: value}, name, "profile.attributes")
            read.check_keys(entry, where, KEYWORDS["profile.attributes"])
            enabled = read.flag(entry, "enabled", where, True)
            sources = self._sources(entry, where, enabled)
            if not sources:
                read.fault(where, "found no from, allowed: from with at least one path")
            kind = "number" if name.endswith("itude") else "string"
            if enabled:
                found.append(Field(name, sources, converter(kind, zone), False, {}, {}))
        return tuple(found)

    def _fields(
        self, table: dict[str, Any], zone: ZoneInfo
    ) -> tuple[tuple[Field, ...], tuple[str, ...]]:
        found: list[Field] = []
        for name in table:
            field = self._field(name, self._read.table(table, name, "profile.fields"), zone)
            if field is not None:
                found.append(field)
        return tuple(found), tuple(field.name for field in found)

    def _field(self, name: str, entry: dict[str, Any], zone: ZoneInfo) -> Field | None:
        read = self._read
        where = child_path("profile.fields", name)
        read.check_keys(entry, where, KEYWORDS["profile.fields"])
        enabled = read.flag(entry, "enabled", where, True)
        kind = read.choice(entry, "type", where, TYPES, "")
        convert = converter(kind or None, zone)
        missing = read.choice(entry, "missing", where, ("unset", "keep"), "unset")
        sources = self._sources(entry, where, enabled)
        trusted: dict[str, Getter] = {}
        for event, item in read.table(entry, "trusted", where).items():
            place = child_path(child_path(where, "trusted"), event)
            expression = self._expressions.compile(item, place)
            if expression is not None and expression.needs_person:
                read.wrong(place, item, "paths below event. or raw., which the event itself says")
            elif expression is not None:
                trusted[self._event_key(event)] = expression.as_getter()
        event_values: dict[str, Any] = {}
        for event, value in read.table(entry, "from_event", where).items():
            try:
                event_values[self._event_key(event)] = convert(value)
            except ConversionError as error:
                allowed = f"a value of the type {kind}" if kind else "a text, number or boolean"
                read.fault(
                    child_path(child_path(where, "from_event"), event),
                    f"found {error}, allowed: {allowed}",
                )
        if not sources and not entry.keys() & {"from", "trusted", "from_event"}:
            read.fault(where, "found no source, allowed: from, trusted, from_event")
        if not enabled:
            return None
        return Field(name, sources, convert, missing == "unset", trusted, event_values)

    def _sources(self, entry: dict[str, Any], where: str, enabled: bool) -> tuple[FieldSource, ...]:
        sources: list[FieldSource] = []
        for n, item in enumerate(self._read.items(entry, "from", where, ())):
            place = f"{child_path(where, 'from')}[{n}]"
            expression = self._expressions.compile(item, place)
            if expression is None:
                continue
            if any(path[0] == "event" for path in expression.paths):
                self._read.wrong(
                    place, item, "a word of the person's view; for an event's, trusted"
                )
                continue
            if enabled:
                self._paths |= {format_path(path) for path in expression.paths}
            required = tuple(
                frozenset(format_path(path[:end]) for end in range(1, len(path) + 1))
                for path in expression.paths
            )
            sources.append(FieldSource(expression.as_getter(), required))
        return tuple(sources)


def _version(data: dict[str, Any]) -> str:
    # Of the parsed words, not of the text: a comment or a space changes what nobody is sent.
    words = json.dumps(data, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(words.encode()).hexdigest()[:12]
