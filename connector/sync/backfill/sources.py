"""Sources of a backfill's people. Each returns pages with cursors."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from connector.pipeline.profile_reads import ProfileReadSink, listed_people
from connector.ports import (
    BackfillPage,
    Clock,
    GroupKind,
    ListedPerson,
    PeopleIndex,
    PersonKey,
    Stream,
    TargetGroups,
)
from connector.sync.backfill import addresses
from connector.sync.backfill.addresses import Layout

PAGE_SIZE = 500
"""People in a page of a source that lets us choose."""

EMAIL_FILE, PLATFORM_LISTING, KNOWN_PEOPLE = "emails", "listing", "seen"
"""Names of sources as they are stored with a run."""
KLAVIYO_GROUPS: dict[str, GroupKind] = {"klaviyo-list": "list", "klaviyo-segment": "segment"}


class Source(Protocol):
    """Pages of people. Both methods raise DeliveryError, and FileError for a file that cannot be
    used."""

    async def total(self) -> int | None:
        """Number of people, or None if it is not known in advance."""
        ...

    async def page(self, cursor: str | None) -> BackfillPage: ...


class EmailFile:
    """Addresses in a file on this machine."""

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
            notes=[f"line {line} {reason}" for line, reason in batch.bad],
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
        keys = [PersonKey(None, member.email) for member in page.members if member.email]
        counts = {"rows": len(page.members), "no_email": len(page.members) - len(keys)}
        return BackfillPage(page.cursor, page.more, keys=keys, counts=counts)


class PlatformListing:
    """Everyone that the platform lists, with the data of the listing: no one is read singly."""

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
        listed = listed_people(self._profile_reads, page, self._clock.now(), backfill=True)
        counts = {"rows": len(page.people), "no_email": len(page.people) - len(listed)}
        # A repeated cursor would never end.
        more = page.more and page.cursor not in (None, cursor)
        return BackfillPage(page.cursor, more, listed=listed, counts=counts, total=page.total)


class KnownPeople:
    """Everyone of the connection who is in the store."""

    def __init__(self, people: PeopleIndex, connection: str) -> None:
        self._people = people
        self._connection = connection

    async def total(self) -> int | None:
        return await self._people.count(self._connection)

    async def page(self, cursor: str | None) -> BackfillPage:
        found = await self._people.page(self._connection, after=int(cursor or 0), limit=PAGE_SIZE)
        last = str(found[-1][0]) if found else cursor
        keys = [key for _, key in found]
        return BackfillPage(last, len(found) == PAGE_SIZE, keys=keys, counts={"rows": len(found)})


async def only_existing(page: BackfillPage, groups: TargetGroups) -> BackfillPage:
    """The page without the people who have no profile at Klaviyo."""
    everyone: list[PersonKey | ListedPerson] = [*page.keys, *page.listed]
    emails = {email for person in everyone if (email := _klaviyo_email(person))}
    existing = await groups.existing(sorted(emails))
    keys = [key for key in page.keys if _klaviyo_email(key) in existing]
    listed = [person for person in page.listed if _klaviyo_email(person) in existing]
    counts = {**page.counts, "not_at_klaviyo": len(everyone) - len(keys) - len(listed)}
    return replace(page, keys=keys, listed=listed, counts=counts)


def _klaviyo_email(person: PersonKey | ListedPerson) -> str | None:
    """The address of the profile: the one that the mapping chose, where the person was listed."""
    if isinstance(person, ListedPerson):
        return person.observation.identity.get("email")
    return person.email


SourceFactory = Callable[[str, Mapping[str, Any]], Source]
"""Makes the source of a run from its name and its args."""


def person_keys(page: BackfillPage) -> Sequence[PersonKey]:
    """Everyone on a page."""
    return [*page.keys, *(PersonKey(person.person, person.email) for person in page.listed)]
