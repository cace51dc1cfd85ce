"""The parts of a compiled mapping: frozen, with compiled functions."""

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
    """`[events.metrics."…"]`: `key` is the event's name in the file, `metric` the one at Klaviyo,
    prefix included. `event_adds` are filled from the event, `person_adds` from a fresh person view,
    if there is one."""

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
    """One entry of `from`. `required`: for each of its paths, the fields of the view of which one
    must be covered for a missing value to mean "no value"."""

    get: Getter
    required: tuple[frozenset[str], ...]

    def covered(self, covers: frozenset[str]) -> bool:
        return all(not covers.isdisjoint(fields) for fields in self.required)


@dataclass(frozen=True, slots=True)
class Field:
    """An enabled `[profile.fields.…]` or `[profile.attributes.…]`. The keys of `trusted` and
    `event_values` are the event's key in the file, in lower case."""

    name: str
    sources: tuple[FieldSource, ...]
    convert: Converter
    unset: bool
    trusted: Mapping[str, Getter]
    event_values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Identity:
    """A person's identifiers at Klaviyo: `email`, `phone_number`, `external_id`, if known. `notes`
    name those that were left out because they are not valid."""

    values: Mapping[str, str]
    notes: tuple[str, ...] = ()
