"""A compiled mapping: renders a platform's view into a message for Klaviyo. Pure, and it raises
nothing, whatever JSON the view holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from connector.domain.errors import Problem
from connector.domain.lanes import Millis
from connector.domain.messages import Change, EventMessage, Fault, ProfileMessage, Skip
from connector.mapping.address import e164, valid_email
from connector.mapping.paths import Getter, is_blank
from connector.mapping.rules import EventRule, Field, Identity, UnknownPolicy
from connector.mapping.types import ConversionError, describe, to_number, to_string
from connector.mapping.vocabulary import METRIC_NAME_LIMIT

_DISABLED = Skip("disabled")
_UNKNOWN = Skip("unknown_event")
_NO_IDENTITY = Fault(
    Problem.NO_IDENTITY, "no path of [identity] has a value; it is sent once an address is known"
)
_BAD_ADDRESS = Fault(
    Problem.BAD_ADDRESS, "correct the e-mail address at the loyalty platform, then retry"
)
_EMPTY: dict[str, Any] = {}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CompiledMapping:
    """A mapping file, ready to render; made by `compile_mapping`, safe to share between threads.

    `version` is 12 hex digits that change with the file's content (comments do not count). `reads`
    are the paths of the person's view that enabled fields use, so that a reader need not fetch
    more. The keys of `rules` are the events' names, exact and in lower case; `event_sourced` are
    the keys, in lower case, of events whose own body sets a field.
    """

    text: str
    version: str
    source: str
    timezone: str
    prefix: str
    unknown: UnknownPolicy
    attach_profile: bool
    rules: Mapping[str, EventRule]
    email: tuple[Getter, ...]
    external_id: tuple[Getter, ...]
    phone_number: tuple[Getter, ...]
    default_region: str
    fields: tuple[Field, ...]
    attributes: tuple[Field, ...]
    reads: frozenset[str]
    event_sourced: frozenset[str]

    def event(self, name: str) -> EventRule | None:
        """The rule for an event's name or alias in any case, or None."""
        return self.rules.get(name) or self.rules.get(name.strip().casefold())

    def extracts(self, name: str) -> bool:
        """Whether this event's own body is an observation of some field."""
        return bool(self.event_sourced) and self._key(name) in self.event_sourced

    def _key(self, name: str) -> str:
        rule = self.event(name)
        return (rule.key if rule else name).strip().casefold()

    @property
    def declared(self) -> tuple[str, ...]:
        """The names of the enabled custom properties."""
        return tuple(field.name for field in self.fields)

    @property
    def added(self) -> tuple[tuple[str, str], ...]:
        """(event's key, property) for each property that `add` puts into an event."""
        return tuple(
            (rule.key, name)
            for rule in dict.fromkeys(self.rules.values())
            for name, _ in (*rule.event_adds, *rule.person_adds)
        )

    @property
    def metrics(self) -> frozenset[str]:
        """The named metrics that are sent; `unknown = "pass"` sends others besides."""
        return frozenset(rule.metric for rule in self.rules.values() if rule.enabled)

    def refreshes(self, name: str) -> bool:
        """Whether the person is read again after this event. After an unknown one too, unless
        it is dropped: what it changed is unknown."""
        rule = self.event(name)
        if rule is None:
            return self.unknown == "pass"
        return rule.refresh

    def render_event(
        self,
        view: Mapping[str, Any],
        *,
        unique_id: str,
        occurred_at: Millis | None = None,
        fresh: Mapping[str, Any] | None = None,
    ) -> EventMessage | Skip | Fault:
        """The message for the event of `view`.

        `occurred_at` spares parsing `event.time`. `fresh` is a person view that was read after the
        event: it fills `add` outside `event.` and `raw.`, identifiers that the event lacks, and the
        message's `attributes` (the shape of Klaviyo's `profile.data.attributes`, without
        identifiers). The message's notes name what was left out. Raises nothing; does not change
        its arguments.
        """
        event = view.get("event")
        if not isinstance(event, dict):
            return Fault(Problem.MAPPING_FAILED, "the view has no event")
        name = event.get("name")
        if not isinstance(name, str):
            return Fault(Problem.MAPPING_FAILED, "the view has no event name")
        rule = self.event(name)
        metric = self._metric(name, rule)
        if not isinstance(metric, str):
            return metric
        identity = self._identify(view, fresh)
        if isinstance(identity, Fault):
            return identity
        values, notes = identity
        if occurred_at is None:
            occurred_at = _millis(event.get("time"))
            if occurred_at is None:
                return Fault(Problem.TIME_OUT_OF_RANGE, "event.time is not an ISO 8601 instant")
        properties = event.get("properties")
        if properties is None:
            properties = {}
        elif not isinstance(properties, dict):
            return Fault(
                Problem.MAPPING_FAILED, f"event.properties is {describe(properties)}, not an object"
            )
        value: float | None = None
        if rule is not None:
            if rule.event_adds or rule.person_adds:
                properties = dict(properties)
                notes += _add(rule, properties, view, fresh)
            value = _value(rule, view, fresh)
        attributes = _EMPTY
        if fresh is not None and self.attach_profile:
            attributes = self.render_profile(fresh).attributes_to_set()
        return EventMessage(
            metric, unique_id, occurred_at, values, properties, value, attributes, notes
        )

    def _metric(self, name: str, rule: EventRule | None) -> str | Skip | Fault:
        """The event's metric, or why the event is not sent."""
        if rule is not None:
            return rule.metric if rule.enabled else _DISABLED
        if self.unknown == "drop":
            return _UNKNOWN
        name = name.strip()
        metric = self.prefix + name
        if not name or len(metric) >= METRIC_NAME_LIMIT:
            return Fault(Problem.METRIC_NAME, f"the event's name has {len(name)} characters")
        if self.unknown == "dead-letter":
            # Safe to quote: it could be a metric's name.
            return Fault(Problem.UNKNOWN_EVENT, f'"{name}" is not in the mapping')
        return metric

    def identify(
        self, view: Mapping[str, Any], fresh: Mapping[str, Any] | None = None
    ) -> Identity | Fault:
        """The person's identifiers at Klaviyo.

        Faults: NO_IDENTITY if no path has a value, BAD_ADDRESS if the first e-mail address found is
        not valid; the detail never holds it.
        """
        found = self._identify(view, fresh)
        return found if isinstance(found, Fault) else Identity(*found)

    def _identify(
        self, view: Mapping[str, Any], fresh: Mapping[str, Any] | None
    ) -> tuple[dict[str, str], tuple[str, ...]] | Fault:
        values: dict[str, str] = {}
        notes: tuple[str, ...] = ()
        email = _first_value(self.email, view, fresh)
        if email is not None:
            if not isinstance(email, str):
                return _BAD_ADDRESS
            email = email.strip().lower()
            if not valid_email(email):
                return _BAD_ADDRESS
            values["email"] = email
        if self.external_id:
            external = _first_value(self.external_id, view, fresh)
            if external is not None:
                try:
                    values["external_id"] = to_string(external)
                except ConversionError:
                    notes += ("external_id",)
        if self.phone_number:
            phone = _first_value(self.phone_number, view, fresh)
            if phone is not None:
                number = e164(phone, self.default_region)
                if number is None:
                    notes += ("phone_number",)
                else:
                    values["phone_number"] = number
        return (values, notes) if values else _NO_IDENTITY

    def render_profile(
        self, view: Mapping[str, Any], covers: frozenset[str] | None = None
    ) -> ProfileMessage:
        """The changes of the person's fields.

        Of a person's view `from` is used. `covers` are the fields of the view that this read can
        show (`"balance"`, `"tier"` for all below it, `"raw"`), None is all: a field that is not
        covered is neither unset nor replaced by a later path of `from`. Of an event's view, which
        has `event`, only `trusted` and `from_event` are used, and nothing is unset. Raises
        nothing.
        """
        event = view.get("event")
        problems: list[str] = []
        fields: dict[str, Change] = {}
        attributes: dict[str, Any] = {}
        if event is not None:
            name = event.get("name") if isinstance(event, dict) else None
            if isinstance(name, str):
                key = self._key(name)
                for field in self.fields:
                    _apply_event(field, key, view, fields, problems)
            return ProfileMessage(fields, attributes, tuple(problems))
        for field in self.fields:
            change = _person_change(field, view, covers, problems)
            if change is not None:
                fields[field.name] = change
        for field in self.attributes:
            change = _person_change(field, view, covers, problems)
            if change is not None and len(change) == 2:
                attributes[field.name] = change[1]
        return ProfileMessage(fields, attributes, tuple(problems))


def _first_value(
    getters: tuple[Getter, ...], view: Mapping[str, Any], fresh: Mapping[str, Any] | None
) -> Any:
    """The first value that is not blank, of the view, else of the fresh one; else None."""
    for one in (view, fresh) if fresh is not None else (view,):
        for get in getters:
            try:
                value = get(one)
            except ConversionError:
                continue
            if not is_blank(value):
                return value
    return None


def _add(
    rule: EventRule,
    properties: dict[str, Any],
    view: Mapping[str, Any],
    fresh: Mapping[str, Any] | None,
) -> tuple[str, ...]:
    """Puts the rule's `add` into `properties`; returns a note for each that failed."""
    notes: tuple[str, ...] = ()
    for name, get in rule.event_adds:
        try:
            value = get(view)
        except ConversionError:
            notes += (f"add.{name}",)
            continue
        if not is_blank(value):
            properties[name] = value
    if fresh is not None:
        for name, pair in rule.person_adds:
            try:
                value = pair(view, fresh)
            except ConversionError:
                notes += (f"add.{name}",)
                continue
            if not is_blank(value):
                properties[name] = value
    return notes


def _value(
    rule: EventRule, view: Mapping[str, Any], fresh: Mapping[str, Any] | None
) -> float | None:
    if rule.value is None or (fresh is None and rule.value_needs_person):
        return None
    try:
        return to_number(rule.value(view, fresh))
    except ConversionError:
        return None


def _apply_event(
    field: Field,
    key: str,
    view: Mapping[str, Any],
    fields: dict[str, Change],
    problems: list[str],
) -> None:
    if key in field.event_values:
        fields[field.name] = ("set", field.event_values[key])
    get = field.trusted.get(key)
    if get is None:
        return
    try:
        value = get(view)
        if not is_blank(value):
            fields[field.name] = ("set", field.convert(value))
    except ConversionError as error:
        problems.append(f"{field.name}: {error}")


def _person_change(
    field: Field,
    view: Mapping[str, Any],
    covers: frozenset[str] | None,
    problems: list[str],
) -> Change | None:
    if not field.sources:
        return None
    for field_source in field.sources:
        try:
            value = field_source.get(view)
            if not is_blank(value):
                return ("set", field.convert(value))
        except ConversionError as error:
            problems.append(f"{field.name}: {error}")
            return None
        if covers is not None and not field_source.covered(covers):
            return None
    return ("unset",) if field.unset else None


def _millis(text: Any) -> Millis | None:
    if not isinstance(text, str):
        return None
    try:
        instant = datetime.fromisoformat(text)
        if instant.tzinfo is None:
            instant = instant.replace(tzinfo=UTC)
        return Millis(round(instant.timestamp() * 1000))
    except (ValueError, OverflowError):
        return None
