"""Where a backfill's people come from: each source gives pages, and a cursor behind each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from connector.pipeline.profile_reads import ProfileReadSink, listed_people
from connector.ports import (
    BackfillPage,
    Backfills,
    Clock,
    GroupKind,
    ListedPerson,
    PersonKey,
    Stream,
    TargetGroups,
)
from connector.sync.backfill import addresses
from connector.sync.backfill.addresses import Layout

PAGE_SIZE = 500
"""People a page, where the size is ours to choose."""

EMAIL_FILE, PLATFORM_LISTING, KNOWN_PEOPLE = "emails", "listing", "seen"
KLAVIYO_GROUPS: dict[str, GroupKind] = {"klaviyo-list": "list", "klaviyo-segment": "segment"}


class Source(Protocol):
    """Pages of people. Raises DeliveryError, or FileFault where a file cannot be read."""

    async def total(self) -> int | None:
        """How many there are, as far as can be said beforehand."""
        ...

    async def page(self, cursor: str | None) -> BackfillPage: ...


class EmailFile:
    """Addresses out of a file that this process can read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._layout: Layout | None = None

    async def total(self) -> int | None:
        layout = await self._detect_layout()
        return max(0, await asyncio.to_thread(addresses.count_lines, self._path) - layout.line)

    async def page(self, cursor: str | None) -> BackfillPage:
        layout = await self._detect_layout()
        batch = await asyncio.to_thread(addresses.read_batch, self._path, layout, cursor, PAGE_SIZE)
        return BackfillPage(
            str(batch.next_position),
            batch.more,
            keys=[PersonKey(None, email) for email in batch.good],
            counts={"rows": len(batch.good) + len(batch.bad), "invalid_rows": len(batch.bad)},
            notes=[f"line {line} {why}" for line, why in batch.bad],
        )

    async def _detect_layout(self) -> Layout:
        if self._layout is None:
            self._layout = await asyncio.to_thread(addresses.detect_layout, self._path)
        return self._layout


class GroupMembers:
    """Members of a Klaviyo list or segment."""

    def __init__(self, groups: TargetGroups, kind: GroupKind, id: str) -> None:
        self._groups = groups
        self._kind: GroupKind = kind
        self._id = id

    async def total(self) -> int | None:
        return await self._groups.count(self._kind, self._id)

    async def page(self, cursor: str | None) -> BackfillPage:
        page = await self._groups.members(self._kind, self._id, cursor)
        named = [PersonKey(None, member.email) for member in page.members if member.email]
        without = len(page.members) - len(named)
        counts = {"rows": len(page.members), "no_email": without}
        return BackfillPage(page.cursor, page.more, keys=named, counts=counts)


class PlatformListing:
    """Everybody whom the platform lists, as it shows them: nobody is read singly."""

    def __init__(
        self,
        stream: Stream,
        profile_reads: ProfileReadSink,
        view_fields: frozenset[str],
        clock: Clock,
    ) -> None:
        self._stream = stream
        self._profile_reads = profile_reads
        self._view_fields = view_fields
        self._clock = clock

    async def total(self) -> int | None:
        return None

    async def page(self, cursor: str | None) -> BackfillPage:
        page = await self._stream.page(cursor, self._view_fields, backfill=True)
        seen = listed_people(self._profile_reads, page, self._clock.now(), backfill=True)
        counts = {"rows": len(page.people), "no_email": len(page.people) - len(seen)}
        # A cursor that repeats would go on for ever.
        more = page.more and page.cursor not in (None, cursor)
        return BackfillPage(page.cursor, more, listed=seen, counts=counts, total=page.total)


class KnownPeople:
    """Everybody whom the connection has ever seen."""

    def __init__(self, backfills: Backfills, connection: str) -> None:
        self._backfills = backfills
        self._connection = connection

    async def total(self) -> int | None:
        return await self._backfills.count_people(self._connection)

    async def page(self, cursor: str | None) -> BackfillPage:
        found = await self._backfills.people_after(self._connection, int(cursor or 0), PAGE_SIZE)
        last = str(found[-1][0]) if found else cursor
        named = [name for _, name in found]
        return BackfillPage(last, len(found) == PAGE_SIZE, keys=named, counts={"rows": len(found)})


async def only_existing(page: BackfillPage, groups: TargetGroups) -> BackfillPage:
    """The page without those of whom Klaviyo has no profile."""
    everybody: list[PersonKey | ListedPerson] = [*page.keys, *page.listed]
    emails = {email for who in everybody if (email := _target_address(who))}
    known = await groups.existing(sorted(emails))
    named = [name for name in page.keys if _target_address(name) in known]
    seen = [sight for sight in page.listed if _target_address(sight) in known]
    left_out = len(page.keys) + len(page.listed) - len(named) - len(seen)
    counts = {**page.counts, "not_at_klaviyo": left_out}
    return replace(page, keys=named, listed=seen, counts=counts)


def _target_address(who: PersonKey | ListedPerson) -> str | None:
    """Where a sighting is told: the mapping's address, not the listing's."""
    if isinstance(who, ListedPerson):
        return who.observation.identity.get("email")
    return who.email


SourceFactory = Callable[[str, Mapping[str, Any]], Source]
"""Makes the source of a run, of its name and its args."""


def person_keys(page: BackfillPage) -> Sequence[PersonKey]:
    """Everybody on a page, by name."""
    return [*page.keys, *(PersonKey(sight.person, sight.email) for sight in page.listed)]
