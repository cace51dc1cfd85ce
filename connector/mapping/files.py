"""Reads mapping files, each merged with the file that it extends."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import tomli_w

from connector.domain.errors import ConfigError, Problem
from connector.mapping.compile import compile_mapping, parse_toml
from connector.mapping.render import CompiledMapping
from connector.mapping.table_reader import quote

_OPEN_TABLES = (("events",), ("events", "metrics"))
"""Tables, and what leads to them, whose entries need not be in the file."""
_KEPT = 128
"""Files that are parsed and compiled once, however many connections use them."""


@dataclass(frozen=True)
class MappingFile:
    """A mapping and the file that it was read from."""

    path: Path
    mapping: CompiledMapping


def load(path: Path, changes: Mapping[str, Any] | None = None) -> MappingFile:
    """Reads and compiles a mapping file. The text and the version of the mapping cover the files
    that it extends, so that it can be compiled again without them. `changes` are tables that lie
    above the file; of those, an entry that the file does not have is left out, unless it is a
    metric: it names an event that the file does not have.

    Raises ConfigError with every fault of the file, also when it cannot be read.
    """
    mapping = _load(path, ())
    if changes:
        base = _tables(mapping.text, str(path))
        text = tomli_w.dumps(merge(base, known_entries(base, changes)))
        mapping = compiled(text, str(path))
    return MappingFile(path, mapping)


def entries(mapping: CompiledMapping, *tables: str) -> list[str]:
    """The names in a table of a mapping, such as `profile`, `fields`."""
    table: Any = tomllib.loads(mapping.text)
    for name in tables:
        table = table.get(name, {})
    return list(table)


def known_entries(
    base: Mapping[str, Any], changes: Mapping[str, Any], where: tuple[str, ...] = ()
) -> dict[str, Any]:
    """The tables of `changes` that `base` has as well, with all their values, and all metrics."""
    found: dict[str, Any] = {}
    for key, value in changes.items():
        known = base.get(key, {} if (*where, key)[:2] in _OPEN_TABLES else None)
        if not isinstance(value, dict):
            found[key] = value
        elif isinstance(known, dict):
            found[key] = known_entries(known, value, (*where, key))
    return found


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The tables of `base` with those of `changes` merged in, key by key at every depth. Any other
    value of `changes`, a list too, replaces the one of `base`."""
    merged = dict(base)
    for key, value in changes.items():
        known = merged.get(key)
        if isinstance(known, dict) and isinstance(value, dict):
            value = merge(known, value)
        merged[key] = value
    return merged


def _load(path: Path, children: tuple[Path, ...]) -> CompiledMapping:
    """`children` are the files that lead to this one through `extends`."""
    text = _read(path, children)
    data = {**_tables(text, str(path))}
    if "extends" not in data:
        return compiled(text, str(path))
    parent = _parent(path, data.pop("extends"), children)
    base = _tables(_load(parent, (*children, path)).text, str(parent))
    faults = [
        f"{path}: {key}: found {quote(data[key])}, allowed: {quote(base[key])}, as in {parent}, "
        "which it extends"
        for key in ("version", "source")
        if key in data and data[key] != base[key]
    ]
    if faults:
        raise ConfigError(faults, Problem.MAPPING_FAULTY)
    return compiled(tomli_w.dumps(merge(base, data)), str(path))


@lru_cache(maxsize=_KEPT)
def _tables(text: str, origin: str) -> Mapping[str, Any]:
    """`parse_toml`, which takes longer than to compile, and is asked for as often. Not to be
    changed."""
    return parse_toml(text, origin=origin)


@lru_cache(maxsize=_KEPT)
def compiled(text: str, origin: str) -> CompiledMapping:
    """`compile_mapping`, which several connections ask for with the same file, and each of them
    again when its account is known."""
    return compile_mapping(text, origin=origin)


def _parent(path: Path, name: Any, children: tuple[Path, ...]) -> Path:
    if not isinstance(name, str) or not name.strip():
        fault = f"found {quote(name)}, allowed: a mapping file, relative to this one's folder"
        raise ConfigError([f"{path}: extends: {fault}"], Problem.MAPPING_FAULTY)
    parent = path.parent / name
    if parent.resolve() in {file.resolve() for file in (*children, path)}:
        fault = f"found {parent}, which extends this file in turn; allowed: no circle of files"
        raise ConfigError([f"{path}: extends: {fault}"], Problem.MAPPING_FAULTY)
    return parent


def _read(path: Path, children: tuple[Path, ...]) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        where = f"{children[-1]}: extends: " if children else ""
        fault = f"{where}{path}: cannot be read: {reason}"
        raise ConfigError([fault], Problem.MAPPING_FAULTY) from error
