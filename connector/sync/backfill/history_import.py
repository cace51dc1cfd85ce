"""Past events of people, imported once and flagged as historical (guarantee 9)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from connector.domain.records import Appended, Record
from connector.ports import BackfillPage, History, PersonRef
from connector.sync.backfill.sources import Source, person_keys

SLICE_SIZE = 20
"""People between two saved cursors. After a kill the events of at most this many people are
requested again; their keys make sure that each event is stored once."""

StoreRecords = Callable[[Sequence[Record]], Awaitable[Appended]]
"""Stores past events for the lane of events."""


def no_history(connection: str) -> str:
    """Why a connection without a HistoryImport cannot import past events."""
    return (
        f"past events of {connection} cannot be imported: its platform offers none, or the module "
        "`events` is off; switch it on, or start the backfill without --events"
    )


class SlicedSource:
    """The pages of another source, cut into slices of `SLICE_SIZE` people.

    The cursor is `offset|cursor`: the offset in the page that the source's cursor leads to.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._cached: tuple[str | None, BackfillPage] | None = None

    async def total(self) -> int | None:
        return await self._source.total()

    async def page(self, cursor: str | None) -> BackfillPage:
        offset_text, _, inner = (cursor or "0|").partition("|")
        offset, page = int(offset_text), await self._source_page(inner or None)
        all_keys = person_keys(page)
        keys = all_keys[offset : offset + SLICE_SIZE]
        next_offset = offset + len(keys)
        if next_offset < len(all_keys):
            return BackfillPage(
                f"{next_offset}|{inner}", True, keys=keys, counts={"rows": len(keys)}
            )
        # Rows without a person are counted with the last slice of the page.
        rows = page.counts.get("rows", len(all_keys)) - offset
        return BackfillPage(
            f"0|{page.cursor or ''}",
            page.more,
            keys=keys,
            counts={**page.counts, "rows": rows},
            notes=page.notes,
            total=page.total,
        )

    async def _source_page(self, cursor: str | None) -> BackfillPage:
        if self._cached is None or self._cached[0] != cursor:
            self._cached = (cursor, await self._source.page(cursor))
        return self._cached[1]


class HistoryImport:
    """Requests people's past events from the platform and stores them. Events that are stored
    already are recognised by their keys, so a second run sends nothing."""

    def __init__(self, history: History, store_records: StoreRecords) -> None:
        self._history = history
        self._store_records = store_records

    async def import_page(self, page: BackfillPage, args: Mapping[str, Any]) -> BackfillPage:
        """The page without its people. Its counts say how many events were imported, already
        known, or would be imported.

        `args` are those of the run: `since` and `until` in ms, `dry_run`. Raises DeliveryError and
        StoreError.
        """
        counts: Counter[str] = Counter(page.counts)
        for key in page.keys:
            person = PersonRef(0, key.person, key.email, b"", backfill=True)
            events = await self._history.events(person, args["since"])
            records = [record for record in events if record.occurred_at < args["until"]]
            if args["dry_run"]:
                counts["would_import"] += len(records)
            elif records:
                appended = await self._store_records(records)
                counts["imported"] += appended.accepted
                counts["already_known"] += appended.duplicates
        return replace(page, keys=(), counts=counts)
