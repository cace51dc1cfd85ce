"""The workers that notify the targets of `[[notify]]`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from connector.config import Config
from connector.net import http
from connector.pipeline.lease import ResourceLease
from connector.ports import Clock, Store
from connector.ports.workers import Loop
from connector.runtime.metrics import Metrics
from connector.runtime.supervisor import SupervisedWorker
from connector.service import Commands, notify
from connector.service.process import DEFAULT_PATIENCE

_CANCEL_TIMEOUT = 1.0


class NotificationWorkers:
    """Runs a notifier and its deliveries; `config` is the configuration in use."""

    def __init__(
        self,
        config: Callable[[], Config],
        store: Store,
        lease: ResourceLease,
        commands: Commands,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self.workers: list[SupervisedWorker] = []
        self._sent: dict[str, notify.Sent] = {}
        self._config = config
        self._store = store
        self._lease = lease
        self._commands = commands
        self._clock = clock
        self._metrics = metrics

    async def restart(self) -> None:
        """Notify the targets that are configured now."""
        await asyncio.gather(*(worker.stop(_CANCEL_TIMEOUT) for worker in self.workers))
        self.workers.clear()
        config = self._config()
        targets = notify.targets(config.notify)
        if not targets:
            return
        notifier = notify.Notifier(
            targets,
            self._commands.attention,
            self._store.notifications,
            lambda: self._lease.usable,
            self._clock,
            notification_poster(config, self._clock),
            source=config.server.public_url,
            sent=self._sent,
        )
        loops: list[Loop] = [notifier, *notifier.deliveries]
        for loop in loops:
            worker = SupervisedWorker(
                "notifications", loop, subject="notify", clock=self._clock, metrics=self._metrics
            )
            self.workers.append(worker)
            worker.start()


def notification_poster(config: Config, clock: Clock) -> notify.Post:
    """How a target of `[[notify]]` is reached."""
    return partial(http.post, clock=clock, allow_http=frozenset(config.security.allow_http))


def patience(config: Config) -> float:
    """Of `/healthz` and the status, in seconds: the shortest of all targets."""
    active = [target.patience for target in notify.targets(config.notify)]
    return min(active, default=DEFAULT_PATIENCE)
