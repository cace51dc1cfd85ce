"""Applying an edited configuration to a running daemon."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from connector.app.connections import Candidate, Connections, Recover
from connector.app.problems import ProcessProblems
from connector.config import Config
from connector.domain.errors import ConfigError, Problem
from connector.domain.wording import counted
from connector.runtime import log
from connector.runtime.metrics import Metrics


def _read_at_start(config: Config) -> Mapping[str, Any]:
    """The sections that a reload does not apply. Free disk space is looked at again and again."""
    store = config.store.model_dump(exclude={"min_free"})
    return {"server": config.server, "store": store}


class Reloader:
    """One reload after the other: of what two find, the older must not be used last. `current` is
    the configuration in use, `recover` releases what stopped lanes had claimed, `on_reloaded` gets
    the new configuration once its connections run."""

    def __init__(
        self,
        reread: Callable[[], Awaitable[Config]] | None,
        current: Callable[[], Config],
        connections: Connections,
        problems: ProcessProblems,
        metrics: Metrics,
        *,
        recover: Recover,
        on_reloaded: Callable[[Config], Awaitable[None]],
    ) -> None:
        self._reread = reread
        self._current = current
        self._connections = connections
        self._problems = problems
        self._metrics = metrics
        self._recover = recover
        self._on_reloaded = on_reloaded
        self._one_at_a_time = asyncio.Lock()
        self._log = log.get("reload")

    async def reload(self, *, requested: bool = True) -> Mapping[str, Any]:
        """A faulty configuration changes nothing and raises ConfigError. Connections that have not
        changed run on, see Connections.unchanged."""
        if self._reread is None:
            return {"reloaded": False}
        async with self._one_at_a_time:
            return await self._reload(self._reread, requested)

    async def _reload(
        self, reread: Callable[[], Awaitable[Config]], requested: bool
    ) -> Mapping[str, Any]:
        current = self._current()
        try:
            config = await reread()
            kept = self._connections.unchanged(config, requested=requested)
            candidate = await self._connections.build(config, keep=kept)
        except ConfigError as error:
            self._metrics.reload_ok.set(0)
            text = f"{Problem.RELOAD_REFUSED.meaning}: {error.faults[0]}"
            if len(error.faults) > 1:
                text += f" (and {counted(len(error.faults) - 1, 'more fault')})"
            self._problems.set("reload", Problem.RELOAD_REFUSED, text)
            raise
        self._problems.clear("reload")
        self._metrics.reload_ok.set(1)
        await self._replace(candidate, current)
        await self._on_reloaded(config)
        before = _read_at_start(current)
        needs_restart = [n for n, value in _read_at_start(config).items() if value != before[n]]
        self._log.info(
            "configuration_reloaded",
            connections=len(self._connections.runtimes),
            unchanged=len(kept),
            needs_restart=needs_restart,
        )
        return {"reloaded": True, "needs_restart": needs_restart}

    async def restart(self) -> None:
        """Replace the connections whose account is not the one that they were built for. Raises
        ConfigError and StoreError; then nothing was changed."""
        async with self._one_at_a_time:
            current = self._current()
            kept = self._connections.unchanged(current, requested=False)
            await self._replace(await self._connections.build(current, keep=kept), current)

    async def _replace(self, candidate: Candidate, current: Config) -> None:
        timeout = current.server.shutdown_timeout
        await self._connections.replace(candidate, timeout=timeout, recover=self._recover)
