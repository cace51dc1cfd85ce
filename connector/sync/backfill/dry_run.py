"""A dry run: reads, renders, compares and asks who is new to Klaviyo. It sends nothing and stores
nothing but how far it came."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from connector.domain.errors import Blocked, Problem, Wait
from connector.domain.outcomes import (
    Dead,
    Gone,
    Observed,
    Outcome,
    Retry,
)
from connector.domain.profiles import (
    Observation,
)
from connector.domain.records import (
    Entry,
)
from connector.pipeline.profile_reads import Refresher
from connector.ports import Backfills, Clock, Fed, Groups, Memory, Outgoing
from connector.sync.backfill.sources import names_of

_ATTEMPTS = 5


class Rehearsal:
    """What a page would come to."""

    def __init__(
        self,
        connection: str,
        refresher: Refresher,
        groups: Groups,
        *,
        backfills: Backfills,
        memory: Memory,
        clock: Clock,
    ) -> None:
        self._connection = connection
        self._refresher = refresher
        self._groups = groups
        self._backfills = backfills
        self._memory = memory
        self._clock = clock

    async def __call__(self, page: Fed) -> Fed:
        """The page without its people, and with what would become of them among its counts.
        Raises DeliveryError."""
        entries = await self._backfills.entries(
            self._connection, names_of(page), now=self._clock.now()
        )
        counts = Counter(page.counts)
        counts["people"] += len(entries)
        if page.seen:
            listed = zip(entries, page.seen, strict=True)
            seen = [replace(sight.observation, person=entry.seq) for entry, sight in listed]
        else:
            seen = await self._read(entries, counts)
        await self._compare(seen, counts)
        return Fed(page.cursor, page.more, counts=counts, notes=page.notes, total=page.total)

    async def _read(self, entries: Sequence[Entry], counts: Counter[str]) -> list[Observation]:
        """All of them, by the platform's quota as a backfill; a read that fails is repeated."""
        seen: list[Observation] = []
        waiting = {entry.seq: entry for entry in entries}
        for _ in range(_ATTEMPTS):
            again = 0.0
            for outcome in await self._outcomes(list(waiting.values())):
                entry = waiting[outcome.seq]
                match outcome:
                    case Observed():
                        seen.append(outcome.observation)
                    case Gone():
                        counts["unknown" if entry.email else "held"] += 1
                    case Dead():
                        counts["dead"] += 1
                    case Retry():
                        again = max(again, outcome.after, 1.0)
                        continue
                del waiting[outcome.seq]
            if not waiting:
                return seen
            await self._clock.sleep(again)
        raise Wait(Problem.PLATFORM_UNAVAILABLE, "people cannot be read now")

    async def _outcomes(self, entries: Sequence[Entry]) -> list[Outcome]:
        found: list[Outcome] = []
        mode, quota = self._refresher.single, self._refresher.quota
        while len(found) < len(entries):
            part = entries[len(found) : len(found) + mode.parallel]
            grant = quota.reserve(mode.endpoint, len(part), backfill=True)
            if not grant.count:
                await self._clock.sleep(grant.wait)
                continue
            await self._memory.remember_spend(grant.spend)
            batch = [Outgoing(entry, entry) for entry in part[: grant.count]]
            async for delivery in self._refresher.deliver(batch, bulk=False, permits=grant.count):
                if delivery.stop:
                    stop = delivery.stop
                    raise Blocked(stop.problem, stop.detail, scope=stop.scope)
                found += delivery.outcomes
        return found

    async def _compare(self, seen: Sequence[Observation], counts: Counter[str]) -> None:
        tellable = []
        for o in seen:
            if o.problem is None:
                tellable.append(o)
            else:
                counts["invalid" if o.problem is Problem.BAD_ADDRESS else "held"] += 1
        writes = await self._backfills.compare(tellable, now=self._clock.now())
        told = [write for write in writes if write is not None]
        counts["would_send"] += len(told)
        counts["unchanged"] += len(writes) - len(told)
        emails = {email for write in told if (email := write.identity.get("email"))}
        counts["new_to_klaviyo"] += len(emails - await self._groups.known(sorted(emails)))
