"""A dry run: reads, renders and compares people, and asks Klaviyo which of them are new to it. It
sends nothing and stores only its counts and its cursor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from connector.domain.errors import Blocked, Problem, RetryLater
from connector.domain.outcomes import Dead, Gone, Observed, Outcome, Retry
from connector.domain.profiles import Observation
from connector.domain.records import Entry
from connector.pipeline.profile_reads import ProfileReadSink
from connector.ports import BackfillPage, Clock, DryRuns, Facts, Outgoing, TargetGroups
from connector.sync.backfill.sources import person_keys

_ATTEMPTS = 5


class DryRun:
    """Finds out what a backfill would do with a page."""

    def __init__(
        self,
        connection: str,
        profile_reads: ProfileReadSink,
        groups: TargetGroups,
        *,
        store: DryRuns,
        facts: Facts,
        clock: Clock,
    ) -> None:
        self._connection = connection
        self._profile_reads = profile_reads
        self._groups = groups
        self._store = store
        self._facts = facts
        self._clock = clock

    async def __call__(self, page: BackfillPage) -> BackfillPage:
        """The page without its people. Its counts say what would become of them. Raises
        DeliveryError."""
        keys = person_keys(page)
        if not page.listed:
            keys = list(dict.fromkeys(keys))
        entries = await self._store.read_entries(self._connection, keys, now=self._clock.now())
        if not page.listed:
            entries = list({entry.seq: entry for entry in entries}.values())
        counts = Counter(page.counts)
        counts["people"] += len(entries)
        if page.listed:
            observations = [
                replace(listed.observation, person=entry.seq)
                for entry, listed in zip(entries, page.listed, strict=True)
            ]
        else:
            observations = await self._read_people(entries, counts)
        await self._compare(observations, counts)
        return BackfillPage(
            page.cursor, page.more, counts=counts, notes=page.notes, total=page.total
        )

    async def _read_people(
        self, entries: Sequence[Entry], counts: Counter[str]
    ) -> list[Observation]:
        """Read everyone, at backfill priority. A failed read is repeated up to 5 times."""
        observations: list[Observation] = []
        waiting = {entry.seq: entry for entry in entries}
        for _ in range(_ATTEMPTS):
            delay = 0.0
            for outcome in await self._outcomes(list(waiting.values())):
                entry = waiting[outcome.seq]
                match outcome:
                    case Observed():
                        observations.append(outcome.observation)
                    case Gone():
                        counts["unknown" if entry.email else "held"] += 1
                    case Dead():
                        counts["dead"] += 1
                    case Retry():
                        delay = max(delay, outcome.after, 1.0)
                        continue
                del waiting[outcome.seq]
            if not waiting:
                return observations
            await self._clock.sleep(delay)
        raise RetryLater(Problem.PLATFORM_UNAVAILABLE, "people cannot be read now")

    async def _outcomes(self, entries: Sequence[Entry]) -> list[Outcome]:
        outcomes: list[Outcome] = []
        mode, quota = self._profile_reads.single, self._profile_reads.quota
        while len(outcomes) < len(entries):
            part = entries[len(outcomes) : len(outcomes) + mode.parallel]
            grant = quota.reserve(mode.endpoint, len(part), backfill=True)
            if not grant.count:
                await self._clock.sleep(grant.wait)
                continue
            await self._facts.save_usage(grant.usage)
            batch = [Outgoing(entry, entry) for entry in part[: grant.count]]
            async for delivery in self._profile_reads.deliver(
                batch, bulk=False, permits=grant.count
            ):
                if delivery.stop:
                    stop = delivery.stop
                    raise Blocked(stop.problem, stop.detail, scope=stop.scope)
                outcomes += delivery.outcomes
        return outcomes

    async def _compare(self, observations: Sequence[Observation], counts: Counter[str]) -> None:
        sendable = []
        for o in observations:
            if o.problem is None:
                sendable.append(o)
            else:
                counts["invalid" if o.problem is Problem.BAD_ADDRESS else "held"] += 1
        previews = await self._store.preview_writes(sendable, now=self._clock.now())
        writes = [write for write in previews if write is not None]
        counts["would_send"] += len(writes)
        counts["unchanged"] += len(previews) - len(writes)
        emails = {email for write in writes if (email := write.identity.get("email"))}
        counts["new_to_klaviyo"] += len(emails - await self._groups.existing(sorted(emails)))
