"""Waiting for a store that is unavailable."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from connector.domain.errors import Problem, StoreError, StoreInUse
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
    """The result of `work`, which is repeated every `every` seconds while the store is unavailable
    or in use by older versions, for up to `timeout` seconds. Logs once that it waits, and once that
    it no longer does. Raises StoreError."""
    # Not by the clock: a process that was frozen meanwhile has not waited.
    waited, problem = 0.0, ""
    while True:
        try:
            found = await work()
        except StoreError as error:
            waits = isinstance(error, StoreInUse) or error.problem is Problem.STORE_UNAVAILABLE
            if not waits or waited >= timeout:
                raise
            problem = error.problem.value
            if not waited:
                log.get("store").error("store_unavailable", problem=problem, detail=error.detail)
            waited += every
            await clock.sleep(every)
        else:
            if waited:
                log.get("store").info("store_available", problem=problem)
            return found
