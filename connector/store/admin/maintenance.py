"""Retention and disk space."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Mapping
from pathlib import Path

from connector.domain.errors import StoreError
from connector.domain.lanes import Millis
from connector.domain.records import State
from connector.ports import Pruned
from connector.store import counters
from connector.store.admin import retention, vacuum
from connector.store.database import Database
from connector.store.pieces import Pieces

_MOST_PRUNED = 1_000
_MOST_CLEARED = 2_000
_MOST_FREED = 1_000
"""Rows, or pages, of one transaction."""


class SqlMaintenance:
    """connector.ports.Maintenance. `file` is the SQLite file, None for another database."""

    def __init__(self, database: Database, file: Path | None) -> None:
        self._database = database
        self._pruned = Pieces(database, _MOST_PRUNED)
        self._timeline = Pieces(database, _MOST_PRUNED)
        self._bodies = Pieces(database, _MOST_CLEARED)
        self._freed = Pieces(database, _MOST_FREED)
        self._file = file

    async def prune_records(
        self, *, now: Millis, keep: Mapping[State, int], limit: int, after: int = 0
    ) -> Pruned:
        most = min(limit, self._pruned.rows)
        return await self._pruned.write(
            lambda c: retention.prune_records(c, now, keep, after, most),
            rows=lambda found: found.deleted,
        )

    async def prune_timeline(self, *, before: Millis, limit: int) -> int:
        most = min(limit, self._timeline.rows)
        return await self._timeline.write(
            lambda c: retention.prune_timeline(c, before, most),
            rows=lambda deleted: most if deleted >= most else 0,
        )

    async def clear_bodies(self, *, before: Millis, after: int, limit: int) -> int | None:
        most = min(limit, self._bodies.rows)
        return await self._bodies.write(
            lambda c: retention.clear_bodies(c, before, after, most),
            rows=lambda end: 0 if end is None else most,
        )

    async def fold_counters(self) -> None:
        if self._file is None:
            await self._database.write(counters.fold)

    async def free_pages(self, pages: int) -> int:
        most = min(pages, self._freed.rows)
        return await self._freed.write(lambda c: vacuum.free_pages(c, most), rows=int)

    def size_bytes(self) -> int | None:
        if self._file is None:
            return None
        files = (self._file, self._file.with_name(self._file.name + "-wal"))
        return sum(file.stat().st_size for file in files if file.exists())

    def free_bytes(self) -> int | None:
        return shutil.disk_usage(self._file.parent).free if self._file else None

    async def locked_by(self) -> str | None:
        return await asyncio.to_thread(self._database.locked_by)

    def fault(self) -> StoreError | None:
        return self._database.fault()

    async def aclose(self) -> None:
        await self._database.aclose()
