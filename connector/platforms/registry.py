"""The installed platforms: entry-point group `connector.platforms`, or `pkg.module:NAME`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from pydantic import BaseModel

from connector.domain.errors import ConfigError, ConnectorError, Problem
from connector.ports import Platform
from connector.ports.platform import API_VERSION
from connector.runtime.log import redact

ENTRY_POINT_GROUP = "connector.platforms"


@contextmanager
def isolate_platform(source: str) -> Iterator[None]:
    """Around a platform's own code: an exception stops its connections only. Raises ConfigError."""
    try:
        yield
    except ConnectorError:
        raise
    except Exception as error:
        raise _broken_plugin(f"platform `{source}` fails: {redact(repr(error))}") from error


def _broken_plugin(fault: str) -> ConfigError:
    effect = "its connections do not run until its package is fixed or updated"
    return ConfigError([f"{fault}; {effect}"], Problem.PLUGIN_BROKEN)


def load(source: str, settings: Any = None) -> Platform:
    """The platform of a `source`, for its validated settings.

    Raises ConfigError if it is unknown, and with PLUGIN_BROKEN if it does not import or was written
    for another version of connector.sdk.
    """
    if ":" in source:
        module, _, name = source.partition(":")
        entry_point = EntryPoint(name=source, value=f"{module}:{name}", group=ENTRY_POINT_GROUP)
    else:
        found = installed().get(source)
        if found is None:
            raise ConfigError([f"no platform `{source}` is installed; there are: {names()}"])
        entry_point = found
    try:
        platform = entry_point.load()
    except Exception as error:
        raise _broken_plugin(f"platform `{source}` does not import: {error!r}") from error
    if not isinstance(platform, Platform):
        raise _broken_plugin(f"platform `{source}` is not a connector.sdk.Platform")
    if platform.api_version != API_VERSION:
        versions = f"version {platform.api_version} of connector.sdk, and this is {API_VERSION}"
        raise _broken_plugin(f"platform `{source}` is written for {versions}")
    if platform.for_settings is None or not isinstance(settings, platform.settings):
        return platform
    with isolate_platform(source):
        return platform.for_settings(settings)


@cache
def installed() -> dict[str, EntryPoint]:
    """The platforms by name, not yet loaded. Looked up once: that reads the metadata of every
    installed package, and a process keeps the modules that it has imported anyway."""
    return {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}


def names() -> str:
    return ", ".join(sorted(installed())) or "none"


class SettingsModels(Mapping[str, type[BaseModel] | None]):
    """Source → settings model, each imported only when a connection uses it; None for a package
    that is broken, which is not a fault of the file."""

    def __getitem__(self, source: str) -> type[BaseModel] | None:
        try:
            return load(source).settings
        except ConfigError as error:
            if error.problem is Problem.PLUGIN_BROKEN:
                return None
            raise KeyError(str(error)) from error

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(installed()))

    def __len__(self) -> int:
        return len(installed())
