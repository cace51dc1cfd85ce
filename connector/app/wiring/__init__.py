"""From a connection's configuration to its runtime: the only place where adapters, mapping, quota
and dispatchers are put together.

Each part is a module here: a function that takes what it needs and returns what it built.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial

from connector.app.wiring import accounts
from connector.app.wiring.accounts import Account
from connector.app.wiring.actions import build_actions
from connector.app.wiring.backfills import build_backfills
from connector.app.wiring.context import ConnectionContext, LeaseOf, SharedServices
from connector.app.wiring.erasure import build_erasure
from connector.app.wiring.events import build_events, build_rendering, build_webhook_endpoint
from connector.app.wiring.faults import load_connection
from connector.app.wiring.import_jobs import build_untracked_jobs
from connector.app.wiring.limiters import RateLimiters
from connector.app.wiring.memberships import build_memberships
from connector.app.wiring.oauth import build_token_refresh
from connector.app.wiring.person_now import build_person_now
from connector.app.wiring.polls import build_poll
from connector.app.wiring.profiles import build_profiles
from connector.app.wiring.reconcile import build_reconcile
from connector.app.wiring.stored import StoredFacts
from connector.config import Config, Connection
from connector.domain.errors import ConfigError, Problem
from connector.domain.lanes import Lane
from connector.klaviyo.flows import FlowTriggers
from connector.klaviyo.groups import KlaviyoGroups
from connector.mapping import Writer, find_conflicts
from connector.net.http import TransportFactory
from connector.net.stored_token import StoredToken
from connector.net.transport import Transport
from connector.pipeline.intake import Intake
from connector.pipeline.lane_signals import LaneSignals
from connector.pipeline.resume import ResumeWorker
from connector.platforms import registry
from connector.ports import Client, Clock, Store
from connector.ports.workers import Worker
from connector.runtime import log
from connector.runtime.metrics import Metrics
from connector.service import ConnectionRuntime
from connector.service.runtime import RemoteDirectory

_AT_A_TIME = 8
"""Connections that are built side by side, so that what they store is committed together. With more
of them, webhooks would wait while a reload builds many."""


def _build_resume(context: ConnectionContext) -> Worker | None:
    if not context.resumptions:
        return None
    name, clock = context.connection.name, context.services.clock
    resume = ResumeWorker(name, context.resumptions, context.lease, clock)
    return context.supervise("resume", resume)


async def _close(client: Client, connection: str) -> None:
    """A platform's own code: what it raises must not keep the connection from its successor."""
    try:
        await client.aclose()
    except Exception:
        log.get("wiring").exception("client_not_closed", connection=connection)


@dataclass(frozen=True, slots=True)
class BuildResult:
    """Runtimes by connection with the accounts that they were built for, why enabled connections
    without one have none, and what each connection writes at Klaviyo. `stored_lanes`: all of the
    store, also of connections that are not configured, with the account of their connection."""

    runtimes: dict[str, ConnectionRuntime]
    broken: dict[str, str]
    accounts: Mapping[str, Account]
    writers: Mapping[str, Writer]
    stored_lanes: Sequence[tuple[Lane, str | None]]


class ConnectionBuilder:
    """Builds the runtimes of connections. `new_transport` makes the HTTP client of each remote
    API."""

    def __init__(
        self,
        config: Config,
        store: Store,
        lease_of: LeaseOf,
        clock: Clock,
        metrics: Metrics,
        limiters: RateLimiters | None = None,
        new_transport: TransportFactory = Transport,
        intake: Intake | None = None,
        known_accounts: Mapping[str, str] | None = None,
        hint: Callable[[str], None] = lambda connection: None,
        untracked: Callable[[str], Sequence[Lane]] = lambda connection: (),
    ) -> None:
        self.limiters = limiters or RateLimiters(store, clock, metrics)
        self._stored = StoredFacts(store, clock)
        self._services = SharedServices(
            config,
            store,
            lease_of,
            clock,
            metrics,
            self.limiters,
            new_transport,
            intake or Intake(store.outbox, store.action_intake),
            self._stored,
            {} if known_accounts is None else known_accounts,
            hint,
            untracked,
        )
        self.accounts: dict[str, Account] = {}
        self.writers: dict[str, Writer] = {}

    async def build_all(self, connections: Sequence[Connection]) -> BuildResult:
        """The runtimes of all connections. Raises ConfigError, with nothing left open, for what is
        wrong in a file, and where two connections write the same thing at one Klaviyo account; a
        package that fails stops its own connections only."""
        await self._stored.load()
        taking_turns = asyncio.Semaphore(_AT_A_TIME)

        async def build(connection: Connection) -> ConnectionRuntime:
            async with taking_turns:
                return await self._build(connection)

        built = await asyncio.gather(*map(build, connections), return_exceptions=True)
        stored_lanes = self._stored.lanes()
        self._stored.clear()
        result = BuildResult({}, {}, self.accounts, self.writers, stored_lanes)
        failed: list[BaseException] = []
        for connection, found in zip(connections, built, strict=True):
            if isinstance(found, ConnectionRuntime):
                result.runtimes[connection.name] = found
            elif isinstance(found, ConfigError) and found.problem is Problem.PLUGIN_BROKEN:
                if connection.enabled:
                    result.broken[connection.name] = found.faults[0]
            else:
                failed.append(found)
        writers = [self.writers[c.name] for c in connections if c.name in self.writers]
        if not failed and (both := find_conflicts(writers)):
            failed.append(ConfigError(both, Problem.MAPPING_FAULTY))
        if failed:
            await asyncio.gather(
                *(runtime.exit_stack.aclose() for runtime in result.runtimes.values())
            )
            faulty = [error for error in failed if isinstance(error, ConfigError)]
            raise ConfigError.of_all(faulty) if len(faulty) == len(failed) else failed[0]
        return result

    async def build(self, connection: Connection) -> ConnectionRuntime:
        """A runtime, not started. No remote API is called. Raises ConfigError for a platform or
        mapping that cannot be used, and StoreError."""
        await self._stored.load()
        try:
            return await self._build(connection)
        finally:
            self._stored.clear()

    async def _build(self, connection: Connection) -> ConnectionRuntime:
        async with AsyncExitStack() as stack:
            context = await self._context(connection, stack)
            return await self._runtime(context, stack)

    async def _runtime(
        self, context: ConnectionContext, stack: AsyncExitStack
    ) -> ConnectionRuntime:
        events = await build_events(context)
        profiles = await build_profiles(context) if context.writes_profiles else None
        reads = profiles.reads if profiles else None
        poll = build_poll(context, reads) if reads else None
        backfills = (
            build_backfills(context, events, profiles.writes, reads) if profiles and reads else None
        )
        actions = await build_actions(context)
        memberships = await build_memberships(context, events, actions.submit)
        with registry.isolate_platform(context.connection.source):
            webhook_endpoint = build_webhook_endpoint(context, events, profiles)
        commands = {**build_erasure(context), **memberships.commands}
        if profiles:
            commands |= build_reconcile(context, events, profiles.writes)
        if backfills:
            commands |= backfills.commands
        workers = (
            profiles.import_jobs if profiles else None,
            build_untracked_jobs(context),
            profiles.mass_unset if profiles else None,
            poll,
            backfills.worker if backfills else None,
            actions.held_actions,
            build_token_refresh(context),
            *memberships.workers,
            _build_resume(context),
        )
        return ConnectionRuntime(
            name=context.connection.name,
            title=context.platform.title,
            enabled=context.connection.enabled,
            source=context.connection.source,
            mode=context.connection.mode,
            modules=tuple(context.connection.modules),
            mapping=context.mapping.version,
            account=context.account,
            lease=context.lease,
            events=events,
            reads=reads.dispatcher if reads else None,
            writes=profiles.writes if profiles else None,
            actions=actions.dispatcher,
            memberships=memberships.dispatchers,
            workers=tuple(worker for worker in workers if worker is not None),
            commands=commands,
            checks=(context.api.check, *((context.client.check,) if context.client else ())),
            render=build_rendering(context),
            person_now=build_person_now(context),
            directory=RemoteDirectory(
                KlaviyoGroups(context.api),
                FlowTriggers(context.api),
                context.client.audiences if context.client else None,
            ),
            webhook_endpoint=webhook_endpoint,
            flow_endpoint=actions.endpoint,
            signals=context.signals,
            exit_stack=stack.pop_all(),
            link=tuple(context.link),
        )

    async def _context(self, connection: Connection, stack: AsyncExitStack) -> ConnectionContext:
        services = self._services
        platform = registry.load(connection.source, connection.settings)
        mapping = load_connection(connection, platform).mapping
        await services.stored.save_mapping(mapping)
        services.metrics.register_connection(
            connection.name, accounts.revision_expires_at(connection.klaviyo.revision)
        )
        auth = accounts.build_credential(services, connection)
        if isinstance(auth, StoredToken):
            stack.push_async_callback(auth.aclose)
        api, account, lease = await accounts.connect(services, connection, auth)
        stack.push_async_callback(api.aclose)
        client = None
        if platform.open is not None:
            with registry.isolate_platform(connection.source):
                client = await platform.open(connection.settings, services.kit(connection, lease))
            stack.push_async_callback(_close, client, connection.name)
        context = ConnectionContext(
            services,
            connection,
            lease,
            platform,
            client,
            mapping,
            account.id if connection.enabled else None,
            account.confirmed,
            api,
            token=auth if isinstance(auth, StoredToken) else None,
            signals=LaneSignals(lease, partial(services.hint, connection.name)),
        )
        if connection.enabled:
            self.accounts[connection.name] = account
        if connection.enabled and not context.shadow:
            self.writers[connection.name] = Writer(
                connection.name,
                accounts.account_aliases(connection, account.id if account.confirmed else None),
                mapping,
                events=context.has("events"),
                profiles=context.writes_profiles,
            )
        return context
