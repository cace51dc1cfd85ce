"""Waiting for a store that is unavailable."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from connector.domain.errors import Problem, StoreError
from connector.ports import Clock
from connector.runtime import log

T = TypeVar("T")

_RETRY_SECONDS = 1.0


async def until_available(
    work: Callable[[], Awaitable[T]],
    clock: Clock,
    *,
    timeout: float = float("inf"),
    every: float = _RETRY_SECONDS,
) -> T:
    """The result of `work`, which is repeated while the store is unavailable, for up to `timeout`
    seconds. Logs once that it waits, and once that it no longer does.
    Raises StoreError."""
    deadline = clock.monotonic() + timeout
    logged = False
    while True:
        try:
            found = await work()
        except StoreError as error:
            if error.problem is not Problem.STORE_UNAVAILABLE or clock.monotonic() >= deadline:
                raise
            if not logged:
                log.get("store").error(
                    "store_unavailable", problem=error.problem.value, detail=error.detail
                )
            logged = True
            await clock.sleep(every)
        else:
            if logged:
                problem = Problem.STORE_UNAVAILABLE.value
                log.get("store").info("store_available", problem=problem)
            return found
