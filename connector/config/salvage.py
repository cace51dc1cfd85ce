"""What is still usable of a faulty configuration: where the store and the daemon are.

A typo in one connection must not stop a person from reading the status at night. Commands about a
running daemon need two sections only, and those are read even where the rest of the file is not
valid TOML.
"""

from __future__ import annotations

import glob
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from connector.config.expand import Expander
from connector.config.faults import Faults
from connector.config.files import environment
from connector.config.load import config_path, load_sections
from connector.config.models import Config
from connector.domain.errors import ConfigError

_SECTIONS = ("store", "server", "log")
_HEADER = re.compile(r"^\s*\[", re.MULTILINE)


def salvage(
    path: Path | None, error: ConfigError, environ: Mapping[str, str] | None = None
) -> Config:
    """The sections store, server and log of the faulty file, and no connections. `faults` of the
    result are those of `error`.

    Raises `error` where the file does not exist, or where its store section is faulty too: the
    default would be another store.
    """
    real = os.environ if environ is None else environ
    path = config_path(path, real)
    if not path.exists():
        raise error
    faults = Faults()
    try:
        variables: Mapping[str, str] = environment(path.parent, real)
    except ConfigError:
        variables = real
    tree, unreadable = _sections(path)
    if "store" in unreadable:
        raise error
    config = load_sections(tree, path, Expander(variables), faults)
    if config is None or any(line.startswith("store") for line in faults.lines(tree)):
        raise error
    config._faults = error.faults
    return config


def _sections(path: Path) -> tuple[dict[str, Any], set[str]]:
    """The wanted tables of the file and its usual includes, and those that are not valid TOML."""
    tree: dict[str, Any] = {}
    unreadable: set[str] = set()
    files = [path, *map(Path, sorted(glob.glob(str(path.parent / "connections.d" / "*.toml"))))]
    for file in files:
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, ValueError):
            if file is path:
                unreadable.add("store")
            continue
        for name, table in _chunks(text):
            if table is None:
                unreadable.add(name)
            else:
                tree[name] = {**tree.get(name, {}), **table}
    return tree, unreadable


def _chunks(text: str) -> Iterator[tuple[str, dict[str, Any] | None]]:
    """(name, content) of each wanted table, parsed by itself; None where it is not valid TOML."""
    starts = [match.start() for match in _HEADER.finditer(text)]
    for start, end in zip(starts, [*starts[1:], len(text)], strict=True):
        chunk = text[start:end]
        name = chunk.strip().splitlines()[0].partition("#")[0].strip().strip("[] ")
        if name not in _SECTIONS:
            continue
        try:
            yield name, tomllib.loads(chunk)[name]
        except (tomllib.TOMLDecodeError, KeyError):
            yield name, None
