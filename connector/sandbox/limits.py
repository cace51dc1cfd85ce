"""Klaviyo's rate limits: fixed windows per operation, 1 s (burst), 60 s (steady) and a day.

Source of the numbers: `x-klaviyo-ratelimit` in the published spec. Source of the headers: live
responses recorded by third parties, where `Remaining` and `Reset` describe the burst window.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

Header = tuple[bytes, bytes]
_DAY = 86_400


@dataclass(frozen=True, slots=True)
class Quota:
    """Requests allowed in one second (`burst`), in one minute (`steady`) and in a day."""

    burst: int
    steady: int
    daily: int | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """`retry_after`: None if the request is allowed, else whole seconds to wait."""

    retry_after: int | None
    headers: tuple[Header, ...]


class Limits:
    """Counts requests per operation. `now` returns seconds since 1970.

    Guesses: windows are aligned to the clock, and a throttled request costs nothing.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._used: dict[tuple[str, int], tuple[int, int]] = {}

    def acquire(self, operation: str, quota: Quota) -> Verdict:
        """Count one request of `operation`, or return how long to wait."""
        now = self._now()
        burst = self._count(operation, 1, now)
        steady = self._count(operation, 60, now)
        daily = self._count(operation, _DAY, now)
        if quota.daily is not None and daily >= quota.daily:
            return self._refuse(max(1, math.ceil(_DAY - now % _DAY)))
        if steady >= quota.steady:
            return self._refuse(max(1, math.ceil(60 - now % 60)))
        if burst >= quota.burst:
            return self._refuse(1)
        self._used[operation, 1] = (int(now), burst + 1)
        self._used[operation, 60] = (int(now // 60), steady + 1)
        limit = f"{quota.burst}, {quota.burst};w=1, {quota.steady};w=60"
        if quota.daily is not None:
            self._used[operation, _DAY] = (int(now // _DAY), daily + 1)
            limit += f", {quota.daily};w={_DAY}"
        return Verdict(
            None,
            (
                (b"ratelimit-limit", limit.encode()),
                (b"ratelimit-remaining", str(quota.burst - burst - 1).encode()),
                (b"ratelimit-reset", b"0"),
            ),
        )

    def _count(self, operation: str, width: int, now: float) -> int:
        window, used = self._used.get((operation, width), (-1, 0))
        return used if window == int(now // width) else 0

    @staticmethod
    def _refuse(seconds: int) -> Verdict:
        return Verdict(seconds, ((b"retry-after", str(seconds).encode()),))
