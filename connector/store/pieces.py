"""Long work as many short transactions, and how many rows one of them changes.

On SQLite all else that is written waits for a transaction, webhooks included. How long a row takes
depends on the machine, its disk and what else runs, so the number of rows follows from how long
the last transactions of the same work took. A caller may set a limit; only this
module decides below it.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from sqlalchemy import Connection

from connector.store.database import Database
from connector.store.sqlite import Work

T = TypeVar("T")
After = TypeVar("After")
Item = TypeVar("Item")

TARGET = 0.025
"""Seconds that a piece should take without its commit. The goal is 50 ms for every piece: what is
above the target is left to pieces that a busy machine interrupts."""
LEAST = 20
"""Rows. With fewer, most of the time would be that of beginning and committing."""
_CAUTION = 8
"""The first piece, of which nothing is known, has this part of the most rows: what 1,000 rows took
in 0.15 s on a slow machine fits into the target."""


class Pieces:
    """The transactions of one kind of work, of at most `most` rows each: a bound of what they lock
    and of the memory that they need, whatever was measured."""

    def __init__(self, database: Database, most: int) -> None:
        self._database = database
        self._most = most
        self._rows = max(most // _CAUTION, LEAST)

    @property
    def rows(self) -> int:
        """How many rows the next piece should have."""
        return self._rows

    async def write(
        self, work: Work[T], *, rows: int | Callable[[T], int], patient: bool = False
    ) -> T:
        """One piece, of `rows` rows, or as many as its result says. Raises as Database.write."""
        timer = _Timer()
        result = await self._database.write(timer.around(work), patient=patient)
        self._learn(rows if isinstance(rows, int) else rows(result), timer.seconds)
        return result

    async def each(
        self, part: Callable[[Connection, After, int], tuple[int, After | None]], start: After
    ) -> int:
        """One piece after the other: `part(connection, after, rows)` works on up to `rows` rows
        that follow `after`, and returns a number and where the next piece begins, None at the end.
        Returns the sum of the numbers. Raises as Database.write."""
        total = 0
        after: After | None = start
        while after is not None:
            rows = self._rows

            @functools.wraps(part)
            def work(c: Connection, after: After = after, rows: int = rows) -> Any:
                return part(c, after, rows)

            timer = _Timer()
            count, after = await self._database.write(timer.around(work))
            total += count
            if after is not None:
                self._learn(rows, timer.seconds)
        return total

    async def each_found(
        self,
        look: Callable[[Connection, int, int], Sequence[int]],
        part: Callable[[Connection, Sequence[int]], int],
    ) -> int:
        """The same where rows are looked for beside the writer, because they may be few of a
        million: `look(connection, after, rows)` returns up to `rows` keys above `after`, in their
        order, and `part(connection, keys)` works on those that are still as they were found."""
        total, after, rows, found = 0, 0, 0, 0
        while found == rows:
            rows = self._rows

            @functools.wraps(look)
            def read(c: Connection, after: int = after, rows: int = rows) -> Sequence[int]:
                return look(c, after, rows)

            keys = await self._database.read(read)
            found = len(keys)
            if keys:
                after = keys[-1]

                @functools.wraps(part)
                def work(c: Connection, keys: Sequence[int] = keys) -> int:
                    return part(c, keys)

                total += await self.write(work, rows=found)
        return total

    def parts(self, items: Sequence[Item]) -> Iterator[tuple[Sequence[Item], bool]]:
        """The items of one piece after the other, and whether they are the last; without items one
        piece that has none. How many is decided when they are taken."""
        start, is_last = 0, False
        while not is_last:
            part = items[start : start + self._rows]
            start += len(part)
            is_last = start >= len(items)
            yield part, is_last

    def _learn(self, rows: int, seconds: float) -> None:
        """A piece that was not full says only that it took too long, and one of few rows not even
        that: what every transaction costs is the larger part."""
        is_full, is_slow = rows >= self._rows, rows >= LEAST and seconds > TARGET
        if is_full or is_slow:
            fitting = rows * TARGET / max(seconds, 1e-6)
            steady = max(self._rows / 2, min(fitting, self._rows * 2))
            self._rows = round(max(LEAST, min(steady, self._most)))


class _Timer:
    """Seconds that work took in its thread: without the wait for its turn, and its commit. Time in
    which the thread did not run counts a quarter: it waited for the disk, which is shorter with
    fewer rows, or for other programs, which is not."""

    seconds = 0.0

    def around(self, work: Work[T]) -> Work[T]:
        @functools.wraps(work)
        def timed(c: Connection) -> T:
            began, used = time.perf_counter(), time.thread_time()
            try:
                return work(c)
            finally:
                passed, running = time.perf_counter() - began, time.thread_time() - used
                self.seconds = running + max(passed - running, 0) / 4

        return timed
