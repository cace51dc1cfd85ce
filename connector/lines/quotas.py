"""One governor per account or credential, however many connections share it."""

from __future__ import annotations

from collections.abc import Mapping

from connector.governor import Governor, Limit
from connector.metrics import Metrics, account_label
from connector.ports import Clock, Store

_DAY, _MINUTES = 86_400, 180
"""Seconds of spent quota that are read at start: as long as the longest window, and more."""


class Quotas:
    """One governor per account or credential, however many connections share it."""

    def __init__(self, store: Store, clock: Clock, metrics: Metrics) -> None:
        self._store = store
        self._clock = clock
        self._metrics = metrics
        self._governors: dict[str, Governor] = {}
        self._uses: dict[str, dict[str, tuple[float, float]]] = {}

    async def of(
        self,
        account: str,
        limits: Mapping[str, Limit],
        *,
        connection: str,
        share: float = 1.0,
        live_reserve: float = 0.0,
    ) -> Governor:
        """The governor of an account, remembering what was granted before a restart. Connections
        that share an account are shares of one quota: the smallest share of those that use it
        counts, and the largest reserve."""
        uses = self._uses.setdefault(account, {})
        uses[connection] = (share, live_reserve)
        share = min(share for share, _ in uses.values())
        live_reserve = max(reserve for _, reserve in uses.values())
        governor = self._governors.get(account)
        if governor is not None:
            governor.adjust(limits, share=share, live_reserve=live_reserve)
            return governor
        label = account_label(account)
        governor = Governor(
            label,
            limits,
            clock=self._clock,
            share=share,
            live_reserve=live_reserve,
            blocked=lambda endpoint, wait: self._metrics.quota_wait.labels(label, endpoint).inc(
                wait
            ),
        )
        longest = _DAY if any(limit.daily for limit in limits.values()) else _MINUTES
        since = self._clock.now() // 1000 - longest
        governor.load(await self._store.memory.spent(since_second=since))
        self._governors[account] = governor
        return governor

    def start_over(self) -> None:
        """The configuration is read again: who uses which account is told anew."""
        self._uses.clear()

    def forget(self, account: str) -> None:
        """Drop a governor that another has taken over from: what it granted is in the store."""
        self._governors.pop(account, None)
        self._uses.pop(account, None)

    def publish(self) -> None:
        for governor in self._governors.values():
            for endpoint, window, left in governor.remaining():
                self._metrics.quota.labels(governor.account, endpoint, window).set(left)
