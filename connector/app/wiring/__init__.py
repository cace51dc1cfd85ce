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
    erasures,
    events,
    memberships,
    polling,
    profiles,
    reconciles,
)
from connector.app.wiring.context import Shop, Site
from connector.app.wiring.quotas import Quotas
from connector.config import Config, Connection
from connector.domain.errors import ConfigError, Problem
from connector.mapping import Writer, clashes
from connector.mapping import load as load_mapping
from connector.platforms import registry
from connector.ports import Clock, Lease, Store
from connector.runtime.metrics import Metrics
from connector.service import Line


@dataclass(frozen=True, slots=True)
class Laid:
    """Lines by connection, and why enabled connections without one have none."""

    lines: dict[str, Line]
    broken: dict[str, str]


class Workshop:
    """Builds lines."""

    def __init__(
        self,
        config: Config,
        store: Store,
        lease: Lease,
        clock: Clock,
        metrics: Metrics,
        quotas: Quotas | None = None,
    ) -> None:
        self.quotas = quotas or Quotas(store, clock, metrics)
        self._shop = Shop(config, store, lease, clock, metrics, self.quotas)
        self._writers: dict[str, Writer] = {}

    async def lay(self, connections: Sequence[Connection]) -> Laid:
        """The lines of all connections. Raises ConfigError, with nothing left open, for what is
        wrong in a file, and where two connections write the same thing at one Klaviyo account; a
        package that fails stops its own connections only."""
        # Together, so that a far end that does not answer costs its wait once.
        built = await asyncio.gather(*map(self.build, connections), return_exceptions=True)
        laid, failed = Laid({}, {}), []
        for connection, found in zip(connections, built, strict=True):
            if isinstance(found, Line):
                laid.lines[connection.name] = found
            elif isinstance(found, ConfigError) and found.problem is Problem.PLUGIN_BROKEN:
                if connection.enabled:
                    laid.broken[connection.name] = found.faults[0]
            else:
                failed.append(found)
        writers = [self._writers[c.name] for c in connections if c.name in self._writers]
        if not failed and (both := clashes(writers)):
            failed.append(ConfigError(both, Problem.MAPPING_FAULTY))
        if failed:
            await asyncio.gather(*(line.aclose() for line in laid.lines.values()))
            raise failed[0]
        return laid

    async def build(self, connection: Connection) -> Line:
        """A line, stopped. Raises ConfigError for a platform or mapping that cannot be used."""
        site = await self._site(connection)
        line = Line(
            name=connection.name,
            title=site.platform.title,
            enabled=connection.enabled,
            mapping=site.mapping.version,
            account=site.account,
            checks=[site.api.check],
            close=[site.api.aclose],
        )
        if site.client:
            line.checks.append(site.client.check)
            line.close.append(site.client.aclose)
        try:
            await self._parts(site, line)
        except BaseException:
            await line.aclose()
            raise
        return line

    async def _parts(self, site: Site, line: Line) -> None:
        await events.build(site, line)
        if site.profiles:
            await profiles.build(site, line)
            reconciles.build(site, line)
        if site.reader:
            polling.build(site, line)
            backfills.build(site, line)
        await actions.build(site, line)
        erasures.build(site, line)
        await memberships.build(site, line)
        with registry.theirs(site.connection.source):
            line.door = events.door(site, line)

    async def _site(self, connection: Connection) -> Site:
        shop = self._shop
        platform = registry.load(connection.source, connection.settings)
        mapping = load_mapping(connection.mapping).mapping
        if mapping.source != connection.source:
            raise ConfigError(
                [
                    f"connections.{connection.name}.mapping: found a mapping for {mapping.source}, "
                    f"allowed one for {connection.source}"
                ]
            )
        await shop.store.memory.remember_mapping(
            mapping.version, mapping.text, now=shop.clock.now()
        )
        shop.metrics.expects(connection.name, accounts.stable_until(connection.klaviyo.revision))
        api, account = await accounts.connect(shop, connection)
        client = None
        if platform.open is not None:
            try:
                with registry.theirs(connection.source):
                    client = await platform.open(connection.settings, shop.kit(connection))
            except BaseException:
                await api.aclose()
                raise
        site = Site(shop, connection, platform, client, mapping, account, api)
        if connection.enabled and not site.shadow:
            self._writers[connection.name] = Writer(
                connection.name,
                accounts.known_by(connection, account),
                mapping,
                events=site.has("events"),
                profiles=site.profiles,
            )
        return site
