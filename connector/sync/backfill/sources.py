"""Where a backfill's people come from: each source gives pages, and a cursor behind each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from connector.pipeline.profile_reads import Refresher, sightings
from connector.ports import Backfills, Clock, Fed, GroupKind, Groups, Named, Sighting, Stream
from connector.sync.backfill import addresses
from connector.sync.backfill.addresses import Layout

PAGE = 500
"""People a page, where the size is ours to choose."""

EMAILS, LISTING, SEEN = "emails", "listing", "seen"
GROUPS: dict[str, GroupKind] = {"klaviyo-list": "list", "klaviyo-segment": "segment"}


class Source(Protocol):
    """Pages of people. Raises DeliveryError, or FileFault where a file cannot be read."""

    async def total(self) -> int | None:
        """How many there are, as far as can be said beforehand."""
        ...

    async def page(self, cursor: str | None) -> Fed: ...


class EmailFile:
    """Addresses out of a file that this process can read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._layout: Layout | None = None

    async def total(self) -> int | None:
        layout = await self._look()
        return max(0, await asyncio.to_thread(addresses.count_lines, self._path) - layout.line)

    async def page(self, cursor: str | None) -> Fed:
        layout = await self._look()
        batch = await asyncio.to_thread(addresses.read, self._path, layout, cursor, PAGE)
        return Fed(
            str(batch.behind),
            batch.more,
            named=[Named(None, email) for email in batch.good],
            counts={"rows": len(batch.good) + len(batch.bad), "invalid_rows": len(batch.bad)},
            notes=[f"line {line} {why}" for line, why in batch.bad],
        )

    async def _look(self) -> Layout:
        if self._layout is None:
            self._layout = await asyncio.to_thread(addresses.look, self._path)
        return self._layout


class Group:
    """Members of a Klaviyo list or segment."""

    def __init__(self, groups: Groups, kind: GroupKind, id: str) -> None:
        self._groups = groups
        self._kind: GroupKind = kind
        self._id = id

    async def total(self) -> int | None:
        return await self._groups.count(self._kind, self._id)

    async def page(self, cursor: str | None) -> Fed:
        page = await self._groups.members(self._kind, self._id, cursor)
        named = [Named(None, member.email) for member in page.members if member.email]
        without = len(page.members) - len(named)
        counts = {"rows": len(page.members), "no_email": without}
        return Fed(page.cursor, page.more, named=named, counts=counts)


class Listing:
    """Everybody whom the platform lists, as it shows them: nobody is read singly."""

    def __init__(
        self, stream: Stream, refresher: Refresher, words: frozenset[str], clock: Clock
    ) -> None:
        self._stream = stream
        self._refresher = refresher
        self._words = words
        self._clock = clock

    async def total(self) -> int | None:
        return None

    async def page(self, cursor: str | None) -> Fed:
        page = await self._stream.page(cursor, self._words, backfill=True)
        seen = sightings(self._refresher, page, self._clock.now(), backfill=True)
        counts = {"rows": len(page.people), "no_email": len(page.people) - len(seen)}
        # A cursor that repeats would go on for ever.
        more = page.more and page.cursor not in (None, cursor)
        return Fed(page.cursor, more, seen=seen, counts=counts, total=page.total)


class EverSeen:
    """Everybody whom the connection has ever seen."""

    def __init__(self, backfills: Backfills, connection: str) -> None:
        self._backfills = backfills
        self._connection = connection

    async def total(self) -> int | None:
        return await self._backfills.ever_seen(self._connection)

    async def page(self, cursor: str | None) -> Fed:
        found = await self._backfills.seen_after(self._connection, int(cursor or 0), PAGE)
        last = str(found[-1][0]) if found else cursor
        named = [name for _, name in found]
        return Fed(last, len(found) == PAGE, named=named, counts={"rows": len(found)})


async def only_known(page: Fed, groups: Groups) -> Fed:
    """The page without those of whom Klaviyo has no profile."""
    everybody: list[Named | Sighting] = [*page.named, *page.seen]
    emails = {email for who in everybody if (email := _address(who))}
    known = await groups.known(sorted(emails))
    named = [name for name in page.named if _address(name) in known]
    seen = [sight for sight in page.seen if _address(sight) in known]
    left_out = len(page.named) + len(page.seen) - len(named) - len(seen)
    counts = {**page.counts, "not_at_klaviyo": left_out}
    return replace(page, named=named, seen=seen, counts=counts)


def _address(who: Named | Sighting) -> str | None:
    """Where a sighting is told: the mapping's address, not the listing's."""
    if isinstance(who, Sighting):
        return who.observation.identity.get("email")
    return who.email


Sources = Callable[[str, Mapping[str, Any]], Source]
"""Makes the source of a run, of its name and its args."""


def names_of(page: Fed) -> Sequence[Named]:
    """Everybody on a page, by name."""
    return [*page.named, *(Named(sight.person, sight.email) for sight in page.seen)]
