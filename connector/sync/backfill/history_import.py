"""What happened to people before the connector was there: told once, and flagged as past
(promise 9)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from connector.domain.records import Appended, Record
from connector.ports import BackfillPage, History, PersonRef
from connector.sync.backfill.sources import Source, person_keys

SLICE_SIZE = 20
"""People whose past is asked for between two saved cursors: so many are asked for again after a
kill, and told of once all the same."""

StoreRecords = Callable[[Sequence[Record]], Awaitable[Appended]]
"""Stores records of the past for the lane of events."""


class SlicedSource:
    """Another source's pages, `SLICE` people at a time."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._cached: tuple[str | None, BackfillPage] | None = None

    async def total(self) -> int | None:
        return await self._source.total()

    async def page(self, cursor: str | None) -> BackfillPage:
        offset, _, inner = (cursor or "0|").partition("|")
        offset_start, page = int(offset), await self._source_page(inner or None)
        everybody = person_keys(page)
        names = everybody[offset_start : offset_start + SLICE_SIZE]
        next_offset = offset_start + len(names)
        if next_offset < len(everybody):
            return BackfillPage(
                f"{next_offset}|{inner}", True, keys=names, counts={"rows": len(names)}
            )
        # Rows without a person are counted with the last of the page.
        rows = page.counts.get("rows", len(everybody)) - offset_start
        counts = {**page.counts, "rows": rows}
        return BackfillPage(
            f"0|{page.cursor or ''}",
            page.more,
            keys=names,
            counts=counts,
            notes=page.notes,
            total=page.total,
        )

    async def _source_page(self, cursor: str | None) -> BackfillPage:
        if self._cached is None or self._cached[0] != cursor:
            self._cached = (cursor, await self._source.page(cursor))
        return self._cached[1]


class HistoryImport:
    """Asks the platform for people's past and keeps it. What is kept already is known again by
    its key, so a second run tells nothing."""

    def __init__(self, history: History, store_records: StoreRecords) -> None:
        self._history = history
        self._store_records = store_records

    async def import_page(self, page: BackfillPage, args: Mapping[str, Any]) -> BackfillPage:
        """The page without its people, and what their past came to in its counts. `args` are the
        run's: `since` and `until` in ms, `dry_run`. Raises DeliveryError, StoreError."""
        counts: Counter[str] = Counter(page.counts)
        for name in page.keys:
            person = PersonRef(0, name.person, name.email, b"", backfill=True)
            events = await self._history.events(person, args["since"])
            records = [record for record in events if record.occurred_at < args["until"]]
            if args["dry_run"]:
                counts["would_import"] += len(records)
            elif records:
                done = await self._store_records(records)
                counts["imported"] += done.accepted
                counts["already_known"] += done.duplicates
        return replace(page, keys=(), counts=counts)
