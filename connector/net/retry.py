"""The only tenacity: how long to wait before trying again.

Records wait in the outbox, so their retries are due times and cost no waiting task (`backoff`).
Reads that a person or a loop waits for are repeated in place (`reading`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    stop_after_attempt,
    wait_random_exponential,
)

from connector.domain.errors import AmbiguousError, RetryLater
from connector.ports import Clock

T = TypeVar("T")


class Backoff:
    """Seconds to wait after the n-th failure: between half and all of base · 2^(n-1), capped."""

    def __init__(self, base: float, maximum: float) -> None:
        self._base, self._maximum = base, maximum
        self._jitter = wait_random_exponential(multiplier=base, max=maximum)

    def __call__(self, attempts: int, at_least: float = 0.0) -> float:
        state = RetryCallState(None, None, (), {})  # type: ignore[arg-type]
        state.attempt_number = max(1, min(attempts, 30))
        half = min(self._maximum, self._base * 2.0 ** min(attempts - 1, 30)) / 2
        return max(at_least, half + self._jitter(state) / 2)


async def retry_read(read: Callable[[], Awaitable[T]], *, clock: Clock, attempts: int = 3) -> T:
    """Repeat a read that changes nothing, honouring what the far end said about waiting.

    Raises the last error when `attempts` are used up, and at once for what a repeat cannot mend.
    """
    backoff = Backoff(0.5, 10.0)

    def wait(state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        return backoff(state.attempt_number, error.after if isinstance(error, RetryLater) else 0.0)

    async for attempt in AsyncRetrying(
        retry=retry_if_exception_type((RetryLater, AmbiguousError)),
        stop=stop_after_attempt(attempts),
        wait=wait,
        sleep=clock.sleep,
        reraise=True,
    ):
        with attempt:
            return await read()
    raise AssertionError("tenacity raises the last error")
