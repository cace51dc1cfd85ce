"""Reads connector.toml, its includes and `.env`, and merges the files into one tree."""

from __future__ import annotations

import glob
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dotenv import dotenv_values

from connector.config.expand import Expander, ExpansionError
from connector.config.faults import Faults, Loc
from connector.domain.errors import ConfigError

_LOCATION = re.compile(r" ?\(at (?:line (\d+), column (\d+)|end of document)\)$")


@dataclass(slots=True)
class MergedFiles:
    """The merged content of the files, unexpanded, and which file set which key."""

    path: Path
    tree: dict[str, Any] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    origins: dict[Loc, Path] = field(default_factory=dict)

    def folder_of(self, loc: Loc) -> Path:
        """The folder of the file that set this key, or of the main file."""
        for length in range(len(loc), 0, -1):
            if loc[:length] in self.origins:
                return self.origins[loc[:length]].parent
        return self.path.parent


def environment(folder: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """`.env` of `folder`, overridden by `environ`. Raises ConfigError if it cannot be read."""
    path = folder / ".env"
    if not path.is_file():
        return dict(environ)
    try:
        found = dotenv_values(path, interpolate=False, encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError([f"{path}: {_reason(error)}"]) from None
    return {key: value for key, value in found.items() if value is not None} | dict(environ)


def read(path: Path, expander: Expander, faults: Faults) -> MergedFiles:
    """Read the main file and its includes. Raises ConfigError for the main file."""
    if not path.exists():
        raise ConfigError(
            [
                f"{path.name}: not found in {path.parent}; create it with `connector init`, or "
                "select another file with --config or CONNECTOR_CONFIG"
            ]
        )
    merged = MergedFiles(path=path)
    main = _table(path, merged)
    if merged.unreadable:
        raise ConfigError(merged.unreadable)
    _merge(merged, main, path, faults)
    for extra in _included(main, path, expander, faults):
        table = _table(extra, merged)
        if table.pop("include", None) is not None:
            faults.add(("include",), f"found in {extra}, allowed in {path} only")
        _merge(merged, table, extra, faults)
    return merged


def _table(path: Path, merged: MergedFiles) -> dict[str, Any]:
    merged.files.append(path)
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        text = str(error)
        place = _LOCATION.search(text)
        if place is None:
            merged.unreadable.append(f"{path}: {text}")
        elif place[1] is None:
            merged.unreadable.append(f"{path}: {_end(path)}: {text[: place.start()]}")
        else:
            where = f"line {place[1]}, column {place[2]}"
            merged.unreadable.append(f"{path}: {where}: {text[: place.start()]}")
    except (OSError, ValueError) as error:
        merged.unreadable.append(f"{path}: {_reason(error)}")
    return {}


def _end(path: Path) -> str:
    lines = path.read_text(encoding="utf-8").split("\n")
    return f"line {len(lines)}, column {len(lines[-1]) + 1}"


def _reason(error: Exception) -> str:
    reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
    return f"cannot be read: {reason}"


def _included(main: dict[str, Any], path: Path, expander: Expander, faults: Faults) -> list[Path]:
    """The files that the globs match, each once, in the order of the globs, then by name."""
    patterns = main.get("include", ["connections.d/*.toml"])
    found: dict[Path, None] = {}
    for index, pattern in enumerate(patterns if isinstance(patterns, list) else []):
        if not isinstance(pattern, str):
            continue
        try:
            expanded = expander.text(pattern, path.parent)
        except ExpansionError as error:
            faults.add(("include", index), str(error))
            continue
        names = sorted(glob.glob(str(path.parent / expanded), recursive=True))
        found.update(dict.fromkeys(Path(name) for name in names if Path(name).is_file()))
    return [extra for extra in found if extra.absolute() != path]


def _merge(merged: MergedFiles, table: dict[str, Any], path: Path, faults: Faults) -> None:
    connections = table.get("connections")
    if isinstance(connections, list) and isinstance(merged.tree.get("connections", []), list):
        known = merged.tree.setdefault("connections", [])
        for item in connections:
            merged.origins["connections", len(known)] = path
            known.append(item)
        table = {key: value for key, value in table.items() if key != "connections"}
    _merge_table(merged, merged.tree, table, (), path, faults)


def _merge_table(
    merged: MergedFiles,
    into: dict[str, Any],
    table: dict[str, Any],
    prefix: Loc,
    path: Path,
    faults: Faults,
) -> None:
    for key, value in table.items():
        loc = (*prefix, key)
        if isinstance(value, dict) and isinstance(into.get(key, {}), dict):
            _merge_table(merged, into.setdefault(key, {}), value, loc, path, faults)
        elif key in into:
            first = merged.origins.get(loc, merged.path)
            faults.add(loc, f"found in {first} and in {path}, allowed in one file")
        else:
            into[key] = value
            merged.origins[loc] = path
