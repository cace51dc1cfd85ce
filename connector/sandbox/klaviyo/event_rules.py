"""Validates bodies with events, revision 2026-10-15: returns groups or violations.

Source: the published spec and the table of ingestion limits in the docs. Guess: all violations of a
body are listed, not only the first.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from connector.sandbox.klaviyo.rules import (
    EVENT_IDENTIFIERS,
    MAX_PROPERTIES,
    PROFILE_KEYS,
    ProfileIn,
    Reader,
    Violation,
    dig,
)

MAX_EVENTS = 1_000
MAX_METRIC_CHARS = 127
MAX_UNIQUE_ID_CHARS = 255

_YEAR = 366 * 86_400
_YEAR_2000 = 946_684_800
_BULK = "/data/attributes/events-bulk-create/data"

_TIME = re.compile(
    r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d{1,9})?)?(?:Z|[+-]\d\d:?\d\d)?)?"
)
_CURRENCY = re.compile(r"[A-Z]{3}")

_BULK_EVENT_KEYS = frozenset(
    ("properties", "time", "value", "value_currency", "unique_id", "backfill", "metric")
)
_EVENT_KEYS = _BULK_EVENT_KEYS | {"profile"}


@dataclass(frozen=True, slots=True)
class EventIn:
    """A valid event. `time`: whole seconds since 1970; None: the time of receipt."""

    metric: str
    unique_id: str | None
    time: int | None
    properties: dict[str, Any]
    value: float | None
    currency: str | None
    backfill: bool
    pointer: str


@dataclass(frozen=True, slots=True)
class Group:
    """A profile and its events; the single endpoint has one event."""

    profile: ProfileIn
    events: list[EventIn]


@dataclass(slots=True)
class Parsed:
    """Groups to apply, in order; none is applied if there are violations."""

    groups: list[Group]
    violations: list[Violation]


def parse_event(body: Any, now: float) -> Parsed:
    """Parse the body of `POST /api/events`."""
    reader = EventReader(now)
    data = reader.resource(body, "", "event")
    attributes = data.get("attributes")
    if not isinstance(attributes, dict):
        if not reader.violations:
            reader.shape("/data/attributes", "'attributes' is a required field.")
        return Parsed([], reader.violations)
    event = reader.event(data, attributes, "/data", _EVENT_KEYS)
    profile = reader.profile(attributes.get("profile"), "/data/attributes/profile")
    return Parsed([Group(profile, [event])] if event and profile else [], reader.violations)


def parse_bulk(body: Any, now: float) -> Parsed:
    """Parse the body of `POST /api/event-bulk-create-jobs`. Pointers start at the group's index."""
    reader = EventReader(now)
    data = reader.resource(body, "", "event-bulk-create-job")
    entries = dig(data, "attributes", "events-bulk-create", "data")
    if not isinstance(entries, list) or not entries:
        if not reader.violations:
            reader.shape(_BULK, "A non-empty list is required.")
        return Parsed([], reader.violations)
    total = 0
    for entry in entries:
        inner = dig(entry, "attributes", "events", "data")
        total += len(inner) if isinstance(inner, list) else 0
    if total > MAX_EVENTS:
        reader.add("too_many_events", _BULK, f"At most {MAX_EVENTS} events are allowed.")
    groups = []
    for index, entry in enumerate(entries):
        group = reader.group(entry, f"{_BULK}/{index}")
        if group is not None:
            groups.append(group)
    return Parsed(groups, reader.violations)


class EventReader(Reader):
    """Collects violations while it reads one body of events."""

    def __init__(self, now: float) -> None:
        super().__init__()
        self._latest = now + _YEAR

    def group(self, entry: Any, pointer: str) -> Group | None:
        attributes = entry.get("attributes") if isinstance(entry, dict) else None
        if not isinstance(attributes, dict) or entry.get("type") != "event-bulk-create":
            self.shape(pointer, "An 'event-bulk-create' with attributes is required.")
            return None
        self.only(attributes, frozenset(("backfill", "profile", "events")), pointer)
        self._backfill(attributes, pointer)
        profile = self.profile(attributes.get("profile"), f"{pointer}/attributes/profile")
        entries = dig(attributes, "events", "data")
        if not isinstance(entries, list) or not entries:
            self.shape(f"{pointer}/attributes/events/data", "A non-empty list is required.")
            return None
        events = []
        for index, data in enumerate(entries):
            place = f"{pointer}/attributes/events/data/{index}"
            inner = data.get("attributes") if isinstance(data, dict) else None
            if not isinstance(inner, dict) or data.get("type") != "event":
                self.shape(place, "An 'event' with attributes is required.")
                continue
            event = self.event(data, inner, place, _BULK_EVENT_KEYS)
            if event is not None:
                events.append(event)
        return Group(profile, events) if profile else None

    def event(
        self, data: dict[str, Any], attributes: dict[str, Any], place: str, known: frozenset[str]
    ) -> EventIn | None:
        before = len(self.violations)
        pointer = f"{place}/attributes"
        if "unique_id" in data:
            self.add(
                "unique_id_misplaced", f"{place}/unique_id", "'unique_id' belongs in 'attributes'."
            )
        self.only(attributes, known, place)
        properties = attributes.get("properties")
        if not isinstance(properties, dict):
            self.add(
                "properties_missing", f"{pointer}/properties", "'properties' is a required field."
            )
        else:
            if len(properties) > MAX_PROPERTIES:
                self.add(
                    "too_many_properties",
                    f"{pointer}/properties",
                    f"At most {MAX_PROPERTIES} properties are allowed.",
                )
            self.values(properties, f"{pointer}/properties", 1)
        metric = dig(attributes, "metric", "data", "attributes", "name")
        if not isinstance(metric, str) or not 1 <= len(metric) <= MAX_METRIC_CHARS:
            self.add(
                "metric_name",
                f"{pointer}/metric/data/attributes/name",
                "A metric name of 1 to 127 characters is required.",
            )
        unique_id = attributes.get("unique_id")
        if unique_id is not None and (
            not isinstance(unique_id, str) or not 1 <= len(unique_id) <= MAX_UNIQUE_ID_CHARS
        ):
            self.add(
                "unique_id_length",
                f"{pointer}/unique_id",
                "A unique_id is a string of 1 to 255 characters.",
            )
        time = self._time(attributes.get("time"), f"{pointer}/time")
        value, currency = self._value(attributes, pointer)
        backfill = self._backfill(attributes, place)
        if len(self.violations) > before or not isinstance(properties, dict):
            return None
        return EventIn(metric, unique_id, time, properties, value, currency, backfill, place)

    def profile(self, holder: Any, pointer: str) -> ProfileIn | None:
        before = len(self.violations)
        data = self.resource(holder, pointer, "profile")
        if len(self.violations) > before:
            return None
        return self.person(data, f"{pointer}/data", PROFILE_KEYS, EVENT_IDENTIFIERS)

    def _time(self, given: Any, pointer: str) -> int | None:
        if given is None:
            return None
        parsed = None
        if isinstance(given, str) and _TIME.fullmatch(given):
            try:
                parsed = datetime.fromisoformat(given)
            except ValueError:
                parsed = None
        if parsed is None:
            self.add("time_invalid", pointer, "A date and time in ISO 8601 is required.")
            return None
        if parsed.tzinfo is None:
            parsed = parsed.replace(tzinfo=UTC)
        seconds = parsed.timestamp()
        if not _YEAR_2000 <= seconds <= self._latest:
            self.add(
                "time_out_of_range",
                pointer,
                "The time must be after the year 2000 and at most 1 year in the future.",
            )
        return int(seconds)

    def _value(self, attributes: dict[str, Any], pointer: str) -> tuple[float | None, str | None]:
        value = attributes.get("value")
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            self.add("value_invalid", f"{pointer}/value", "A number is required.")
            value = None
        currency = attributes.get("value_currency")
        if currency is not None and not (
            isinstance(currency, str) and _CURRENCY.fullmatch(currency)
        ):
            self.add(
                "currency_invalid", f"{pointer}/value_currency", "An ISO 4217 code is required."
            )
        return value, currency

    def _backfill(self, attributes: dict[str, Any], place: str) -> bool:
        backfill = attributes.get("backfill")
        if backfill is not None and not isinstance(backfill, bool):
            self.shape(f"{place}/attributes/backfill", "A boolean is required.")
        return backfill is True
