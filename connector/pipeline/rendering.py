"""From a stored record to a message: the platform's view, then the mapping."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Generic, TypeVar

import orjson

from connector.domain.actions import REF_PATTERN
from connector.domain.errors import ConfigError, Problem
from connector.domain.lanes import DeliveryMode
from connector.domain.memberships import MembershipWrite
from connector.domain.messages import EventMessage, Fault, Skip
from connector.domain.outcomes import Dead, Held, Outcome, Skipped
from connector.domain.profile_state import write_from_json
from connector.domain.profiles import ProfileWrite
from connector.domain.records import Entry
from connector.mapping import CompiledMapping, compile_mapping
from connector.pipeline.attach_wait import LeftWithout
from connector.ports import Facts, FreshView, Outgoing, Reads, Renderer

M = TypeVar("M")

EventView = Callable[[str, int, dict[str, Any], str | None], dict[str, Any]]
"""(name, occurred at in ms, the source's JSON, address) → the platform's documented view."""

ORIGIN_PROPERTY = "connector_action"
"""The property of an event that one of our actions caused: that action's reference."""
_WITHHELD: Mapping[Any, Skip] = {
    "placeholder": Skip("placeholder"),
    "restricted": Skip("restricted"),
}
_NO_MESSAGE = (Skip, Fault)
_HELD_PROBLEMS = {Problem.NO_IDENTITY, Problem.BAD_ADDRESS, Problem.NOT_LIVE}
"""Faults that a later record about the same person, or a change of the configuration, can fix."""


def render_entries(
    renderer: Renderer[M], entries: Sequence[Entry]
) -> tuple[list[Outgoing[M]], list[Outcome]]:
    """The messages that can be sent, and the outcomes of the entries that cannot."""
    messages: list[Outgoing[M]] = []
    outcomes: list[Outcome] = []
    for entry in entries:
        message = render_entry(renderer, entry)
        if isinstance(message, Skip):
            outcomes.append(Skipped(entry.seq, message.reason))
        elif isinstance(message, Fault):
            outcome = Held if message.problem in _HELD_PROBLEMS else Dead
            outcomes.append(outcome(entry.seq, message.problem, message.detail))
        else:
            messages.append(Outgoing(entry, message))
    return messages, outcomes


def render_entry(renderer: Renderer[M], entry: Entry) -> M | Skip | Fault:
    """A record that cannot be rendered, whatever is wrong with it or with a plug-in, is a Fault and
    does not stop its lane."""
    try:
        return renderer.render(entry)
    except Exception as error:
        return Fault(Problem.MAPPING_FAILED, f"{type(error).__name__} while rendering")


class EventRenderer:
    """connector.ports.Renderer of events. `left_without` learns of those without fresh fields.

    An event that may have been applied already is rendered with the mapping version that it was
    first sent with: another metric name or identity would create a second event.
    """

    def __init__(
        self,
        mapping: CompiledMapping,
        view: EventView,
        facts: Facts | None,
        reads: Reads | None = None,
        left_without: LeftWithout | None = None,
    ) -> None:
        self._left_without = left_without
        self._mapping = mapping
        self._view = view
        self._facts = facts
        self._reads = reads
        self._attach_profile = mapping.attach_profile
        self._fresh_views: Mapping[int, FreshView] = {}
        self._older_mappings: dict[str, CompiledMapping] = {}

    @property
    def version(self) -> str:
        return self._mapping.version

    async def prepare(self, entries: Sequence[Entry]) -> None:
        known = {self.version, *self._older_mappings}
        for version in {
            e.mapping for e in entries if e.mode is DeliveryMode.SINGLE and e.mapping
        } - known:
            text = await self._facts.mapping(version) if self._facts else None
            if text is not None:
                try:
                    self._older_mappings[version] = compile_mapping(
                        text, origin=f"version {version}"
                    )
                except ConfigError:
                    # A newer program may refuse what an older one accepted: use today's mapping.
                    self._older_mappings[version] = self._mapping
        if self._reads is not None:
            # Last, so that nothing is awaited between this and the rendering of these entries.
            people = [
                entry.person
                for entry in entries
                if entry.person is not None and (self._attach_profile or entry.email is None)
            ]
            self._fresh_views = await self._reads.fresh_views(people)

    def _fresh_view(self, entry: Entry) -> Mapping[str, Any] | None:
        """The person as read after this event was received. None while a write of the profile is in
        flight, because the event would be a second write; none where the address has changed."""
        fresh = self._fresh_views.get(entry.person or 0)
        if fresh is None or fresh.write_in_flight or fresh.at < entry.received_at:
            return None
        return fresh.view if _address(fresh.view) == entry.email else None

    def _withheld(self, entry: Entry) -> Skip | None:
        """A record without its address may belong to a person who must not be sent to Klaviyo."""
        fresh = self._fresh_views.get(entry.person or 0) if entry.email is None else None
        return _WITHHELD.get(fresh.view.get("withheld")) if fresh else None

    def render(self, entry: Entry) -> EventMessage | Skip | Fault:
        if skip := self._withheld(entry):
            return skip
        mapping = self._mapping
        if entry.mode is DeliveryMode.SINGLE and entry.mapping:
            mapping = self._older_mappings.get(entry.mapping, mapping)
        view = self._view(entry.name, entry.occurred_at, orjson.loads(entry.data), entry.email)
        fresh = self._fresh_view(entry) if self._attach_profile else None
        message = mapping.render_event(
            view, unique_id=entry.unique_id, occurred_at=entry.occurred_at, fresh=fresh
        )
        if self._left_without is not None:
            self._left_without.rendered(entry.seq, without=fresh is None and self._reads_for(entry))
        return _with_origin(message, entry)

    def _reads_for(self, entry: Entry) -> bool:
        """Whether the event had its person read, to be sent with the result."""
        triggers = self._mapping.refreshes(entry.name)
        return self._attach_profile and triggers and not entry.backfill


def _with_origin(message: EventMessage | Skip | Fault, entry: Entry) -> EventMessage | Skip | Fault:
    """Marks an event that one of our actions caused, where the platform returns its reference. A
    flow can then ignore it, so that it does not start itself again."""
    found = REF_PATTERN.search(entry.data)
    if found is None or not isinstance(message, EventMessage):
        return message
    return replace(message, properties={**message.properties, ORIGIN_PROPERTY: found[0].decode()})


class GatedRenderer(Generic[M]):
    """connector.ports.Renderer of records that may not be sent (guarantee 1).

    One that was received while nothing was sent is rendered and skipped, for the reason that it
    was received with. While the lane is not `live`, every other one waits for it to be; what
    `is_read` names is let through, because it sends nothing.
    """

    def __init__(
        self,
        inner: Renderer[M],
        *,
        live: bool,
        is_read: Callable[[Entry], bool] = lambda entry: False,
    ) -> None:
        self._inner = inner
        self._live = live
        self._is_read = is_read

    @property
    def version(self) -> str:
        return self._inner.version

    async def prepare(self, entries: Sequence[Entry]) -> None:
        await self._inner.prepare(entries)

    def render(self, entry: Entry) -> M | Skip | Fault:
        message = self._inner.render(entry)
        if isinstance(message, _NO_MESSAGE) or self._is_read(entry):
            return message
        if entry.suppressed:
            return Skip(entry.suppressed)
        return message if self._live else Fault(Problem.NOT_LIVE, Problem.NOT_LIVE.meaning)


class ProfileRenderer:
    """connector.ports.Renderer of profile writes, whose fields the claim has chosen."""

    version = ""

    async def prepare(self, entries: Sequence[Entry]) -> None: ...

    def render(self, entry: Entry) -> ProfileWrite | Skip | Fault:
        return write_from_json(entry.data)


class MembershipRenderer:
    """connector.ports.Renderer of memberships, which are not mapped."""

    version = ""

    async def prepare(self, entries: Sequence[Entry]) -> None: ...

    def render(self, entry: Entry) -> MembershipWrite | Skip | Fault:
        return MembershipWrite(**orjson.loads(entry.data))


def _address(view: Mapping[str, Any]) -> str | None:
    email = view.get("email")
    return email.strip().lower() if isinstance(email, str) else None
