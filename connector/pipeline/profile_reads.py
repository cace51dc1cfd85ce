"""Reads of people: an event requests a read, and the read becomes an observation.

Reads have a lane of their own, with quota and outcomes like deliveries, so a platform that fails
delays its own reads only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import orjson

from connector.domain.attention import Check
from connector.domain.errors import DeliveryError, Problem
from connector.domain.lanes import LaneId, Millis
from connector.domain.messages import Fault, Skip
from connector.domain.outcomes import Delivery, Gone, Observed, Retry, Stop
from connector.domain.profile_state import address_hash, changes_from_message
from connector.domain.profiles import RECONFIRM_AFTER_MS, EmailChange, Observation, OnLeave
from connector.domain.records import Entry, Record
from connector.domain.settlement import READ, delivery_for
from connector.mapping import CompiledMapping
from connector.ports import (
    BatchMode,
    ListedPerson,
    Outgoing,
    PeoplePage,
    PersonRef,
    PersonSnapshot,
    Quota,
    Reader,
)
from connector.runtime.single_requests import in_single_requests

_GONE_WINDOW, _MAX_GONE = 10, 5
"""The lane stops when more of the last reads of known people found no one: more than 5 of 10."""
_RETRY_AFTER_PROBE_SECONDS = 300.0


class PassThrough:
    """connector.ports.Renderer of reads, which need no mapping before they are sent."""

    version = ""

    async def prepare(self, entries: Sequence[Entry]) -> None: ...

    def render(self, entry: Entry) -> Entry | Skip | Fault:
        return entry


class ProfileReadSink:
    """connector.ports.Sink of reads. Its outcomes are observations.

    `lane` is the profile lane of the observations, `account` the scope of its addresses. `goals`
    adds to each snapshot what the configuration knows about the platform.
    """

    bulk: BatchMode | None = None

    def __init__(
        self,
        reader: Reader,
        mapping: CompiledMapping,
        *,
        lane: LaneId,
        account: str,
        email_change: EmailChange,
        on_leave: OnLeave,
        reconfirm_after: int = RECONFIRM_AFTER_MS,
        goals: Callable[[PersonSnapshot], PersonSnapshot] = lambda snapshot: snapshot,
    ) -> None:
        self._reader = reader
        self._goals = goals
        self._mapping = mapping
        self._lane = lane
        self._account = account
        self._email_change: EmailChange = email_change
        self._on_leave: OnLeave = on_leave
        self._reconfirm_after = reconfirm_after
        self._recent_found: deque[bool] = deque(maxlen=_GONE_WINDOW)
        self.single = BatchMode(reader.endpoint, size=1, parallel=reader.parallel)

    @property
    def quota(self) -> Quota:
        return self._reader.quota

    def deliver(
        self, batch: Sequence[Outgoing[Entry]], *, bulk: bool, permits: int
    ) -> AsyncIterator[Delivery]:
        return in_single_requests(self._read(out.entry) for out in batch)

    async def _read(self, entry: Entry) -> Delivery:
        try:
            snapshot = await self._reader.read(self._person_ref(entry), self._mapping.reads)
        except DeliveryError as error:
            return delivery_for([entry.seq], error, READ)
        if entry.data:
            self._recent_found.append(snapshot is not None)
            if snapshot is None and self._recent_found.count(False) > _MAX_GONE:
                problem = Problem.WRONG_PROGRAM
                # The next probe should read another person, so this read waits longer.
                later = Retry(entry.seq, problem, _RETRY_AFTER_PROBE_SECONDS)
                return Delivery([later], stop=Stop("target", problem, problem.meaning))
        if snapshot is None:
            return Delivery([Gone(entry.seq, self._on_leave)])
        at = Millis(entry.occurred_at)
        observation = self.observation(
            entry.seq, snapshot, at=at, since=entry.received_at, backfill=entry.backfill
        )
        return Delivery([Observed(entry.seq, observation)])

    def _person_ref(self, entry: Entry) -> PersonRef:
        return PersonRef(
            person=entry.seq,
            platform_id=entry.unique_id or None,
            email=entry.email,
            view=entry.data,
            refetch=entry.name == "refetch",
            backfill=entry.backfill,
        )

    def observation(
        self,
        person: int,
        snapshot: PersonSnapshot,
        *,
        at: Millis,
        since: Millis,
        backfill: bool = False,
    ) -> Observation:
        """What the mapping makes of a snapshot. Its read was sent `at`, for a reason that was
        received at `since`. A person without a usable address is observed too: their profile is
        held until they have one."""
        snapshot = self._goals(snapshot)
        values, fault = _identity(self._mapping, snapshot.view)
        email = values.get("email")
        return Observation(
            person=person,
            view=snapshot.view,
            changes=changes_from_message(
                self._mapping.render_profile(snapshot.view, snapshot.covers)
            ),
            identity=values,
            at=at,
            mapping=self._mapping.version,
            lane=self._lane,
            since=since,
            address=address_hash(self._account, email) if email else None,
            email_change=self._email_change,
            problem=fault.problem if fault else None,
            email=email if self._reader.by_id else None,
            withheld="withheld" in snapshot.view,
            backfill=backfill,
            aliases=snapshot.aliases,
            reconfirm_after=self._reconfirm_after,
        )

    def resumed(self) -> None:
        """The people who were not found have really left, so they no longer count."""
        self._recent_found.clear()

    def preview(self, out: Outgoing[Entry]) -> tuple[str, bytes]:
        return self._reader.endpoint, b""

    async def check(self) -> Sequence[Check]:
        return await self._reader.check()


class EventFieldExtractor:
    """Takes fields from events themselves: the mapping's `trusted` and `from_event`.

    With `partial` people are also read, and only the events that the mapping names are used.
    Without it every event is, also for the person's identity.
    """

    def __init__(
        self,
        mapping: CompiledMapping,
        view: Callable[[str, int, dict[str, Any], str | None], dict[str, Any]],
        *,
        lane: LaneId,
        account: str,
        email_change: EmailChange,
        partial: bool,
        reconfirm_after: int = RECONFIRM_AFTER_MS,
    ) -> None:
        self._mapping = mapping
        self._view = view
        self._lane = lane
        self._account = account
        self._email_change: EmailChange = email_change
        self._partial = partial
        self._reconfirm_after = reconfirm_after

    def observation(self, record: Record, received_at: Millis) -> Observation | None:
        """None where the event has nothing to observe. The observation has the event's time, but
        at most that of its receipt. Its person is set when the record is stored."""
        if self._partial and not self._mapping.extracts(record.name):
            return None
        try:
            data = orjson.loads(record.data)
            view = self._view(record.name, record.occurred_at, data, record.email)
            changes = changes_from_message(self._mapping.render_profile(view))
            values, _ = _identity(self._mapping, view)
        except Exception:
            # The view may be a plug-in's. The event is stored and becomes a dead letter for the
            # same error.
            return None
        if not changes and (self._partial or not values):
            return None
        email = values.get("email")
        return Observation(
            person=0,
            view={},
            changes=changes,
            identity=values,
            at=min(record.occurred_at, received_at),
            mapping=self._mapping.version,
            lane=self._lane,
            since=received_at,
            address=address_hash(self._account, email) if email else None,
            email_change=self._email_change,
            partial=self._partial,
            reconfirm_after=self._reconfirm_after,
        )


def _identity(
    mapping: CompiledMapping, view: Mapping[str, Any]
) -> tuple[dict[str, str], Fault | None]:
    identity = mapping.identify(view)
    return ({}, identity) if isinstance(identity, Fault) else (dict(identity.values), None)


def listed_people(
    profile_reads: ProfileReadSink, page: PeoplePage, now: Millis, *, backfill: bool = False
) -> list[ListedPerson]:
    """The people of a listing's page, rendered by the mapping. A person without id and address is
    left out, because they cannot be identified."""
    return [
        ListedPerson(
            person=listed.platform_id,
            email=listed.email,
            observation=profile_reads.observation(
                0, listed.snapshot, at=listed.at or page.at, since=now, backfill=backfill
            ),
            covers=listed.snapshot.covers,
            aliases=listed.snapshot.aliases,
        )
        for listed in page.people
        if listed.platform_id or listed.email
    ]
