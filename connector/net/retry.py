"""How long to wait before trying again, and reads that are repeated in place.

Records wait in the outbox, so their retries are due times and cost no waiting task: `Backoff`
computes them. A read that a person or a loop waits for is repeated in place: `retry_read`, the
only use of tenacity.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt

from connector.domain.errors import AmbiguousError, RetryLater
from connector.ports import Clock

T = TypeVar("T")

_MAX_DOUBLINGS = 30


class Backoff:
    """Exponential backoff with jitter, in seconds: after the n-th failure a random time between
    half and all of `base` · 2^(n-1), capped at `maximum`."""

    def __init__(self, base: float, maximum: float) -> None:
        self._base, self._maximum = base, maximum

    def __call__(self, attempts: int, at_least: float = 0.0) -> float:
        doublings = min(max(attempts - 1, 0), _MAX_DOUBLINGS)
        whole = min(self._maximum, self._base * 2.0**doublings)
        return max(at_least, random.uniform(whole / 2, whole))


async def retry_read(read: Callable[[], Awaitable[T]], *, clock: Clock, attempts: int = 3) -> T:
    """Repeat a read that changes nothing, waiting at least as long as the remote side asks for.

    Raises the last error when `attempts` are used up, and at once what a repeat cannot fix.
    """
    backoff = Backoff(0.5, 10.0)

    def wait(state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        return backoff(state.attempt_number, error.after if isinstance(error, RetryLater) else 0.0)

    async def attempt() -> T:
        return await read()

    retrying = AsyncRetrying(
        retry=retry_if_exception_type((RetryLater, AmbiguousError)),
        stop=stop_after_attempt(attempts),
        wait=wait,
        sleep=clock.sleep,
        reraise=True,
    )
    return await retrying(attempt)
