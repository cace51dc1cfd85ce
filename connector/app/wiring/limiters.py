"""One rate limiter per account or credential, however many connections share it."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from connector.domain.lanes import QuotaUsage
from connector.net.rate_limit import Limit, RateLimiter
from connector.ports import Clock, Store
from connector.runtime.metrics import Metrics, account_label

_DAY, _MINUTES = 86_400, 180
"""Seconds of spent quota that are read at start: as long as the longest window, and more."""


class _Use(NamedTuple):
    """What one connection asks of an account's limiter."""

    limits: Mapping[str, Limit]
    share: float
    live_reserve: float


def _strictest(uses: Collection[_Use]) -> _Use:
    """What all of them are kept to: the lowest limits, the smallest share, the largest reserve."""
    return _Use(
        _lowest([use.limits for use in uses]),
        min(use.share for use in uses),
        max(use.live_reserve for use in uses),
    )


def _lowest(limits: Sequence[Mapping[str, Limit]]) -> Mapping[str, Limit]:
    """By endpoint."""
    if all(one == limits[0] for one in limits):
        return limits[0]
    found: dict[str, Limit] = {}
    for endpoint, limit in (item for one in limits for item in one.items()):
        other = found.get(endpoint, limit)
        daily = [it.daily for it in (limit, other) if it.daily is not None]
        found[endpoint] = Limit(
            min(limit.burst, other.burst),
            min(limit.steady, other.steady),
            min(daily, default=None),
        )
    return found


class RateLimiters:
    """One rate limiter per account or credential, however many connections share it."""

    def __init__(self, store: Store, clock: Clock, metrics: Metrics) -> None:
        self._store = store
        self._clock = clock
        self._metrics = metrics
        self._limiters: dict[str, RateLimiter] = {}
        self._uses: dict[str, dict[str, _Use]] = {}
        self._in_force: dict[str, _Use] = {}

    async def of(
        self,
        account: str,
        limits: Mapping[str, Limit],
        *,
        connection: str,
        share: float = 1.0,
        live_reserve: float = 0.0,
    ) -> RateLimiter:
        """The limiter of an account, with what was granted before a restart. Connections that share
        an account share one quota: the lowest limits, the smallest share and the largest reserve
        among them count."""
        spent = None if account in self._limiters else await self._spent(account, limits)
        # Connections start together: another may have created or dropped it meanwhile.
        uses, use = self._uses.setdefault(account, {}), _Use(limits, share, live_reserve)
        known, uses[connection] = uses.get(connection), use
        if account not in self._limiters:
            self._limiters[account] = self._create(account)
            self._limiters[account].load(spent or ())
        if known is None and len(uses) > 1:
            # Not all of them: of three hundred each would look at all that were built before it.
            self._apply(account, _strictest([self._in_force[account], use]))
        elif known != use:
            self._adjust(account)
        return self._limiters[account]

    def _adjust(self, account: str) -> None:
        if uses := self._uses[account].values():
            self._apply(account, _strictest(uses))

    def _apply(self, account: str, use: _Use) -> None:
        if use != self._in_force[account]:
            self._in_force[account] = use
            self._limiters[account].adjust(
                use.limits, share=use.share, live_reserve=use.live_reserve
            )

    def _create(self, account: str) -> RateLimiter:
        label = account_label(account)

        def blocked(endpoint: str, wait: float) -> None:
            self._metrics.quota_wait.labels(label, endpoint).inc(wait)

        use = self._in_force[account] = _strictest(self._uses[account].values())
        return RateLimiter(
            label,
            use.limits,
            clock=self._clock,
            share=use.share,
            live_reserve=use.live_reserve,
            on_wait=blocked,
        )

    async def reload(self, connections: Collection[str]) -> None:
        """Count again what was granted to the accounts of these connections, because another
        process may have called them. Raises StoreError."""
        for account, limiter in list(self._limiters.items()):
            if not self._uses.get(account, {}).keys() & connections:
                continue
            limiter.load(await self._spent(account, limiter.limits))

    async def _spent(self, account: str, limits: Mapping[str, Limit]) -> Sequence[QuotaUsage]:
        now = self._clock.now() // 1000
        since = {name: now - (_DAY if limits[name].daily else _MINUTES) for name in limits}
        return await self._store.facts.usage_since(account_label(account), since)

    @contextmanager
    def replacing(self, kept: Container[str]) -> Iterator[None]:
        """While all connections but these are built: which of them uses which account is set again.
        After an error it is as it was before."""
        before = {account: dict(uses) for account, uses in self._uses.items()}
        for account, uses in before.items():
            self._uses[account] = {name: use for name, use in uses.items() if name in kept}
        try:
            yield
        except BaseException:
            self._uses = before
            raise
        finally:
            for account in self._uses.keys() & self._limiters.keys():
                self._adjust(account)

    def drop(self, account: str) -> bool:
        """Drop a limiter that another one replaces: what it granted is in the store. Whether there
        was one."""
        self._uses.pop(account, None)
        self._in_force.pop(account, None)
        return self._limiters.pop(account, None) is not None

    def usage(self) -> list[tuple[str, tuple[str, ...], str, int, int]]:
        """(account as labelled, its connections, endpoint, used, allowed) in the last minute."""
        return [
            (limiter.account, tuple(self._uses.get(account, ())), endpoint, used, allowed)
            for account, limiter in self._limiters.items()
            for endpoint, used, allowed in limiter.last_minute()
        ]

    def publish_metrics(self) -> None:
        for limiter in self._limiters.values():
            for endpoint, window, left in limiter.remaining():
                self._metrics.quota.labels(limiter.account, endpoint, window).set(left)
