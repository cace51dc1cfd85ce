"""Settings of a connection that are changed at run time and stored, below the files.

A key that a file sets is the file's: the stored value is kept and has no effect. Entries of a
mapping are the other way round: a stored value takes precedence over the mapping file.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from connector.config.connections import Actions, Connection
from connector.config.expand import escaped
from connector.config.faults import type_at
from connector.config.values import is_secret

Key = tuple[str, ...]

_BARE = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_PLAIN = frozenset(
    ("enabled", "mode", "modules", "audiences", "segments", "tiers", "rewards", "source")
)
_KLAVIYO = frozenset(("private_key", "auth"))
_MAPPING = (("events", "metrics"), ("profile", "fields"), ("profile", "attributes"))
UNSET_HINT = " (set at run time; `connector config unset "
ALLOWED = (
    "enabled, mode, modules, audiences, segments, tiers, rewards, klaviyo.private_key, "
    "klaviyo.auth, settings.NAME, actions.NAME, mapping.events.metrics.NAME.enabled, "
    "mapping.profile.fields.NAME.enabled, mapping.profile.attributes.NAME.enabled"
)


@dataclass(frozen=True, slots=True)
class Override:
    """A setting of a connection that was made at run time. `value` is as a file would have it, in
    JSON's types; `at` is in ms since 1970."""

    connection: str
    key: Key
    value: Any = field(repr=False)
    by: str = ""
    at: int = 0

    @property
    def dotted(self) -> str:
        """The key within the connection, as it is written in a file."""
        return dotted_key(self.key)


def parse_key(text: str) -> Key:
    """The parts of a dotted key; a part with a space or a dot is quoted, as in TOML. Raises
    ValueError."""
    try:
        table: Any = tomllib.loads(f"{text} = 0" if "\n" not in text else "")
    except tomllib.TOMLDecodeError:
        table = {}
    parts: list[str] = []
    while isinstance(table, dict) and len(table) == 1:
        [(part, table)] = table.items()
        parts.append(part)
    if not parts or table != 0:
        raise ValueError(f"{text!r} is no key")
    return tuple(parts)


def dotted_key(key: Key) -> str:
    return ".".join(
        part if _BARE.fullmatch(part) else json.dumps(part, ensure_ascii=False) for part in key
    )


def is_settable(key: Key) -> bool:
    """Whether this key may be set at run time."""
    match key:
        case (name,):
            return name in _PLAIN
        case ("klaviyo", name):
            return name in _KLAVIYO
        case ("settings", _):
            return True
        case ("actions", name):
            return name in Actions.model_fields
        case ("mapping", first, second, _, "enabled"):
            return (first, second) in _MAPPING
    return False


def is_secret_key(key: Key, settings: type[BaseModel] | None) -> bool:
    """Whether the value of this key is a secret. `settings` is the platform's model."""
    if key[0] == "settings":
        return settings is None or is_secret(type_at(settings, key[1:])[0])
    return is_secret(type_at(Connection, key)[0])


@dataclass(slots=True)
class Applied:
    """What became of the overrides: those in effect, those that a file overrules, and what is
    changed in the mapping of each connection."""

    effective: list[Override] = field(default_factory=list)
    overruled: list[Override] = field(default_factory=list)
    mapping: dict[str, dict[str, Any]] = field(default_factory=dict)


def apply(
    tree: dict[str, Any], overrides: Sequence[Override], name_of: Callable[[Any], str]
) -> Applied:
    """Write the overrides into the unexpanded tree of the files, where the files set nothing.
    `name_of` expands the name of a connection."""
    applied = Applied()
    connections = tree.setdefault("connections", [])
    if not isinstance(connections, list):
        return applied
    tables = {
        name_of(item.get("name")): item
        for item in connections
        if isinstance(item, dict) and isinstance(item.get("name"), str)
    }
    in_files = frozenset(tables)
    for override in sorted(overrides, key=lambda o: o.key != ("source",)):
        name, key = override.connection, override.key
        if name not in tables and key == ("source",):
            tables[name] = {"name": name}
            connections.append(tables[name])
        if name not in tables or (key == ("source",) and name in in_files):
            applied.overruled.append(override)
        elif key[0] == "mapping":
            _set(applied.mapping.setdefault(name, {}), key[1:], override.value)
            applied.effective.append(override)
        elif _set(tables[name], key, _literal(override.value)):
            applied.effective.append(override)
        else:
            applied.overruled.append(override)
    return applied


def _set(table: dict[str, Any], key: Key, value: Any) -> bool:
    """False where the table has a value there already."""
    for part in key[:-1]:
        inner = table.setdefault(part, {})
        if not isinstance(inner, dict):
            return False
        table = inner
    if key[-1] in table:
        return False
    table[key[-1]] = value
    return True


def _literal(value: Any) -> Any:
    """The value so that expansion returns it unchanged."""
    if isinstance(value, str):
        return escaped(value)
    if isinstance(value, Mapping):
        return {key: _literal(item) for key, item in value.items()}
    return [_literal(item) for item in value] if isinstance(value, list | tuple) else value
