"""Reconciliation: compares what Klaviyo holds with what it has confirmed, for the fields of people
and for accepted events.

Klaviyo is read at backfill priority, a page of people at a time. With `fix` the lanes send again
what differs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from connector.domain.lanes import LaneId, Millis
from connector.ports import Clock, Ledger, RemoteState, SyncedPerson
from connector.runtime.metrics import Metrics

PAGE_SIZE = 100
DEFAULT_EVENTS = 100
"""Number of events that are checked without a sample size."""
_COORDINATES = {"@location.latitude", "@location.longitude"}
_SETTLE_MS = 300_000
"""Klaviyo records events with a delay, so events accepted in the last 300 s are not checked."""


@dataclass
class Drift:
    """What differs. `fields`: by name, the number of people who differ in it."""

    people: int = 0
    missing_people: list[int] = field(default_factory=list)
    differing_people: list[int] = field(default_factory=list)
    fields: Counter[str] = field(default_factory=Counter)
    events: int = 0
    missing_events: list[int] = field(default_factory=list)

    def result(self, resent: int) -> dict[str, Any]:
        return {
            "people": self.people,
            "people_missing": len(self.missing_people),
            "people_differing": len(self.differing_people),
            "fields": dict(self.fields.most_common()),
            "events": self.events,
            "events_missing": len(self.missing_events),
            "resent": resent,
        }


class Reconciler:
    """Compares one connection with its Klaviyo account. `profiles` and `events` are its lanes."""

    def __init__(
        self,
        connection: str,
        profiles: LaneId,
        events: LaneId,
        ledger: Ledger,
        remote: RemoteState,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._connection = connection
        self._profiles = profiles
        self._events = events
        self._ledger = ledger
        self._remote = remote
        self._clock = clock
        self._metrics = metrics

    async def run(self, *, sample: int | None, fix: bool) -> Mapping[str, Any]:
        """Compare `sample` random people and as many of the newest events, or without it everyone
        and DEFAULT_EVENTS events. Raises DeliveryError where Klaviyo cannot be read."""
        drift = Drift()
        async for page in self._people(sample):
            await self._compare(page, drift)
        await self._check_events(sample or DEFAULT_EVENTS, drift)
        for kind, count in (
            ("profile", len(drift.missing_people) + len(drift.differing_people)),
            ("event", len(drift.missing_events)),
        ):
            self._metrics.drift.labels(self._connection, kind).set(count)
        resent = 0
        if fix:
            now = self._clock.now()
            resent += await self._ledger.resend_people(
                [*drift.missing_people, *drift.differing_people], now=now
            )
            resent += await self._ledger.resend_events(drift.missing_events, now=now)
        return drift.result(resent)

    async def _people(self, sample: int | None) -> AsyncIterator[Sequence[SyncedPerson]]:
        if sample is not None:
            people = await self._ledger.sample_people(self._profiles, sample)
            for start in range(0, len(people), PAGE_SIZE):
                yield people[start : start + PAGE_SIZE]
            return
        after = 0
        while page := await self._ledger.people(self._profiles, after=after, limit=PAGE_SIZE):
            yield page
            after = page[-1].person

    async def _compare(self, page: Sequence[SyncedPerson], drift: Drift) -> None:
        profiles_by_email = await self._remote.profiles([person.email for person in page])
        drift.people += len(page)
        for person in page:
            remote_profile = profiles_by_email.get(person.email)
            if remote_profile is None:
                drift.missing_people.append(person.person)
                continue
            differing_fields = [
                name
                for name, value in person.fields.items()
                if not values_match(value, remote_profile.fields.get(name), name)
            ]
            if differing_fields:
                drift.differing_people.append(person.person)
                drift.fields.update(differing_fields)

    async def _check_events(self, count: int, drift: Drift) -> None:
        before = Millis(self._clock.now() - _SETTLE_MS)
        events = await self._ledger.events(self._events, before=before, limit=count)
        profiles_by_email = await self._remote.profiles(sorted({event.email for event in events}))
        drift.events = len(events)
        for event in events:
            profile = profiles_by_email.get(event.email)
            if profile is None or not await self._remote.has_event(
                profile.id, event.unique_id, event.at
            ):
                drift.missing_events.append(event.seq)


def values_match(local_value: Any, remote_value: Any, name: str = "") -> bool:
    """Whether two JSON values of this field are equal: 5 equals 5.0, True does not equal 1. Klaviyo
    returns coordinates as numbers, also where they were sent as texts."""
    if name in _COORDINATES and isinstance(local_value, str) and remote_value is not None:
        try:
            local_value = float(local_value)
        except ValueError:
            return False
    if isinstance(local_value, bool) or isinstance(remote_value, bool):
        return local_value is remote_value
    return bool(local_value == remote_value)
