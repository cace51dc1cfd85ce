"""The configuration in effect as TOML, without secrets."""

from __future__ import annotations

from typing import Any

import tomli_w
from pydantic import BaseModel

from connector.config.faults import without_password
from connector.config.models import Config

# What pydantic writes for a SecretStr that is not empty.
_MASK = "*" * 10


def show(config: Config) -> str:
    """TOML with secrets and passwords in URLs as `***`, durations with units.

    Settings without a model are masked completely: which of them are secret is unknown.
    """
    tree = config.model_dump(mode="json", exclude={"connections": {"__all__": {"settings"}}})
    for shown, connection in zip(tree["connections"], config.connections, strict=True):
        if isinstance(connection.settings, BaseModel):
            shown["settings"] = connection.settings.model_dump(mode="json")
        else:
            shown["settings"] = _masked(connection.settings)
    return tomli_w.dumps(_clean(tree))


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
