"""What the mapping makes of a view: a message, a skip or a fault."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from connector.domain.errors import Problem
from connector.domain.lanes import Millis


@dataclass(frozen=True, slots=True)
class EventMessage:
    """An event as the mapping renders it, in Klaviyo's words but not yet in its JSON.

    `identity` holds email, phone_number or external_id; `attributes` the person's fresh fields in
    the form of Klaviyo's `profile.data.attributes`. `notes` names what was left out and why.
    """

    metric: str
    unique_id: str
    occurred_at: Millis
    identity: Mapping[str, str]
    properties: Mapping[str, Any]
    value: float | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


Change: TypeAlias = tuple[Literal["set"], Any] | tuple[Literal["unset"]]


@dataclass(frozen=True, slots=True)
class ProfileMessage:
    """What a view says about a person, as the mapping's `[profile]` renders it.

    `fields` holds for each custom property at Klaviyo `("set", value)` or `("unset",)`; a property
    that is not in it stays as it is. `attributes` holds Klaviyo's own attributes to set, flat
    (`"location.city"`). `problems` has one line for each field left out because its value did
    not fit, without the value.
    """

    fields: Mapping[str, Change]
    attributes: Mapping[str, Any]
    problems: tuple[str, ...] = ()

    def attributes_to_set(self) -> dict[str, Any]:
        """Klaviyo's `profile.data.attributes` for what is to be set, without identifiers."""
        body: dict[str, Any] = {}
        for name, value in self.attributes.items():
            outer, _, inner = name.partition(".")
            if inner:
                body.setdefault(outer, {})[inner] = value
            else:
                body[name] = value
        properties = {name: change[1] for name, change in self.fields.items() if len(change) == 2}
        if properties:
            body["properties"] = properties
        return body

    def fields_to_unset(self) -> list[str]:
        """The names for Klaviyo's `meta.patch_properties.unset`."""
        return [name for name, change in self.fields.items() if change[0] == "unset"]


@dataclass(frozen=True, slots=True)
class Skip:
    """The mapping does not send this record; `reason` is a closed word for the metric's label."""

    reason: Literal["disabled", "unknown_event", "shadow", "placeholder", "restricted"]


@dataclass(frozen=True, slots=True)
class Fault:
    """The mapping cannot render this record."""

    problem: Problem
    detail: str
