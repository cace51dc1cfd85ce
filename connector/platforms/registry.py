"""Which platforms are installed. Entry-point group `connector.platforms`, or `pkg.module:NAME`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from pydantic import BaseModel

from connector.domain.errors import ConfigError, ConnectorError, Problem
from connector.ports import Platform
from connector.runtime.log import redact

ENTRY_POINT_GROUP = "connector.platforms"
API_VERSION = 1


@contextmanager
def isolate_platform(source: str) -> Iterator[None]:
    """Around a platform's own code: whatever it raises stops its connections only."""
    try:
        yield
    except ConnectorError:
        raise
    except Exception as error:
        raise _broken_plugin(f"platform `{source}` fails: {redact(repr(error))}") from error


def _broken_plugin(fault: str) -> ConfigError:
    return ConfigError([fault], Problem.PLUGIN_BROKEN)


def load(source: str, settings: Any = None) -> Platform:
    """The platform of a `source`, as its validated settings shape it.

    Raises ConfigError when it is unknown, and with PLUGIN_BROKEN when it does not import or was
    written for another version of this interface.
    """
    if ":" in source:
        module, _, name = source.partition(":")
        entry_point = EntryPoint(name=source, value=f"{module}:{name}", group=ENTRY_POINT_GROUP)
    else:
        found = entry_points(group=ENTRY_POINT_GROUP, name=source)
        if not found:
            raise ConfigError([f"no platform `{source}` is installed; there are: {names()}"])
        entry_point = next(iter(found))
    try:
        platform = entry_point.load()
    except Exception as error:
        raise _broken_plugin(f"platform `{source}` does not import: {error!r}") from error
    if not isinstance(platform, Platform) or platform.api_version != API_VERSION:
        raise _broken_plugin(f"platform `{source}` is not written for interface {API_VERSION}")
    if platform.for_settings is None or not isinstance(settings, platform.settings):
        return platform
    with isolate_platform(source):
        return platform.for_settings(settings)


def names() -> str:
    return (
        ", ".join(
            sorted({entry_point.name for entry_point in entry_points(group=ENTRY_POINT_GROUP)})
        )
        or "none"
    )


class SettingsModels(Mapping[str, type[BaseModel] | None]):
    """Source → settings model, each imported only when a connection asks for it; None for a
    package that is broken, which is no fault of the file."""

    def __getitem__(self, source: str) -> type[BaseModel] | None:
        try:
            return load(source).settings
        except ConfigError as error:
            if error.problem is Problem.PLUGIN_BROKEN:
                return None
            raise KeyError(str(error)) from error

    def __iter__(self) -> Iterator[str]:
        return iter(
            sorted({entry_point.name for entry_point in entry_points(group=ENTRY_POINT_GROUP)})
        )

    def __len__(self) -> int:
        return len(list(iter(self)))
