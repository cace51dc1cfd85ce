"""Group commit: items that arrive during a commit share the next one.

A burst costs a few fsyncs, not one per item. Each caller waits for the commit of its own item.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from connector.domain.errors import Problem, StoreError, StoreOutage

T = TypeVar("T")
R = TypeVar("R")

_MAX_GROUP_ROWS = 100
"""As many as are stored in about 50 ms: everything else that writes waits meanwhile."""
_MAX_WAITING_ROWS = 50_000


class GroupCommit(Generic[T, R]):
    """Commits items in groups.

    `commit` stores items in one transaction and returns one result per item, in their order.
    `size` is the number of rows of an item; at most `max_waiting_rows` wait for a commit.
    """

    def __init__(
        self,
        commit: Callable[[Sequence[T]], Awaitable[Sequence[R]]],
        size: Callable[[T], int],
        *,
        max_waiting_rows: int = _MAX_WAITING_ROWS,
    ) -> None:
        self._commit = commit
        self._size = size
        self._max_waiting_rows = max_waiting_rows
        self._waiting: list[tuple[T, asyncio.Future[R]]] = []
        self._rows = 0
        self._committing: asyncio.Task[None] | None = None

    async def put(self, item: T) -> R:
        """Store the item and return its result. Raises StoreError: it is not stored."""
        size = self._size(item)
        if self._rows + size > self._max_waiting_rows:
            raise StoreError(
                Problem.STORE_UNAVAILABLE,
                f"{self._rows} rows wait to be stored, allowed {self._max_waiting_rows}",
            )
        done: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, done))
        self._rows += size
        if self._committing is None:
            self._committing = asyncio.create_task(self._commit_all())
        return await done

    async def _commit_all(self) -> None:
        try:
            while self._waiting:
                await self._store(self._next_group())
        finally:
            self._committing = None

    def _next_group(self) -> list[tuple[T, asyncio.Future[R]]]:
        rows = count = 0
        while count < len(self._waiting) and (count == 0 or rows < _MAX_GROUP_ROWS):
            rows += self._size(self._waiting[count][0])
            count += 1
        group, self._waiting = self._waiting[:count], self._waiting[count:]
        self._rows -= rows
        return group

    async def _store(self, group: list[tuple[T, asyncio.Future[R]]]) -> None:
        """Store a group in one transaction. If that fails, store each item in its own, so that an
        item that cannot be stored fails alone."""
        try:
            results = await self._commit([item for item, _ in group])
        except Exception as error:
            if len(group) > 1 and not isinstance(error, StoreOutage):
                for item in group:
                    await self._store([item])
                return
            failure = error if isinstance(error, StoreError) else _store_error(error)
            for _, done in group:
                if not done.done():
                    done.set_exception(failure)
            return
        for (_, done), result in zip(group, results, strict=True):
            if not done.done():
                done.set_result(result)


def _store_error(error: Exception) -> StoreError:
    return StoreError(Problem.STORE_UNAVAILABLE, type(error).__name__)
