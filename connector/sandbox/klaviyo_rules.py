"""What Klaviyo accepts as events, revision 2026-10-15: bodies in, groups or violations out.

Source: the published spec and the table of ingestion limits in the docs. Where both differ, or a
unit is open (KB, MB), the stricter reading is taken, so that what passes here passes there.
Guesses: unknown attributes are refused; all violations of a body are listed, not only the first;
the nesting limit counts `properties` itself as level 1; what a valid e-mail address is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

MAX_EVENTS = 1_000
MAX_BYTES = 5_000_000
MAX_STRING_BYTES = 100_000
MAX_PROPERTIES = 300
MAX_ITEMS = 4_000
MAX_DEPTH = 10
MAX_METRIC_CHARS = 127
MAX_UNIQUE_ID_CHARS = 255

_YEAR = 366 * 86_400
_YEAR_2000 = 946_684_800
_BULK = "/data/attributes/events-bulk-create/data"

_EMAIL = re.compile(
    r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*"
    r"@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+(?:[A-Za-z]{2,63}|xn--[A-Za-z0-9-]{1,59})"
)
_PHONE = re.compile(r"\+[1-9][0-9]{6,14}")
_TIME = re.compile(
    r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d{1,9})?)?(?:Z|[+-]\d\d:?\d\d)?)?"
)
_CURRENCY = re.compile(r"[A-Z]{3}")

IDENTIFIERS = ("email", "phone_number", "external_id", "anonymous_id", "_kx")
STANDARD = ("first_name", "last_name", "organization", "locale", "title", "image")
_PROFILE_KEYS = frozenset((*IDENTIFIERS, *STANDARD, "location", "properties"))
_BULK_EVENT_KEYS = frozenset(
    ("properties", "time", "value", "value_currency", "unique_id", "backfill", "metric")
)
_EVENT_KEYS = _BULK_EVENT_KEYS | {"profile"}


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken rule. `name` is its counter in the sandbox, `pointer` and `detail` its answer."""

    name: str
    pointer: str
    detail: str


@dataclass(frozen=True, slots=True)
class ProfileIn:
    """A profile as an event names it. `attributes` may hold nulls: null clears."""

    id: str | None
    attributes: dict[str, Any]
    meta: dict[str, Any]
    pointer: str


@dataclass(frozen=True, slots=True)
class EventIn:
    """An event that broke no rule. `time` is in whole seconds since 1970; None: on receipt."""

    metric: str
    unique_id: str | None
    time: int | None
    properties: dict[str, Any]
    value: float | None
    backfill: bool
    pointer: str


@dataclass(frozen=True, slots=True)
class Group:
    """A profile and its events; on the single endpoint one event."""

    profile: ProfileIn
    events: list[EventIn]


@dataclass(slots=True)
class Parsed:
    """Groups to apply, in order; nothing of them counts when there are violations."""

    groups: list[Group]
    violations: list[Violation]


def parse_event(body: Any, now: float) -> Parsed:
    """The body of `POST /api/events`."""
    reader = _Reader(now)
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
    """The body of `POST /api/event-bulk-create-jobs`. A pointer's first index is the group's."""
    reader = _Reader(now)
    data = reader.resource(body, "", "event-bulk-create-job")
    entries = _dig(data, "attributes", "events-bulk-create", "data")
    if not isinstance(entries, list) or not entries:
        if not reader.violations:
            reader.shape(_BULK, "A non-empty list is required.")
        return Parsed([], reader.violations)
    total = 0
    for entry in entries:
        inner = _dig(entry, "attributes", "events", "data")
        total += len(inner) if isinstance(inner, list) else 0
    if total > MAX_EVENTS:
        reader.add("too_many_events", _BULK, f"At most {MAX_EVENTS} events are allowed.")
    groups = []
    for index, entry in enumerate(entries):
        group = reader.group(entry, f"{_BULK}/{index}")
        if group is not None:
            groups.append(group)
    return Parsed(groups, reader.violations)


class _Reader:
    """Collects violations while it reads one body."""

    def __init__(self, now: float) -> None:
        self._latest = now + _YEAR
        self.violations: list[Violation] = []

    def add(self, name: str, pointer: str, detail: str) -> None:
        self.violations.append(Violation(name, pointer, detail))

    def shape(self, pointer: str, detail: str) -> None:
        self.add("shape", pointer, detail)

    def resource(self, holder: Any, pointer: str, kind: str) -> dict[str, Any]:
        data = holder.get("data") if isinstance(holder, dict) else None
        if not isinstance(data, dict):
            self.shape(f"{pointer}/data", "'data' is a required field.")
            return {}
        if data.get("type") != kind:
            self.shape(f"{pointer}/data/type", f"The type must be '{kind}'.")
            return {}
        return data

    def group(self, entry: Any, pointer: str) -> Group | None:
        attributes = entry.get("attributes") if isinstance(entry, dict) else None
        if not isinstance(attributes, dict) or entry.get("type") != "event-bulk-create":
            self.shape(pointer, "An 'event-bulk-create' with attributes is required.")
            return None
        self._only(attributes, frozenset(("backfill", "profile", "events")), pointer)
        self._backfill(attributes, pointer)
        profile = self.profile(attributes.get("profile"), f"{pointer}/attributes/profile")
        entries = _dig(attributes, "events", "data")
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
        self._only(attributes, known, place)
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
            self._values(properties, f"{pointer}/properties", 1)
        metric = _dig(attributes, "metric", "data", "attributes", "name")
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
        value = self._value(attributes, pointer)
        backfill = self._backfill(attributes, place)
        if len(self.violations) > before or not isinstance(properties, dict):
            return None
        return EventIn(metric, unique_id, time, properties, value, backfill, place)

    def profile(self, holder: Any, pointer: str) -> ProfileIn | None:
        before = len(self.violations)
        data = self.resource(holder, pointer, "profile")
        place = f"{pointer}/data"
        attributes = data.get("attributes")
        if not isinstance(attributes, dict):
            if len(self.violations) == before:
                self.shape(f"{place}/attributes", "'attributes' is a required field.")
            return None
        if "meta" in attributes:
            self.add(
                "profile_meta_misplaced",
                f"{place}/attributes/meta",
                "'meta' is not a valid field for the resource 'profile'.",
            )
        self._only(attributes, _PROFILE_KEYS | {"meta"}, place)
        self._identifiers(data, attributes, place)
        for name in ("properties", "location"):
            inner = attributes.get(name)
            if inner is None:
                continue
            if not isinstance(inner, dict):
                self.shape(f"{place}/attributes/{name}", "An object is required.")
            else:
                self._values(inner, f"{place}/attributes/{name}", 1)
        for name in STANDARD:
            given = attributes.get(name)
            if given is not None and not isinstance(given, str):
                self.shape(f"{place}/attributes/{name}", "A string is required.")
        meta = data.get("meta")
        if meta is not None and not isinstance(meta, dict):
            self.shape(f"{place}/meta", "An object is required.")
        if len(self.violations) > before:
            return None
        return ProfileIn(data.get("id"), attributes, meta or {}, place)

    def _identifiers(self, data: dict[str, Any], attributes: dict[str, Any], place: str) -> None:
        named = False
        for name in IDENTIFIERS:
            given = attributes.get(name)
            if given is None:
                continue
            named = True
            if name == "email":
                if (
                    not isinstance(given, str)
                    or len(given) > 254
                    or not _EMAIL.fullmatch(given)
                    or given.index("@") > 64
                ):
                    self.add("email_invalid", f"{place}/attributes/email", "Invalid email address")
            elif name == "phone_number":
                if not isinstance(given, str) or not _PHONE.fullmatch(given):
                    self.add(
                        "phone_invalid",
                        f"{place}/attributes/phone_number",
                        "Invalid phone number format (Example of a valid format: +12345678901)",
                    )
            elif not isinstance(given, str) or not given:
                self.shape(f"{place}/attributes/{name}", "A non-empty string is required.")
        given = data.get("id")
        if given is not None and (not isinstance(given, str) or not given):
            self.shape(f"{place}/id", "A non-empty string is required.")
        if not named and given is None:
            self.add(
                "identifier_missing",
                f"{place}/attributes",
                "One of the following identifiers must be included: "
                "id, email, phone_number, external_id, anonymous_id, _kx",
            )

    def _time(self, given: Any, pointer: str) -> int | None:
        if given is None:
            return None
        moment = None
        if isinstance(given, str) and _TIME.fullmatch(given):
            try:
                moment = datetime.fromisoformat(given)
            except ValueError:
                moment = None
        if moment is None:
            self.add("time_invalid", pointer, "A date and time in ISO 8601 is required.")
            return None
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        seconds = moment.timestamp()
        if not _YEAR_2000 <= seconds <= self._latest:
            self.add(
                "time_out_of_range",
                pointer,
                "The time must be after the year 2000 and at most 1 year in the future.",
            )
        return int(seconds)

    def _value(self, attributes: dict[str, Any], pointer: str) -> float | None:
        value = attributes.get("value")
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            self.add("value_invalid", f"{pointer}/value", "A number is required.")
            value = None
        currency = attributes.get("value_currency")
        if currency is not None and not (
            isinstance(currency, str) and _CURRENCY.fullmatch(currency)
        ):
            self.add("currency_invalid", f"{pointer}/value_currency", "An ISO 4217 code, please.")
        return value

    def _backfill(self, attributes: dict[str, Any], place: str) -> bool:
        backfill = attributes.get("backfill")
        if backfill is not None and not isinstance(backfill, bool):
            self.shape(f"{place}/attributes/backfill", "A boolean is required.")
        return backfill is True

    def _only(self, attributes: dict[str, Any], known: frozenset[str], place: str) -> None:
        for name in attributes.keys() - known:
            self.add(
                "unknown_field",
                f"{place}/attributes/{name}",
                f"'{name}' is not a valid field for this resource.",
            )

    def _values(self, holder: dict[str, Any] | list[Any], pointer: str, depth: int) -> None:
        """Limits of strings, arrays and nesting. `depth` is the level of `holder` itself."""
        if depth > MAX_DEPTH:
            self.add("nested_too_deep", pointer, f"At most {MAX_DEPTH} levels are allowed.")
            return
        if isinstance(holder, list) and len(holder) > MAX_ITEMS:
            self.add("array_too_long", pointer, f"At most {MAX_ITEMS} items are allowed.")
            return
        for name, value in _items(holder):
            if isinstance(value, str):
                # A character takes 4 bytes at most, so that only long strings are encoded.
                if len(value) * 4 > MAX_STRING_BYTES < len(value.encode()):
                    self.add("string_too_long", f"{pointer}/{name}", "At most 100KB are allowed.")
            elif isinstance(value, dict | list):
                self._values(value, f"{pointer}/{name}", depth + 1)


def _items(holder: dict[str, Any] | list[Any]) -> Iterator[tuple[object, Any]]:
    yield from holder.items() if isinstance(holder, dict) else enumerate(holder)


def _dig(holder: Any, *names: str) -> Any:
    """The value at a path of keys; None where the path ends early."""
    for name in names:
        if not isinstance(holder, dict):
            return None
        holder = holder.get(name)
    return holder
