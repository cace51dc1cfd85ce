"""The connections of this process: built together, started, stopped and replaced together."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from connector.app.problems import ProcessProblems
from connector.app.wiring import BuildResult, ConnectionBuilder
from connector.app.wiring.limiters import RateLimiters
from connector.config import Config
from connector.domain.errors import Problem
from connector.klaviyo.limits import endpoint_label
from connector.pipeline.intake import Intake
from connector.ports import Clock, Lease, Store
from connector.runtime import log
from connector.runtime.metrics import Metrics
from connector.service import ConnectionRuntime
from connector.service.process import QuotaUse

_IDLE_HORIZON = 60.0
_IDLE_CHECK_INTERVAL = 0.1


@dataclass(frozen=True, slots=True)
class Candidate:
    """Connections that were built from a configuration and not yet adopted."""

    config: Config
    result: BuildResult


class Connections:
    """`runtimes` by name; `broken` says why an enabled connection has none. Both are the same
    objects for the life of the process, so others may keep them."""

    def __init__(
        self,
        store: Store,
        lease: Lease,
        clock: Clock,
        metrics: Metrics,
        problems: ProcessProblems,
        intake: Intake,
    ) -> None:
        self.runtimes: dict[str, ConnectionRuntime] = {}
        self.broken: dict[str, str] = {}
        self.limiters = RateLimiters(store, clock, metrics)
        self._store = store
        self._lease = lease
        self._clock = clock
        self._metrics = metrics
        self._problems = problems
        self._intake = intake
        self._log = log.get("connections")

    async def build(self, config: Config) -> Candidate:
        """Raises ConfigError, with nothing left open, for what is wrong in a file."""
        self.limiters.reset_uses()
        builder = ConnectionBuilder(
            config,
            self._store,
            self._lease,
            self._clock,
            self._metrics,
            self.limiters,
            intake=self._intake,
        )
        return Candidate(config, await builder.build_all(config.connections))

    def adopt(self, candidate: Candidate) -> None:
        """Replace the connections by these, not started. The old ones must be stopped."""
        for name in self.broken:
            self._problems.clear(f"broken {name}")
        self.runtimes.clear()
        self.runtimes.update(candidate.result.runtimes)
        self.broken.clear()
        self.broken.update(candidate.result.broken)
        for name, fault in self.broken.items():
            self._problems.set(f"broken {name}", Problem.PLUGIN_BROKEN, f"{name}: {fault}")
            self._log.error(
                "connection_broken",
                problem=Problem.PLUGIN_BROKEN.value,
                connection=name,
                fault=fault,
            )

    def quota(self) -> list[QuotaUse]:
        """Requests of the last minute, in words for people."""
        return [
            QuotaUse(
                account=account,
                connections=connections,
                endpoint=endpoint,
                label=self._label(connections, endpoint),
                used=used,
                allowed=allowed,
            )
            for account, connections, endpoint, used, allowed in self.limiters.usage()
        ]

    def _label(self, connections: tuple[str, ...], endpoint: str) -> str:
        """`Klaviyo events`, `Yotpo requests`."""
        label = endpoint_label(endpoint)
        if label != endpoint:
            return label
        titles = [self.runtimes[name].title for name in connections if name in self.runtimes]
        title = titles[0] if titles else "platform"
        if endpoint.startswith(title):
            return endpoint
        return f"{title} {'requests' if endpoint.startswith('*') else endpoint}"

    def start(self) -> None:
        for runtime in self.runtimes.values():
            runtime.start()

    async def stop(self, timeout: float) -> None:
        """Settle what is in flight within `timeout` seconds, and close everything."""
        await asyncio.gather(*(runtime.stop(timeout) for runtime in self.runtimes.values()))

    async def until_idle(self) -> list[str]:
        """Wait until nothing is ready, in flight or due within a minute and every poll and scan has
        run once. One line for each lane that is not running, each poll that failed and each
        connection without a runtime."""
        while not all([await r.idle(_IDLE_HORIZON) for r in self.runtimes.values()]):
            await self._clock.sleep(_IDLE_CHECK_INTERVAL)
        stopped = [
            f"{d.lane.title}: {d.state.mode}, {d.state.detail}"
            for runtime in self.runtimes.values()
            for d in runtime.dispatchers
            if d.state.mode != "running"
        ]
        stopped += [item.line for item in self._problems.items("broken ")]
        for runtime in self.runtimes.values():
            found = await runtime.attention()
            stopped += [item.line for item in found if item.key.startswith("poll ")]
        return stopped
