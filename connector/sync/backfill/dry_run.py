"""A dry run: reads, renders, compares and asks who is new to Klaviyo. It sends nothing and stores
nothing but how far it came."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from connector.domain.errors import Blocked, Problem, RetryLater
from connector.domain.outcomes import Dead, Gone, Observed, Outcome, Retry
from connector.domain.profiles import Observation
from connector.domain.records import Entry
from connector.pipeline.profile_reads import ProfileReadSink
from connector.ports import BackfillPage, Backfills, Clock, Facts, Outgoing, TargetGroups
from connector.sync.backfill.sources import person_keys

_ATTEMPTS = 5


class DryRun:
    """What a page would come to."""

    def __init__(
        self,
        connection: str,
        profile_reads: ProfileReadSink,
        groups: TargetGroups,
        *,
        backfills: Backfills,
        memory: Facts,
        clock: Clock,
    ) -> None:
        self._connection = connection
        self._profile_reads = profile_reads
        self._groups = groups
        self._backfills = backfills
        self._memory = memory
        self._clock = clock

    async def __call__(self, page: BackfillPage) -> BackfillPage:
        """The page without its people, and with what would become of them among its counts.
        Raises DeliveryError."""
        entries = await self._backfills.read_entries(
            self._connection, person_keys(page), now=self._clock.now()
        )
        counts = Counter(page.counts)
        counts["people"] += len(entries)
        if page.listed:
            listed = zip(entries, page.listed, strict=True)
            seen = [replace(sight.observation, person=entry.seq) for entry, sight in listed]
        else:
            seen = await self._read_people(entries, counts)
        await self._compare(seen, counts)
        return BackfillPage(
            page.cursor, page.more, counts=counts, notes=page.notes, total=page.total
        )

    async def _read_people(
        self, entries: Sequence[Entry], counts: Counter[str]
    ) -> list[Observation]:
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
        raise RetryLater(Problem.PLATFORM_UNAVAILABLE, "people cannot be read now")

    async def _outcomes(self, entries: Sequence[Entry]) -> list[Outcome]:
        found: list[Outcome] = []
        mode, quota = self._profile_reads.single, self._profile_reads.quota
        while len(found) < len(entries):
            part = entries[len(found) : len(found) + mode.parallel]
            grant = quota.reserve(mode.endpoint, len(part), backfill=True)
            if not grant.count:
                await self._clock.sleep(grant.wait)
                continue
            await self._memory.save_usage(grant.usage)
            batch = [Outgoing(entry, entry) for entry in part[: grant.count]]
            async for delivery in self._profile_reads.deliver(
                batch, bulk=False, permits=grant.count
            ):
                if delivery.stop:
                    stop = delivery.stop
                    raise Blocked(stop.problem, stop.detail, scope=stop.scope)
                found += delivery.outcomes
        return found

    async def _compare(self, seen: Sequence[Observation], counts: Counter[str]) -> None:
        sendable = []
        for o in seen:
            if o.problem is None:
                sendable.append(o)
            else:
                counts["invalid" if o.problem is Problem.BAD_ADDRESS else "held"] += 1
        writes = await self._backfills.preview_writes(sendable, now=self._clock.now())
        writes_needed = [write for write in writes if write is not None]
        counts["would_send"] += len(writes_needed)
        counts["unchanged"] += len(writes) - len(writes_needed)
        emails = {email for write in writes_needed if (email := write.identity.get("email"))}
        counts["new_to_klaviyo"] += len(emails - await self._groups.existing(sorted(emails)))
