"""What a compiled mapping consists of. All of it is frozen and holds ready-made functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from connector.mapping.paths import Getter
from connector.mapping.types import Converter

UnknownPolicy = Literal["pass", "drop", "dead-letter"]
PairGetter: TypeAlias = Callable[[Any, Any], Any]  # (event view, fresh person view) -> value


@dataclass(frozen=True, slots=True)
class EventRule:
    """`[events.metrics."…"]`: `key` is the event's name in the file, `metric` Klaviyo's, prefix
    included. `own` is filled from the event, `person` only where a fresh person view is at hand."""

    key: str
    metric: str
    aliases: tuple[str, ...] = ()
    enabled: bool = True
    refresh: bool = True
    value: PairGetter | None = None
    value_needs_person: bool = False
    event_adds: tuple[tuple[str, Getter], ...] = ()
    person_adds: tuple[tuple[str, PairGetter], ...] = ()


@dataclass(frozen=True, slots=True)
class FieldSource:
    """One entry of `from`. `needs`: for each path in it, the view words of which one must be
    covered for the absence of a value to mean anything."""

    get: Getter
    required: tuple[frozenset[str], ...]

    def covered(self, covers: frozenset[str]) -> bool:
        return all(not covers.isdisjoint(words) for words in self.required)


@dataclass(frozen=True, slots=True)
class Field:
    """An enabled `[profile.fields.…]` or `[profile.attributes.…]`. `trusted` and `moments` go by
    the event's key in the file, without case."""

    name: str
    sources: tuple[FieldSource, ...]
    convert: Converter
    unset: bool
    trusted: Mapping[str, Getter]
    event_values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Identity:
    """Who the person is at Klaviyo: `email`, `phone_number`, `external_id`, those there are."""

    values: Mapping[str, str]
    notes: tuple[str, ...] = ()
