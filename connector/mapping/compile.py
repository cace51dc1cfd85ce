"""Compiles the TOML text of a mapping: every keyword is checked, every path becomes a function."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from typing import Any, cast
from zoneinfo import ZoneInfo

from connector.domain.errors import ConfigError, Problem
from connector.mapping.address import known_region
from connector.mapping.compile_events import compile_rules
from connector.mapping.compile_profile import ProfileCompiler
from connector.mapping.expressions import Expressions
from connector.mapping.paths import Getter
from connector.mapping.render import CompiledMapping
from connector.mapping.rules import UnknownPolicy
from connector.mapping.table_reader import TableReader, child_path
from connector.mapping.vocabulary import KEYWORDS


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
    mapping = _compile(parse_toml(text, origin=origin), text, reader)
    if reader.faults:
        only = reader.broken == len(reader.faults)
        problem = Problem.PLUGIN_BROKEN if only else Problem.MAPPING_FAULTY
        raise ConfigError(reader.faults, problem)
    return mapping


def _compile(data: dict[str, Any], text: str, reader: TableReader) -> CompiledMapping:
    source = _header(data, reader)
    zone_name = reader.text(data, "timezone", "", "UTC")
    zone = _zone(zone_name, reader)
    expressions = Expressions(reader, zone)
    identity, region = _identity(reader.table(data, "identity", ""), reader, expressions)
    events = reader.table(data, "events", "")
    reader.check_keys(events, "events", KEYWORDS["events"])
    prefix = reader.text(events, "prefix", "events")
    unknown = reader.choice(events, "unknown", "events", ("pass", "drop", "dead-letter"), "pass")
    attach = reader.flag(events, "attach_profile", "events", True)
    metrics = reader.table(events, "metrics", "events")
    rules = compile_rules(metrics, prefix, reader, expressions)
    profile = reader.table(data, "profile", "")
    reader.check_keys(profile, "profile", KEYWORDS["profile"])
    compiler = ProfileCompiler(reader, expressions, zone, rules)
    attributes = compiler.attributes(reader.table(profile, "attributes", "profile"))
    fields = compiler.fields(reader.table(profile, "fields", "profile"))
    return CompiledMapping(
        text=text,
        version=_version(data),
        source=source,
        timezone=zone_name,
        prefix=prefix,
        unknown=cast(UnknownPolicy, unknown),
        attach_profile=attach,
        rules=rules,
        email=identity["email"],
        external_id=identity["external_id"],
        phone_number=identity["phone_number"],
        default_region=region,
        fields=fields,
        attributes=attributes,
        reads=frozenset(compiler.paths),
        event_sourced=frozenset(
            key for field in fields for key in (*field.trusted, *field.event_values)
        ),
    )


def _header(data: dict[str, Any], reader: TableReader) -> str:
    """The source."""
    reader.check_keys(data, "", KEYWORDS[""])
    if "extends" in data:
        reader.wrong("extends", data["extends"], "only in a mapping file, not in its stored text")
    version = data.get("version")
    if type(version) is not int or version != 1:
        reader.wrong("version", version, "1")
    source = reader.text(data, "source", "")
    if not source.strip():
        reader.wrong("source", data.get("source"), "the platform's name")
    return source


def _zone(name: str, reader: TableReader) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        reader.wrong("timezone", name, 'an IANA name such as "Europe/Madrid"')
        return ZoneInfo("UTC")


def _identity(
    table: dict[str, Any], reader: TableReader, expressions: Expressions
) -> tuple[dict[str, tuple[Getter, ...]], str]:
    """The getters of each identifier, and the default region."""
    reader.check_keys(table, "identity", KEYWORDS["identity"])
    found: dict[str, tuple[Getter, ...]] = {}
    paths = 0
    for word, default in (("email", ("email",)), ("external_id", ()), ("phone_number", ())):
        items = reader.items(table, word, "identity", default)
        paths += len(items)
        compiled = [
            expressions.compile(item, f"{child_path('identity', word)}[{n}]")
            for n, item in enumerate(items)
        ]
        found[word] = tuple(item.as_getter() for item in compiled if item is not None)
    if not paths:
        reader.fault("identity", "found no path at all, allowed: at least one, best email")
    region = reader.text(table, "default_region", "identity")
    shaped = re.fullmatch("[A-Z]{2}", region) is not None
    # The metadata of phone numbers is large: it is loaded only where phone numbers are sent.
    if region and not (shaped and (not found["phone_number"] or known_region(region))):
        reader.wrong("identity.default_region", region, 'two capitals such as "ES", or ""')
    return found, region


def _version(data: dict[str, Any]) -> str:
    # A hash of the parsed tables, not of the text: a comment or a space changes nothing.
    words = json.dumps(data, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(words.encode()).hexdigest()[:12]
