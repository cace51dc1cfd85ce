"""Applying an edited configuration to a running daemon."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from connector.app.connections import Connections
from connector.app.problems import ProcessProblems
from connector.config import Config
from connector.domain.errors import ConfigError, Problem, StoreError
from connector.domain.wording import counted
from connector.ports import Clock
from connector.runtime import log
from connector.runtime.metrics import Metrics

_FIXED_SECTIONS = ("server", "store")
"""Read at start only."""
_RETRY_SECONDS = 1.0


class Reloader:
    """`recover` gives back what the stopped lanes had claimed; `on_reloaded` gets the new
    configuration once its connections run."""

    def __init__(
        self,
        reread: Callable[[], Config] | None,
        connections: Connections,
        problems: ProcessProblems,
        clock: Clock,
        metrics: Metrics,
        *,
        recover: Callable[[], Awaitable[None]],
        on_reloaded: Callable[[Config], Awaitable[None]],
    ) -> None:
        self._reread = reread
        self._connections = connections
        self._problems = problems
        self._clock = clock
        self._metrics = metrics
        self._recover = recover
        self._on_reloaded = on_reloaded
        self._log = log.get("reload")

    async def reload(self, current: Config) -> Mapping[str, Any]:
        """A faulty configuration changes nothing and raises ConfigError."""
        if self._reread is None:
            return {"reloaded": False}
        try:
            config = self._reread()
            candidate = await self._connections.build(config)
        except ConfigError as error:
            self._metrics.reload_ok.set(0)
            text = f"{Problem.RELOAD_REFUSED.meaning}: {error.faults[0]}"
            if len(error.faults) > 1:
                text += f" (and {counted(len(error.faults) - 1, 'more fault')})"
            self._problems.set("reload", Problem.RELOAD_REFUSED, text)
            raise
        self._problems.clear("reload")
        self._metrics.reload_ok.set(1)
        await self._connections.stop(current.server.shutdown_timeout)
        await self._recover_when_possible()
        self._connections.adopt(candidate)
        for runtime in self._connections.runtimes.values():
            for dispatcher in runtime.dispatchers:
                dispatcher.probe_now()
        self._connections.start()
        await self._on_reloaded(config)
        needs_restart = [
            name for name in _FIXED_SECTIONS if getattr(config, name) != getattr(current, name)
        ]
        self._log.info(
            "configuration_reloaded",
            connections=len(self._connections.runtimes),
            needs_restart=needs_restart,
        )
        return {"reloaded": True, "needs_restart": needs_restart}

    async def _recover_when_possible(self) -> None:
        """The old lanes are stopped by now, so a store that fails is waited for: lanes must run
        again afterwards."""
        logged = False
        while True:
            try:
                return await self._recover()
            except StoreError as error:
                if not logged:
                    self._log.error(
                        "store_unavailable", problem=error.problem.value, detail=error.detail
                    )
                logged = True
                await self._clock.sleep(_RETRY_SECONDS)
