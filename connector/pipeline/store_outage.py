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
    """The result of `work`, which is repeated every `every` seconds while the store is unavailable,
    for up to `timeout` seconds. Logs once that it waits, and once that it no longer does.
    Raises StoreError."""
    # Not by the clock: a process that was frozen meanwhile has not waited.
    waited = 0.0
    while True:
        try:
            found = await work()
        except StoreError as error:
            if error.problem is not Problem.STORE_UNAVAILABLE or waited >= timeout:
                raise
            if not waited:
                log.get("store").error(
                    "store_unavailable", problem=error.problem.value, detail=error.detail
                )
            waited += every
            await clock.sleep(every)
        else:
            if waited:
                problem = Problem.STORE_UNAVAILABLE.value
                log.get("store").info("store_available", problem=problem)
            return found
