"""From a connection's configuration to a line that runs: the only place where adapters, mapping,
quota and dispatchers are put together.

`build` lays the parts one after another: events, states, and what else the connection's modules
ask for. Each part is a module here that adds its lanes, loops and orders to the line.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from connector.app.wiring import (
    accounts,
    actions,
    backfills,
    erasure,
    events,
    memberships,
    polls,
    profiles,
    reconcile,
)
from connector.app.wiring.context import ConnectionContext, SharedServices
from connector.app.wiring.limiters import RateLimiters
from connector.config import Config, Connection
from connector.domain.errors import ConfigError, Problem
from connector.mapping import Writer, find_conflicts
from connector.mapping import load as load_mapping
from connector.net.http import ClientFactory, client
from connector.platforms import registry
from connector.ports import Clock, Lease, Store
from connector.runtime.metrics import Metrics
from connector.service import ConnectionRuntime


@dataclass(frozen=True, slots=True)
class BuildResult:
    """Lines by connection, and why enabled connections without one have none."""

    runtimes: dict[str, ConnectionRuntime]
    broken: dict[str, str]


class ConnectionBuilder:
    """Builds lines. `new_http_client` makes the HTTP client of each remote API."""

    def __init__(
        self,
        config: Config,
        store: Store,
        lease: Lease,
        clock: Clock,
        metrics: Metrics,
        limiters: RateLimiters | None = None,
        new_http_client: ClientFactory = client,
    ) -> None:
        self.limiters = limiters or RateLimiters(store, clock, metrics)
        self._services = SharedServices(
            config, store, lease, clock, metrics, self.limiters, new_http_client
        )
        self._writers: dict[str, Writer] = {}

    async def build_all(self, connections: Sequence[Connection]) -> BuildResult:
        """The lines of all connections. Raises ConfigError, with nothing left open, for what is
        wrong in a file, and where two connections write the same thing at one Klaviyo account; a
        package that fails stops its own connections only."""
        # Together, so that a far end that does not answer costs its wait once.
        built = await asyncio.gather(*map(self.build, connections), return_exceptions=True)
        result, failed = BuildResult({}, {}), []
        for connection, found in zip(connections, built, strict=True):
            if isinstance(found, ConnectionRuntime):
                result.runtimes[connection.name] = found
            elif isinstance(found, ConfigError) and found.problem is Problem.PLUGIN_BROKEN:
                if connection.enabled:
                    result.broken[connection.name] = found.faults[0]
            else:
                failed.append(found)
        writers = [self._writers[c.name] for c in connections if c.name in self._writers]
        if not failed and (both := find_conflicts(writers)):
            failed.append(ConfigError(both, Problem.MAPPING_FAULTY))
        if failed:
            await asyncio.gather(*(runtime.aclose() for runtime in result.runtimes.values()))
            raise failed[0]
        return result

    async def build(self, connection: Connection) -> ConnectionRuntime:
        """A line, stopped. Raises ConfigError for a platform or mapping that cannot be used."""
        context = await self._context(connection)
        runtime = ConnectionRuntime(
            name=connection.name,
            title=context.platform.title,
            enabled=connection.enabled,
            mapping=context.mapping.version,
            account=context.account,
            checks=[context.api.check],
            close=[context.api.aclose],
        )
        if context.client:
            runtime.checks.append(context.client.check)
            runtime.close.append(context.client.aclose)
        try:
            await self._build_modules(context, runtime)
        except BaseException:
            await runtime.aclose()
            raise
        return runtime

    async def _build_modules(self, context: ConnectionContext, runtime: ConnectionRuntime) -> None:
        await events.build(context, runtime)
        if context.writes_profiles:
            await profiles.build(context, runtime)
            reconcile.build(context, runtime)
        if context.reader:
            polls.build(context, runtime)
            backfills.build(context, runtime)
        await actions.build(context, runtime)
        erasure.build(context, runtime)
        await memberships.build(context, runtime)
        with registry.isolate_platform(context.connection.source):
            runtime.webhook_endpoint = events.webhook_endpoint(context, runtime)

    async def _context(self, connection: Connection) -> ConnectionContext:
        services = self._services
        platform = registry.load(connection.source, connection.settings)
        mapping = load_mapping(connection.mapping).mapping
        if mapping.source != connection.source:
            raise ConfigError(
                [
                    f"connections.{connection.name}.mapping: found a mapping for {mapping.source}, "
                    f"allowed one for {connection.source}"
                ]
            )
        await services.store.facts.save_mapping(
            mapping.version, mapping.text, now=services.clock.now()
        )
        services.metrics.register_connection(
            connection.name, accounts.revision_expires_at(connection.klaviyo.revision)
        )
        api, account = await accounts.connect(services, connection)
        client = None
        if platform.open is not None:
            try:
                with registry.isolate_platform(connection.source):
                    client = await platform.open(connection.settings, services.kit(connection))
            except BaseException:
                await api.aclose()
                raise
        context = ConnectionContext(services, connection, platform, client, mapping, account, api)
        if connection.enabled and not context.shadow:
            self._writers[connection.name] = Writer(
                connection.name,
                accounts.account_aliases(connection, account),
                mapping,
                events=context.has("events"),
                profiles=context.writes_profiles,
            )
        return context
