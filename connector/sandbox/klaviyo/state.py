"""The data of the Klaviyo sandbox: profiles, metrics and events, stored compactly.

An event permanently takes about 250 bytes (for dedupe and counts); its properties are kept only for
the last `bodies` events.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson

from connector.sandbox.klaviyo.event_rules import EventIn, Group
from connector.sandbox.klaviyo.rules import EVENT_IDENTIFIERS, STANDARD, ProfileIn

_UNIQUE = ("email", "phone_number", "external_id")


@dataclass(slots=True)
class Profile:
    """A profile. `created`, `updated`: seconds since 1970. `events`: event numbers.

    `merged`: the profile that this one was merged into.
    """

    number: int
    created: float
    updated: float
    identifiers: dict[str, str] = field(default_factory=dict)
    standard: dict[str, Any] = field(default_factory=dict)
    location: dict[str, Any] = field(default_factory=dict)
    properties: dict[str, Any] = field(default_factory=dict)
    events: array[int] = field(default_factory=lambda: array("I"))
    merged: Profile | None = None

    @property
    def id(self) -> str:
        """An id in Klaviyo's format: 26 characters."""
        return f"01SANDBX{self.number:018d}"


@dataclass(frozen=True, slots=True)
class Event:
    """A recorded event. `time`: whole seconds since 1970. `properties` include `$event_id`."""

    number: int
    profile: Profile
    metric: int
    unique_id: str
    time: int
    properties: dict[str, Any]

    @property
    def id(self) -> str:
        """An id in Klaviyo's format: 11 characters."""
        return f"ev{self.number:09d}"


class Memory:
    """Profiles, metrics and events. `duplicates`: number of silently dropped repeats.
    `foreign_metrics`: (name, integration) of other integrations. `erasures`: identifiers of
    deletion requests."""

    def __init__(self, bodies: int = 100_000) -> None:
        self.profiles: list[Profile] = []
        self.metrics: dict[str, int] = {}
        self.foreign_metrics: list[tuple[str, str]] = []
        self.erasures: list[str] = []
        self.metric_created: list[float] = []
        self.duplicates = 0
        self.merges = 0
        self._index: dict[str, dict[str, Profile]] = {name: {} for name in EVENT_IDENTIFIERS}
        self._bodies = bodies
        self._properties: dict[int, str] = {}
        self._profile = array("I")
        self._metric = array("I")
        self._time = array("q")
        self._unique: list[str] = []
        self._by_unique: dict[str, int | list[int]] = {}

    def __len__(self) -> int:
        return len(self._unique)

    def find(self, given: ProfileIn) -> Profile | None:
        """The profile by its id, else by the first identifier that resolves."""
        if given.id is not None:
            return self.by_id(given.id)
        attributes = given.attributes
        for name, index in self._index.items():
            value = attributes.get(name)
            if value is not None:
                found = index.get(value.lower() if name == "email" else value)
                if found is not None:
                    return found
        return None

    def clash(self, given: ProfileIn, found: Profile | None) -> tuple[str, Profile] | None:
        """An identifier that belongs to a profile other than `found`, and that profile."""
        for name in _UNIQUE:
            value = given.attributes.get(name)
            if value is not None:
                owner = self._index[name].get(value.lower() if name == "email" else value)
                if owner is not None and owner is not found:
                    return name, owner
        patch = (given.meta.get("patch_identifiers") or {}).get("append") or {}
        for value in _list(patch.get("email")):
            owner = self.by("email", value)
            if owner is not None and owner is not found:
                return "email", owner
        return None

    def unmerged(self) -> list[Profile]:
        """All profiles that were not merged into another."""
        if not self.merges:
            return self.profiles
        return [profile for profile in self.profiles if profile.merged is None]

    def by_id(self, id: str) -> Profile | None:
        """The profile with this id; the id of a merged profile resolves to its destination."""
        digits = id[8:]
        if len(id) != 26 or id[:8] != "01SANDBX" or not digits.isdecimal():
            return None
        number = int(digits)
        if number >= len(self.profiles):
            return None
        return self.by_number(number)

    def by_number(self, number: int) -> Profile:
        """The profile with this number, or the one that it was merged into."""
        profile = self.profiles[number]
        while profile.merged is not None:
            profile = profile.merged
        return profile

    def by(self, name: str, value: str) -> Profile | None:
        """The profile with this identifier, or None."""
        return self._index[name].get(_key(name, value))

    def detach(self, name: str, value: str) -> None:
        """Make this identifier resolve to no profile. KeyError if it resolves to none already."""
        del self._index[name][_key(name, value)]

    def has_event(self, profile: Profile, metric: str, unique_id: str) -> bool:
        """Whether an event with this dedupe key was recorded."""
        number = self.metrics.get(metric)
        return any(
            self._profile[at] == profile.number and self._metric[at] == number
            for at in self._numbers(unique_id)
        )

    def apply(self, group: Group, now: float) -> None:
        """Upsert the profile, then record its events."""
        profile = self.find(group.profile) or self.create(now)
        self.update(profile, group.profile, now)
        for event in group.events:
            self._record(profile, event, now)

    def create(self, now: float) -> Profile:
        """Create an empty profile."""
        profile = Profile(len(self.profiles), now, now)
        self.profiles.append(profile)
        return profile

    def update(
        self,
        profile: Profile,
        given: ProfileIn,
        now: float,
        *,
        nulls: bool = True,
        patch: bool = True,
    ) -> None:
        """Write the given values. `nulls`: whether null clears a value. `patch`: whether the meta
        patches are applied. An identifier of another profile is not moved."""
        profile.updated = now
        attributes = given.attributes
        for name, index in self._index.items():
            if name not in attributes:
                continue
            value = attributes[name]
            before = profile.identifiers.get(name)
            if value == before or (value is None and not nulls):
                continue
            if value is None or index.setdefault(_key(name, value), profile) is profile:
                if before is not None and (
                    value is None or _key(name, value) != _key(name, before)
                ):
                    index.pop(_key(name, before), None)
                _put(profile.identifiers, name, value)
        for name in STANDARD:
            if name in attributes and (nulls or attributes[name] is not None):
                _put(profile.standard, name, attributes[name])
        if "location" in attributes:
            profile.location = _merged_values(profile.location, attributes["location"], nulls)
        if "properties" in attributes:
            profile.properties = _merged_values(profile.properties, attributes["properties"], nulls)
        if given.meta and patch:
            _patch(profile.properties, given.meta.get("patch_properties") or {})
            self._patch_emails(profile, given.meta.get("patch_identifiers") or {})

    def merge(self, source: Profile, into: Profile) -> None:
        """Merge `source` into `into`: its id resolves to `into`, its identifiers to no profile.
        `into` takes over events and the values that it lacks, except identifiers."""
        source.merged = into
        self.merges += 1
        for index in self._index.values():
            for key in [key for key, profile in index.items() if profile is source]:
                del index[key]
        for name in ("standard", "location", "properties"):
            old, new = getattr(source, name), getattr(into, name)
            new.update({key: value for key, value in old.items() if key not in new})
        for number in source.events:
            self._profile[number] = into.number
        into.events.extend(source.events)
        source.events = array("I")

    def recorded(self, unique_id: str) -> int:
        """The number of recorded events with this unique id."""
        return len(self._numbers(unique_id))

    def unique_ids(self) -> Iterator[tuple[str, int]]:
        """(unique id, number of recorded events with it) of all events until now."""
        for unique_id, at in self._by_unique.copy().items():
            yield unique_id, 1 if isinstance(at, int) else len(at)

    def with_unique_id(self, unique_id: str) -> list[Event]:
        """The recorded events with this unique id."""
        return [self.event(at) for at in self._numbers(unique_id)]

    def times(self, profile: Profile | None) -> Iterable[tuple[int, int, int]]:
        """(time, event number, metric) of one profile's events, or of all."""
        numbers: Iterable[int] = range(len(self)) if profile is None else profile.events
        return ((self._time[at], at, self._metric[at]) for at in numbers)

    def event(self, number: int) -> Event:
        """An event by its number; only with `$event_id` if its properties were dropped."""
        unique_id = self._unique[number]
        kept = self._properties.get(number)
        return Event(
            number,
            self.profiles[self._profile[number]],
            self._metric[number],
            unique_id,
            self._time[number],
            orjson.loads(kept) if kept is not None else {"$event_id": unique_id},
        )

    def _numbers(self, unique_id: str) -> list[int]:
        at = self._by_unique.get(unique_id)
        if at is None:
            return []
        return [at] if isinstance(at, int) else at

    def _patch_emails(self, profile: Profile, patch: dict[str, Any]) -> None:
        """`meta.patch_identifiers`: secondary addresses, which also resolve to the profile."""
        index = self._index["email"]
        for value in _list((patch.get("append") or {}).get("email")):
            index.setdefault(value.lower(), profile)
        for value in _list((patch.get("unappend") or {}).get("email")):
            own = profile.identifiers.get("email", "").lower()
            if value.lower() != own and index.get(value.lower()) is profile:
                del index[value.lower()]

    def _record(self, profile: Profile, event: EventIn, now: float) -> None:
        time = event.time if event.time is not None else int(now)
        # Without an id Klaviyo uses the second: two such events in one second are one.
        unique_id = event.unique_id if event.unique_id is not None else str(time)
        metric = self.metrics.get(event.metric)
        if metric is None:
            metric = self.metrics[event.metric] = len(self.metrics)
            self.metric_created.append(now)
        number = len(self._unique)
        at = self._by_unique.get(unique_id)
        if at is None:
            self._by_unique[unique_id] = number
        elif self.has_event(profile, event.metric, unique_id):
            self.duplicates += 1
            return
        elif isinstance(at, int):
            self._by_unique[unique_id] = [at, number]
        else:
            at.append(number)
        self._unique.append(unique_id)
        self._profile.append(profile.number)
        self._metric.append(metric)
        self._time.append(time)
        profile.events.append(number)
        shown: dict[str, Any] = {**event.properties, "$event_id": unique_id}
        if event.value is not None:
            shown["$value"] = event.value
        if event.currency is not None:
            shown["$value_currency"] = event.currency
        # orjson returns a 4 KB buffer; the decoded copy is only as large as the text.
        self._properties[number] = orjson.dumps(shown).decode()
        self._properties.pop(number - self._bodies, None)


def _key(name: str, value: str) -> str:
    return value.lower() if name == "email" else value


def _merged_values(
    over: dict[str, Any], values: dict[str, Any] | None, nulls: bool
) -> dict[str, Any]:
    """`over` updated with `values`."""
    if values is None:
        return {} if nulls else over
    if None not in values.values():
        if not over:
            # The values of a body are not shared, so they need not be copied.
            return values
        over.update(values)
        return over
    for key, value in values.items():
        if value is not None or nulls:
            _put(over, key, value)
    return over


def _put(holder: dict[str, Any], name: str, value: Any) -> None:
    if value is None:
        holder.pop(name, None)
    else:
        holder[name] = value


def _patch(properties: dict[str, Any], patch: dict[str, Any]) -> None:
    """`meta.patch_properties`: append, unappend, unset."""
    for name, value in (patch.get("append") or {}).items():
        properties[name] = [*_list(properties.get(name)), *_list(value)]
    for name, value in (patch.get("unappend") or {}).items():
        removed = _list(value)
        kept = [item for item in _list(properties.get(name)) if item not in removed]
        properties[name] = kept
    unset = patch.get("unset") or []
    for name in [unset] if isinstance(unset, str) else unset:
        properties.pop(name, None)


def _list(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]
