"""Which platforms are installed. Entry-point group `connector.platforms`, or `pkg.module:NAME`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from pydantic import BaseModel

from connector.errors import ConfigError
from connector.ports import Platform

GROUP = "connector.platforms"
API_VERSION = 1


def load(source: str, settings: Any = None) -> Platform:
    """The platform of a `source`, as its validated settings shape it.

    Raises ConfigError when it is unknown, does not import, or was written for another version of
    this interface.
    """
    if ":" in source:
        module, _, name = source.partition(":")
        point = EntryPoint(name=source, value=f"{module}:{name}", group=GROUP)
    else:
        found = entry_points(group=GROUP, name=source)
        if not found:
            raise ConfigError([f"no platform `{source}` is installed; there are: {names()}"])
        point = next(iter(found))
    try:
        platform = point.load()
    except Exception as error:
        # Whatever a plug-in does on import stops its own connections only.
        raise ConfigError([f"platform `{source}` does not import: {error!r}"]) from error
    if not isinstance(platform, Platform) or platform.api_version != API_VERSION:
        raise ConfigError([f"platform `{source}` is not written for interface {API_VERSION}"])
    if platform.shape is not None and isinstance(settings, platform.settings):
        return platform.shape(settings)
    return platform


def shaped_views(platform: Platform) -> Callable[[Any], tuple[Any, Any]] | None:
    """Of the settings that a mapping example holds, the views of the platform that they describe;
    None where settings decide nothing. Settings that cannot be used raise ValueError."""
    shape = platform.shape
    if shape is None:
        return None

    def views(settings: Any) -> tuple[Any, Any]:
        shaped = shape(platform.settings.model_validate(settings))
        return shaped.event_view, shaped.person_view

    return views


def names() -> str:
    return ", ".join(sorted({point.name for point in entry_points(group=GROUP)})) or "none"


class SettingsModels(Mapping[str, type[BaseModel]]):
    """Source → settings model, each imported only when a connection asks for it."""

    def __getitem__(self, source: str) -> type[BaseModel]:
        try:
            return load(source).settings
        except ConfigError as error:
            raise KeyError(str(error)) from error

    def __iter__(self) -> Iterator[str]:
        return iter(sorted({point.name for point in entry_points(group=GROUP)}))

    def __len__(self) -> int:
        return len(list(iter(self)))
