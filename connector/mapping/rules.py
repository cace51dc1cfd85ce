"""What a compiled mapping consists of. All of it is frozen and holds ready-made functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from connector.mapping.paths import Getter
from connector.mapping.types import Converter

Unknown = Literal["pass", "drop", "dead-letter"]
Pair: TypeAlias = Callable[[Any, Any], Any]  # (event view, fresh person view) -> value


@dataclass(frozen=True, slots=True)
class EventRule:
    """`[events.metrics."…"]`: `key` is the event's name in the file, `metric` Klaviyo's, prefix
    included. `own` is filled from the event, `person` only where a fresh person view is at hand."""

    key: str
    metric: str
    aliases: tuple[str, ...] = ()
    enabled: bool = True
    refresh: bool = True
    value: Pair | None = None
    value_of_person: bool = False
    own: tuple[tuple[str, Getter], ...] = ()
    person: tuple[tuple[str, Pair], ...] = ()


@dataclass(frozen=True, slots=True)
class Reading:
    """One entry of `from`. `needs`: for each path in it, the view words of which one must be
    covered for the absence of a value to mean anything."""

    get: Getter
    needs: tuple[frozenset[str], ...]

    def covered(self, covers: frozenset[str]) -> bool:
        return all(not covers.isdisjoint(words) for words in self.needs)


@dataclass(frozen=True, slots=True)
class Field:
    """An enabled `[profile.fields.…]` or `[profile.attributes.…]`. `trusted` and `moments` go by
    the event's key in the file, without case."""

    name: str
    readings: tuple[Reading, ...]
    convert: Converter
    unset: bool
    trusted: Mapping[str, Getter]
    moments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Identity:
    """Who the person is at Klaviyo: `email`, `phone_number`, `external_id`, those there are."""

    values: Mapping[str, str]
    notes: tuple[str, ...] = ()
