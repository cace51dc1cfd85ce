"""A compiled mapping: from a platform's view to what Klaviyo is told. Pure, and it never raises
for anything that JSON can say."""

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
    Problem.NO_IDENTITY, "no path of [identity] leads to an address; it is sent once one is known"
)
_BAD_ADDRESS = Fault(
    Problem.BAD_ADDRESS, "mend the e-mail address at the loyalty platform, then retry"
)
_EMPTY: dict[str, Any] = {}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CompiledMapping:
    """A mapping file, ready to render; made by `compile_mapping`, safe to share between threads.

    `version` is 12 hex digits that change when a word of the file changes (comments do not
    count). `reads` are the person's paths that enabled fields use, so that a source need not
    fetch more. `rules` goes by exact and by case-folded name. `heard` are the events, by their key
    without case, that themselves say something of a field.
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
    declared: tuple[str, ...]
    reads: frozenset[str]
    added: tuple[tuple[str, str], ...]
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
    def metrics(self) -> frozenset[str]:
        """The metrics that are named here and sent; `unknown = "pass"` sends others besides."""
        return frozenset(rule.metric for rule in self.rules.values() if rule.enabled)

    def refreshes(self, name: str) -> bool:
        """Whether this event makes the person be read again. Unknown names do unless dropped:
        what they changed is unknown too."""
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
        """The event of `view` in Klaviyo's words.

        `occurred_at` spares parsing `event.time`; `fresh` is a person view read after the event:
        it fills `add` outside `event.` and `raw.`, `attributes` (the shape of Klaviyo's
        `profile.data.attributes`, without identifiers) and identifiers that the event lacks.
        Its notes say what was left out. Never raises; never changes what it is given.
        """
        event = view.get("event")
        if not isinstance(event, dict):
            return Fault(Problem.MAPPING_FAILED, "the view has no event")
        name = event.get("name")
        if not isinstance(name, str):
            return Fault(Problem.MAPPING_FAILED, "the view has no event name")
        rule = self.rules.get(name) or self.rules.get(name.strip().casefold())
        if rule is not None:
            if not rule.enabled:
                return _DISABLED
            metric = rule.metric
        else:
            if self.unknown == "drop":
                return _UNKNOWN
            metric = self.prefix + name.strip()
            if not name.strip() or len(metric) >= METRIC_NAME_LIMIT:
                return Fault(Problem.METRIC_NAME, f"the event's name has {len(name)} characters")
            if self.unknown == "dead-letter":
                # Safe to quote: it passed as a metric's name would.
                return Fault(
                    Problem.UNKNOWN_EVENT,
                    f'add [events.metrics."{name.strip()}"] to the mapping, then retry',
                )
        identity = self._identify(view, fresh)
        if type(identity) is Fault:
            return identity
        assert not isinstance(identity, Fault)
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
            if rule.value is not None and (fresh is not None or not rule.value_needs_person):
                try:
                    value = to_number(rule.value(view, fresh))
                except ConversionError:
                    value = None
        attributes = _EMPTY
        if fresh is not None and self.attach_profile:
            attributes = self.render_profile(fresh).attributes_to_set()
        return EventMessage(
            metric, unique_id, occurred_at, values, properties, value, attributes, notes
        )

    def identify(
        self, view: Mapping[str, Any], fresh: Mapping[str, Any] | None = None
    ) -> Identity | Fault:
        """Who the person of this view is at Klaviyo.

        Faults: NO_IDENTITY when no path leads to anything, BAD_ADDRESS when the first e-mail
        address found is none; the detail never holds it.
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
        """What a view says about the person's fields.

        A person's view: `from` is read. `covers` holds the view words that this read can show
        (`"balance"`, `"tier"` for all below it, `"raw"`), None is all: what is not covered is
        neither unset nor replaced by a later path of `from`. An event's view (it has `event`):
        only `trusted` and `from_event` are read, and nothing is unset. Never raises.
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
    """The first value that says something, of the view, else of the fresh one; else None."""
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
