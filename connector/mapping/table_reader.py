"""Reads typed values out of parsed TOML and collects every fault instead of stopping at one."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_ABSENT = object()


def child_path(where: str, key: str) -> str:
    """The path of `key` in the table at `where`, as TOML writes it."""
    name = key if _BARE.fullmatch(key) else json.dumps(key, ensure_ascii=False)
    return f"{where}.{name}" if where else name


def quote(value: Any) -> str:
    """A value as a fault quotes it: JSON of at most 60 characters."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "…"


class TableReader:
    """Every fault becomes a line in `faults`. Every method returns a usable value even after a
    fault, so that one pass finds them all."""

    def __init__(self, origin: str) -> None:
        self.faults: list[str] = []
        self.broken = 0
        """How many of these faults are a package's and not the file's."""
        self._origin = f"{origin}: " if origin else ""

    def fault(self, where: str, text: str) -> None:
        self.faults.append(f"{self._origin}{where}: {text}" if where else f"{self._origin}{text}")

    def wrong(self, where: str, found: Any, allowed: str) -> None:
        self.fault(where, f"found {quote(found)}, allowed: {allowed}")

    def check_keys(self, table: dict[str, Any], where: str, allowed: Sequence[str]) -> None:
        """Every key must be one of `allowed`."""
        for key in table:
            if key not in allowed:
                near = get_close_matches(key, allowed, 1)
                hint = f'; did you mean "{near[0]}"?' if near else ""
                self.fault(
                    child_path(where, key), f"unknown word, allowed: {', '.join(allowed)}{hint}"
                )

    def table(self, parent: dict[str, Any], key: str, where: str) -> dict[str, Any]:
        value = parent.get(key, {})
        if isinstance(value, dict):
            return value
        self.wrong(child_path(where, key), value, "a table")
        return {}

    def text(self, table: dict[str, Any], key: str, where: str, default: str = "") -> str:
        value = table.get(key, default)
        if isinstance(value, str):
            return value
        self.wrong(child_path(where, key), value, "a text")
        return default

    def flag(self, table: dict[str, Any], key: str, where: str, default: bool) -> bool:
        value = table.get(key, default)
        if isinstance(value, bool):
            return value
        self.wrong(child_path(where, key), value, "true, false")
        return default

    def choice(
        self, table: dict[str, Any], key: str, where: str, allowed: Sequence[str], default: str
    ) -> str:
        value = table.get(key, _ABSENT)
        if value is _ABSENT:
            return default
        if isinstance(value, str) and value in allowed:
            return value
        near = get_close_matches(value, allowed, 1) if isinstance(value, str) else []
        hint = f'; did you mean "{near[0]}"?' if near else ""
        self.wrong(child_path(where, key), value, ", ".join(allowed) + hint)
        return default

    def items(self, table: dict[str, Any], key: str, where: str, default: Sequence[Any]) -> Any:
        """A list; one text or one inline table is a list of one."""
        value = table.get(key, _ABSENT)
        if value is _ABSENT:
            return list(default)
        if isinstance(value, str | dict):
            return [value]
        if isinstance(value, list):
            return value
        self.wrong(child_path(where, key), value, "a list")
        return list(default)

    def texts(self, table: dict[str, Any], key: str, where: str) -> list[str]:
        """A list of texts, none of them empty."""
        found = self.items(table, key, where, ())
        for n, item in enumerate(found):
            if not isinstance(item, str) or not item.strip():
                self.wrong(f"{child_path(where, key)}[{n}]", item, "a text that is not empty")
        return [item for item in found if isinstance(item, str) and item.strip()]
