"""The only rate limiter: no request is sent without a grant.

The unit is an account (Klaviyo) or a credential (a platform). Each endpoint has windows, and no
window of that length, wherever it begins, ever holds more than our share of the limit: the remote
API's fixed windows are then respected whatever their phase. Windows are a little longer than the
remote API's, because requests granted evenly can arrive bunched. What was granted is saved with the
claim it was granted for and read at start, so a restart does not spend a minute's quota twice.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from connector.domain.lanes import QuotaUsage
from connector.ports import Clock, Grant

SaveUsage = Callable[[Sequence[QuotaUsage]], Awaitable[None]]
"""Saves quota that was granted outside a claim."""
_MARGIN = 0.02
_MIN_WAIT = 0.005
_WINDOW_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Limit:
    """What the remote API allows: requests per second, minute and, where it has one, day."""

    burst: int
    steady: int
    daily: int | None = None


@dataclass(slots=True)
class _Window:
    name: str
    limit: int
    backfill_limit: int
    seconds: float
    granted: deque[float]

    def expire(self, now: float) -> None:
        while self.granted and self.granted[0] <= now - self.seconds:
            self.granted.popleft()

    def available(self, backfill: bool) -> int:
        return (self.backfill_limit if backfill else self.limit) - len(self.granted)

    def wait(self, now: float, backfill: bool) -> float:
        """Seconds until one more fits."""
        over = -self.available(backfill)
        return self.granted[over] + self.seconds - now if over >= 0 else 0.0


def _window(name: str, allowed: int, seconds: float, share: float, reserve: float) -> _Window:
    """A window of our share; stretched where the share of it is less than one request."""
    ours = allowed * share
    if ours < 1:
        seconds, ours = seconds / ours, 1
    limit = math.floor(ours)
    backfill = max(1, math.floor(limit * (1 - reserve)))
    return _Window(name, limit, backfill, seconds * (1 + _MARGIN), deque())


class RateLimiter:
    """connector.ports.Quota of one account. `share` is the part of every limit that is ours,
    `live_reserve` the part of that share which no backfill may touch."""

    def __init__(
        self,
        account: str,
        limits: Mapping[str, Limit],
        *,
        clock: Clock,
        share: float,
        live_reserve: float = 0.0,
        on_wait: Callable[[str, float], None] | None = None,
    ) -> None:
        self.account = account
        self._clock = clock
        self._on_wait = on_wait
        self._blocked_until: dict[str, float] = {}
        self._windows: dict[str, list[_Window]] = {}
        self._spacing: dict[str, ConcurrencyWindow] = {}
        self.adjust(limits, share=share, live_reserve=live_reserve)

    def adjust(
        self, limits: Mapping[str, Limit], *, share: float, live_reserve: float = 0.0
    ) -> None:
        """Other limits or another share from now on; earlier grants still count."""
        before = self._windows
        self.limits = limits
        self._windows = {
            endpoint: [
                _window("second", limit.burst, 1.0, share, live_reserve),
                _window("minute", limit.steady, 60.0, share, live_reserve),
                *(
                    [_window("day", limit.daily, 86_400.0, share, live_reserve)]
                    if limit.daily
                    else []
                ),
            ]
            for endpoint, limit in limits.items()
        }
        for endpoint, windows in self._windows.items():
            granted = max((w.granted for w in before.get(endpoint, [])), key=len, default=deque())
            for window in windows:
                window.granted.extend(granted)

    def reserve(self, endpoint: str, want: int, *, backfill: bool = False) -> Grant:
        """Up to `want` requests now. A grant of none says how long to wait for one."""
        now = self._clock.monotonic()
        windows = self._windows[endpoint]
        blocked = self._blocked_until.get(endpoint, 0.0) - now
        if blocked > 0:
            return Grant(0, blocked)
        for window in windows:
            window.expire(now)
        count = min(want, *(window.available(backfill) for window in windows))
        if count <= 0:
            wait = max(window.wait(now, backfill) for window in windows)
            if self._on_wait:
                self._on_wait(endpoint, wait)
            return Grant(0, max(wait, _MIN_WAIT))
        for window in windows:
            window.granted.extend([now] * count)
        second = self._clock.now() // 1000
        return Grant(count, 0.0, (QuotaUsage(self.account, endpoint, second, count),), now)

    def is_used_up(self, endpoint: str) -> bool:
        """Whether a request to `endpoint` would have to wait now."""
        now, windows = self._clock.monotonic(), self._windows[endpoint]
        for window in windows:
            window.expire(now)
        blocked = self._blocked_until.get(endpoint, 0.0) > now
        return blocked or any(window.available(backfill=False) <= 0 for window in windows)

    async def acquire(
        self, endpoint: str, save_usage: SaveUsage, *, backfill: bool = False
    ) -> None:
        """Wait for quota for one request and save that it was granted."""
        while True:
            grant = self.reserve(endpoint, 1, backfill=backfill)
            if grant.count:
                await save_usage(grant.usage)
                return
            await self._clock.sleep(grant.wait)

    def release(self, endpoint: str, grant: Grant, unused: int) -> None:
        """Give back what was not used of this grant, and of no later one."""
        for window in self._windows[endpoint]:
            for _ in range(min(unused, window.granted.count(grant.at))):
                window.granted.remove(grant.at)

    def slow_down(self, endpoint: str, seconds: float) -> None:
        """Grant nothing for `seconds` (429, 503 with Retry-After, nothing remaining)."""
        until = self._clock.monotonic() + seconds
        self._blocked_until[endpoint] = max(until, self._blocked_until.get(endpoint, 0.0))

    def observe(self, endpoint: str, headers: Mapping[str, str]) -> None:
        """Apply the remote API's headers where they report that less remains than counted here:
        others may share the account. The headers describe the one-second window, and
        `RateLimit-Reset` is always 0 at Klaviyo (recorded), so that it does not say when the window
        ends: at the latest after its whole length."""
        if headers.get("ratelimit-remaining") != "0" or self._used_up(endpoint):
            return
        try:
            reset = float(headers.get("ratelimit-reset", "0"))
        except ValueError:
            reset = 0.0
        self.slow_down(endpoint, min(reset if reset > 0 else _WINDOW_SECONDS, 60.0))

    def _used_up(self, endpoint: str) -> bool:
        """Whether our own requests fill the window of a second: it already makes us wait."""
        second = self._windows[endpoint][0]
        second.expire(self._clock.monotonic())
        return second.available(backfill=False) <= 0

    def spacing(self, endpoint: str) -> ConcurrencyWindow:
        """The window that calls to this endpoint pass, where the limit is so low that a few calls
        arriving together would exceed it."""
        second = self._windows[endpoint][0]
        return self._spacing.setdefault(
            endpoint, ConcurrencyWindow(second.limit, second.seconds, self._clock)
        )

    def load(self, usage: Iterable[QuotaUsage]) -> None:
        """Count what was granted as it is stored, and nothing else: before a restart, or by another
        process. Each grant counts at the end of its second."""
        for windows in self._windows.values():
            for window in windows:
                window.granted.clear()
        now, wall = self._clock.monotonic(), self._clock.now() / 1000
        for spend in sorted(usage, key=lambda s: s.second):
            if spend.account != self.account:
                continue
            at = min(now, now - (wall - spend.second - 1))
            for window in self._windows.get(spend.endpoint, ()):
                if at > now - window.seconds:
                    window.granted.extend([at] * spend.count)

    def last_minute(self) -> Sequence[tuple[str, int, int]]:
        """(endpoint, requests granted in the last minute, requests that may be) of those that were
        granted any."""
        now = self._clock.monotonic()
        found = []
        for endpoint, (_, minute, *_) in self._windows.items():
            if minute.granted:
                minute.expire(now)
            if minute.granted:
                found.append((endpoint, len(minute.granted), minute.limit))
        return found

    def remaining(self) -> Sequence[tuple[str, str, int]]:
        """(endpoint, window, requests left to us), for metrics."""
        now = self._clock.monotonic()
        found = []
        for endpoint, windows in self._windows.items():
            for window in windows:
                window.expire(now)
                found.append((endpoint, window.name, max(0, window.available(False))))
        return found


class ConcurrencyWindow:
    """`async with` it around a call: a call begins while fewer than `limit` are under way or ended
    less than `seconds` ago.

    A grant says when a call may be sent, not when it arrives. Where few calls are allowed per
    second, two that were granted well apart could arrive in the same second; this prevents it.
    """

    def __init__(self, limit: int, seconds: float, clock: Clock) -> None:
        self._limit = limit
        self._clock = clock
        self._seconds = seconds
        self._in_flight = 0
        self._ended_at: deque[float] = deque()
        self._slot_freed = asyncio.Event()

    async def __aenter__(self) -> None:
        while True:
            now = self._clock.monotonic()
            while self._ended_at and self._ended_at[0] <= now - self._seconds:
                self._ended_at.popleft()
            if self._in_flight + len(self._ended_at) < self._limit:
                break
            self._slot_freed.clear()
            wait = self._ended_at[0] + self._seconds - now if self._ended_at else None
            await self._clock.wait(self._slot_freed, wait)
        self._in_flight += 1

    async def __aexit__(self, *_: object) -> None:
        self._in_flight -= 1
        self._ended_at.append(self._clock.monotonic())
        self._slot_freed.set()
