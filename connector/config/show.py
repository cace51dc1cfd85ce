"""The configuration in effect as TOML, without secrets."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import tomli_w
from pydantic import BaseModel

from connector.config.faults import without_password
from connector.config.models import Config
from connector.config.overrides import Override

# What pydantic writes for a SecretStr that is not empty.
_MASK = "*" * 10


def show(config: Config) -> str:
    """TOML with secrets and passwords in URLs as `***`, durations with units.

    Settings without a model are masked completely: which of them are secret is unknown. Comments
    name what was set at run time.
    """
    tree = config.model_dump(mode="json", exclude={"connections": {"__all__": {"settings"}}})
    for shown, connection in zip(tree["connections"], config.connections, strict=True):
        if isinstance(connection.settings, BaseModel):
            shown["settings"] = connection.settings.model_dump(mode="json")
        else:
            shown["settings"] = _masked(connection.settings)
    return _origins(config) + tomli_w.dumps(_clean(tree))


def _origins(config: Config) -> str:
    """Comments: which keys were set at run time, and which of those a file overrules."""
    if config._loaded is None:
        return ""
    applied = config._loaded.applied
    parts = (
        ("Set at run time, below the files:", applied.effective, False),
        ("Mapping entries set at run time, above the mapping file:", applied.effective, True),
        ("Set at run time without effect, because a file sets the key:", applied.overruled, False),
    )
    lines: list[str] = []
    for title, overrides, in_mapping in parts:
        found = [o for o in overrides if (o.key[0] == "mapping") == in_mapping]
        if found:
            lines += [title, *(f"  connections.{o.connection}.{_described(o)}" for o in found)]
    return "".join(f"# {line}\n" for line in lines)


def _described(override: Override) -> str:
    at = datetime.fromtimestamp(override.at / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
    value = f" = {str(override.value).lower()}" if override.key[0] == "mapping" else ""
    return f"{override.dotted}{value} ({override.by}, {at})"


def _clean(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _clean(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_clean(item) for item in value]
    if isinstance(value, str):
        return "***" if value == _MASK else without_password(value)
    return value


def _masked(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _masked(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_masked(item) for item in value]
    return "***" if isinstance(value, str) else value
