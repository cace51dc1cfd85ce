"""What happened to people before the connector was there: told once, and flagged as past
(promise 9)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from connector.domain.records import (
    Appended,
    Record,
)
from connector.ports import Fed, History, Whom
from connector.sync.backfill.sources import Source, names_of

SLICE = 20
"""People whose past is asked for between two saved cursors: so many are asked for again after a
kill, and told of once all the same."""

Keep = Callable[[Sequence[Record]], Awaitable[Appended]]
"""Stores records of the past for the lane of events."""


class Slices:
    """Another source's pages, `SLICE` people at a time."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._held: tuple[str | None, Fed] | None = None

    async def total(self) -> int | None:
        return await self._source.total()

    async def page(self, cursor: str | None) -> Fed:
        offset, _, inner = (cursor or "0|").partition("|")
        begin, page = int(offset), await self._whole(inner or None)
        everybody = names_of(page)
        names = everybody[begin : begin + SLICE]
        behind = begin + len(names)
        if behind < len(everybody):
            return Fed(f"{behind}|{inner}", True, named=names, counts={"rows": len(names)})
        # Rows without a person are counted with the last of the page.
        rows = page.counts.get("rows", len(everybody)) - begin
        counts = {**page.counts, "rows": rows}
        return Fed(
            f"0|{page.cursor or ''}",
            page.more,
            named=names,
            counts=counts,
            notes=page.notes,
            total=page.total,
        )

    async def _whole(self, cursor: str | None) -> Fed:
        if self._held is None or self._held[0] != cursor:
            self._held = (cursor, await self._source.page(cursor))
        return self._held[1]


class Historian:
    """Asks the platform for people's past and keeps it. What is kept already is known again by
    its key, so a second run tells nothing."""

    def __init__(self, history: History, keep: Keep) -> None:
        self._history = history
        self._keep = keep

    async def tell(self, page: Fed, args: Mapping[str, Any]) -> Fed:
        """The page without its people, and what their past came to in its counts. `args` are the
        run's: `since` and `until` in ms, `dry_run`. Raises DeliveryError, StoreError."""
        counts: Counter[str] = Counter(page.counts)
        for name in page.named:
            whom = Whom(0, name.person, name.email, b"", backfill=True)
            past = await self._history.events(whom, args["since"])
            told = [record for record in past if record.occurred_at < args["until"]]
            if args["dry_run"]:
                counts["would_tell"] += len(told)
            elif told:
                done = await self._keep(told)
                counts["told"] += done.accepted
                counts["known"] += done.duplicates
        return replace(page, named=(), counts=counts)
