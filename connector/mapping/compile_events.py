"""Compiles `[events.metrics]`: a rule per event."""

from __future__ import annotations

from typing import Any

from connector.mapping.expressions import Expressions
from connector.mapping.paths import Getter
from connector.mapping.rules import EventRule, PairGetter
from connector.mapping.table_reader import TableReader, child_path
from connector.mapping.vocabulary import KEYWORDS, METRIC_NAME_LIMIT


def compile_rules(
    table: dict[str, Any], prefix: str, reader: TableReader, expressions: Expressions
) -> dict[str, EventRule]:
    """The rules by the event's name in the file, and by every name and alias in lower case."""
    rules = {
        key: _rule(key, reader.table(table, key, "events.metrics"), prefix, reader, expressions)
        for key in table
    }
    owners: dict[str, str] = {}
    for key in table:
        owners.setdefault(key.strip().casefold(), key)
    by_name = dict(rules)
    for rule in rules.values():
        for name in (rule.key, *rule.aliases):
            folded = name.strip().casefold()
            owner = owners.setdefault(folded, rule.key)
            if owner == rule.key:
                by_name[folded] = rule
                continue
            reader.fault(
                child_path("events.metrics", rule.key),
                f'found the name "{name}", which "{owner}" has already; '
                "allowed: each name once, whatever its case",
            )
    return by_name


def _rule(
    key: str, table: dict[str, Any], prefix: str, reader: TableReader, expressions: Expressions
) -> EventRule:
    where = child_path("events.metrics", key)
    reader.check_keys(table, where, KEYWORDS["events.metrics"])
    metric = prefix + reader.text(table, "name", where, key)
    if not metric.strip() or len(metric) >= METRIC_NAME_LIMIT:
        reader.fault(
            child_path(where, "name"),
            f"found {len(metric)} characters (prefix included), "
            f"allowed: 1 to {METRIC_NAME_LIMIT - 1}",
        )
    value = None
    if "value" in table:
        value = expressions.compile(table["value"], child_path(where, "value"))
    event_adds: list[tuple[str, Getter]] = []
    person_adds: list[tuple[str, PairGetter]] = []
    for name, item in reader.table(table, "add", where).items():
        expression = expressions.compile(item, child_path(child_path(where, "add"), name))
        if expression is not None and expression.needs_person:
            person_adds.append((name, expression.get))
        elif expression is not None:
            event_adds.append((name, expression.as_getter()))
    return EventRule(
        key=key,
        metric=metric,
        aliases=tuple(reader.texts(table, "aliases", where)),
        enabled=reader.flag(table, "enabled", where, True),
        refresh=reader.flag(table, "refresh", where, True),
        value=value.get if value else None,
        value_needs_person=bool(value and value.needs_person),
        event_adds=tuple(event_adds),
        person_adds=tuple(person_adds),
    )
