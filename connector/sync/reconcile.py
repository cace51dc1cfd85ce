"""What Klaviyo holds compared with what it confirmed: fields of people, and recorded events.

Klaviyo is read at backfill priority, a page of people at a time, so live traffic hardly notices.
What differs is told again by the lanes, where a person asks for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from connector.domain.lanes import (
    LaneId,
    Millis,
)
from connector.ports import Clock, Ledger, Mirror, ToldPerson
from connector.runtime.metrics import Metrics

PAGE = 100
EVENTS = 100
"""So many recorded events are looked for where nobody says how many."""
_SETTLED = 300_000
"""ms: Klaviyo works events off at leisure, so one taken later than this is not missed yet."""


@dataclass
class Drift:
    """What a look came to. `fields` counts by name how many people differ in it."""

    people: int = 0
    missing: list[int] = field(default_factory=list)
    differing: list[int] = field(default_factory=list)
    fields: Counter[str] = field(default_factory=Counter)
    events: int = 0
    lost: list[int] = field(default_factory=list)

    def result(self, told_again: int) -> dict[str, Any]:
        return {
            "people": self.people,
            "people_missing": len(self.missing),
            "people_that_differ": len(self.differing),
            "fields": dict(self.fields.most_common()),
            "events": self.events,
            "events_missing": len(self.lost),
            "told_again": told_again,
        }


class Reconciler:
    """Compares one connection with its account. `profiles` and `events` are its lanes."""

    def __init__(
        self,
        connection: str,
        profiles: LaneId,
        events: LaneId,
        ledger: Ledger,
        mirror: Mirror,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._connection = connection
        self._profiles = profiles
        self._events = events
        self._ledger = ledger
        self._mirror = mirror
        self._clock = clock
        self._metrics = metrics

    async def run(self, *, sample: int | None, fix: bool) -> Mapping[str, Any]:
        """Look at `sample` people and events by chance, or at everybody and the newest events.
        Raises DeliveryError where Klaviyo cannot be read."""
        drift = Drift()
        async for page in self._people(sample):
            await self._compare(page, drift)
        await self._look_for_events(sample or EVENTS, drift)
        for kind, count in (
            ("profile", len(drift.missing) + len(drift.differing)),
            ("event", len(drift.lost)),
        ):
            self._metrics.drift.labels(self._connection, kind).set(count)
        again = 0
        if fix:
            now = self._clock.now()
            again += await self._ledger.tell_people([*drift.missing, *drift.differing], now=now)
            again += await self._ledger.tell_events(drift.lost, now=now)
        return drift.result(again)

    async def _people(self, sample: int | None) -> AsyncIterator[Sequence[ToldPerson]]:
        if sample is not None:
            found = await self._ledger.some_people(self._profiles, sample)
            for start in range(0, len(found), PAGE):
                yield found[start : start + PAGE]
            return
        after = 0
        while page := await self._ledger.people(self._profiles, after=after, limit=PAGE):
            yield page
            after = page[-1].person

    async def _compare(self, page: Sequence[ToldPerson], drift: Drift) -> None:
        there = await self._mirror.profiles([person.email for person in page])
        drift.people += len(page)
        for person in page:
            mirrored = there.get(person.email)
            if mirrored is None:
                drift.missing.append(person.person)
                continue
            wrong = [
                name
                for name, value in person.fields.items()
                if not same(value, mirrored.fields.get(name))
            ]
            if wrong:
                drift.differing.append(person.person)
                drift.fields.update(wrong)

    async def _look_for_events(self, count: int, drift: Drift) -> None:
        before = Millis(self._clock.now() - _SETTLED)
        told = await self._ledger.events(self._events, before=before, limit=count)
        there = await self._mirror.profiles(sorted({event.email for event in told}))
        drift.events = len(told)
        for event in told:
            profile = there.get(event.email)
            if profile is None or not await self._mirror.has_event(
                profile.id, event.unique_id, event.at
            ):
                drift.lost.append(event.seq)


def same(ours: Any, theirs: Any) -> bool:
    """Whether Klaviyo holds what we told it: 5 and 5.0 are one number, an unset field is absent."""
    if isinstance(ours, bool) or isinstance(theirs, bool):
        return ours is theirs
    return bool(ours == theirs)
