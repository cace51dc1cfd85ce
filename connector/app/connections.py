"""The connections of this process: built, started and stopped; a reload replaces those that it
changes, and the others run on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from connector.app.problems import ProcessProblems
from connector.app.wiring import BuildResult, ConnectionBuilder
from connector.app.wiring.accounts import Account, credential
from connector.app.wiring.limiters import RateLimiters
from connector.config import Config, Connection
from connector.domain.errors import ConfigError, Problem, StoreError
from connector.domain.lanes import LIST_MEMBERS, PROFILES, Lane, LaneId, Millis
from connector.klaviyo.limits import endpoint_label
from connector.mapping import Writer, find_conflicts
from connector.mapping import load as load_mapping
from connector.net.transport import ConnectionPool, Transport
from connector.pipeline.intake import Intake
from connector.pipeline.lease import STORE_RESOURCE, ProcessLeases
from connector.pipeline.store_outage import until_available
from connector.ports import ALL_COMMANDS, Clock, CommandScope, Lease, Store
from connector.runtime import log
from connector.runtime.metrics import Metrics
from connector.service import ConnectionRuntime
from connector.service.process import QuotaUse

T = TypeVar("T")
Recover = Callable[[Mapping[str, Set[LaneId]]], Awaitable[None]]
"""Releases what lanes that do not run had claimed, by the resource whose lease they run under."""

_IDLE_HORIZON = 60.0
_IDLE_CHECK_INTERVAL = 0.1
_CONFIRM_TIMEOUT = 10.0
_STOP_TIMEOUT = 5.0


def _unnamed(connection: str) -> str:
    """The resource of a connection whose account is not known."""
    return f"connection {connection}"


def _is_other(account: Account, found: str | None) -> bool:
    """Whether another replica has found another account than is assumed here, or a person has
    moved the connection to another one since it was built here."""
    return found not in (None, account.id, account.pinned)


def _may_learn(account: Account, found: str | None) -> bool:
    """What Klaviyo has named here holds until a reload: the key may be another one than there."""
    return not account.confirmed and _is_other(account, found)


@dataclass(frozen=True, slots=True)
class Candidate:
    """Connections that were built from a configuration and not yet adopted, and the names of those
    that run on beside them."""

    config: Config
    result: BuildResult
    kept: frozenset[str]


def _replace(mine: dict[str, T], new: Mapping[str, T], candidate: Candidate) -> None:
    """By these all entries whose connections are not kept, in the order of the configuration."""
    all_of = {name: mine[name] for name in mine.keys() & candidate.kept} | dict(new)
    names = [connection.name for connection in candidate.config.connections]
    mine.clear()
    mine.update((name, all_of[name]) for name in names if name in all_of)


class Connections:
    """`runtimes` by name; `broken` says why an enabled connection has none. Both are the same
    objects for the life of the process, so others may keep them.

    A connection takes webhooks and flow calls once it is adopted. Its lanes and workers wait for
    its Klaviyo account (connector.app.accounts): `accounts` by name, `known_accounts` by
    credential. `changing` is held while connections are replaced, `unconfirmed` is set when there
    are accounts to ask for.
    """

    def __init__(
        self,
        store: Store,
        leases: ProcessLeases,
        clock: Clock,
        metrics: Metrics,
        problems: ProcessProblems,
        intake: Intake,
        shared: bool = False,
        hint: Callable[[str], None] = lambda connection: None,
    ) -> None:
        self.runtimes: dict[str, ConnectionRuntime] = {}
        self.broken: dict[str, str] = {}
        self.accounts: dict[str, Account] = {}
        self.known_accounts: dict[str, str] = {}
        self.running: set[str] = set()
        self.limiters = RateLimiters(store, clock, metrics)
        self.changing = asyncio.Lock()
        self.unconfirmed = asyncio.Event()
        self._writers: dict[str, Writer] = {}
        self._stored_lanes: Sequence[tuple[Lane, str | None]] = ()
        self._untracked: dict[str, list[Lane]] = {}
        self._config = Config()
        self._store = store
        self._leases = leases
        self._shared = shared
        self._hint = hint
        self._clock = clock
        self._metrics = metrics
        self._problems = problems
        self._intake = intake
        self._pool = ConnectionPool()
        self._log = log.get("connections")

    # ── build and replace ────────────────────────────────────────────────────────────────────────

    def unchanged(self, config: Config, *, requested: bool) -> frozenset[str]:
        """The connections that run on as they are under this configuration. Those that are broken
        or wait for their account do not. Where a person `requested` the reload, those of OAuth do
        not either, whose account may have changed, nor those whose lanes are to try again."""
        sections = Config.model_fields.keys() - {"connections"}
        if any(getattr(config, name) != getattr(self._config, name) for name in sections):
            return frozenset()
        before = {connection.name: connection for connection in self._config.connections}
        return frozenset(
            connection.name
            for connection in config.connections
            if connection == before.get(connection.name)
            and self._is_settled(connection)
            and not (requested and self._may_gain(connection))
        )

    def _may_gain(self, connection: Connection) -> bool:
        """Whether to build it again may help although its configuration is the same."""
        lanes = self.runtimes[connection.name].dispatchers
        return connection.klaviyo.auth == "oauth" or any(
            lane.state.mode in ("blocked", "held") for lane in lanes
        )

    def _is_settled(self, connection: Connection) -> bool:
        runtime = self.runtimes.get(connection.name)
        account = self.accounts.get(connection.name)
        if runtime is None or (runtime.enabled and not (account and account.confirmed)):
            return False
        file = load_mapping(connection.mapping, connection.mapping_changes)
        return bool(runtime.mapping == file.mapping.version)

    async def build(self, config: Config, *, keep: frozenset[str] = frozenset()) -> Candidate:
        """All connections but those to `keep`, which run on. No remote API is called. Raises
        ConfigError, with nothing left open, for what is wrong in a file, and StoreError."""
        wanted = [c for c in config.connections if c.name not in keep]
        for connection in wanted:
            if connection.klaviyo.auth == "oauth":
                # A person may have connected another account meanwhile; a key belongs to one.
                self.known_accounts.pop(credential(connection), None)
        with self.limiters.replacing(keep):
            result = await self._builder(config).build_all(wanted)
            writers = [writer for name, writer in self._writers.items() if name in keep]
            if writers and (both := find_conflicts([*writers, *result.writers.values()])):
                for runtime in result.runtimes.values():
                    await runtime.exit_stack.aclose()
                raise ConfigError(both, Problem.MAPPING_FAULTY)
        return Candidate(config, result, keep)

    async def link(self) -> None:
        """Put the links of all connections into use whose lease this process holds already. Raises
        StoreError."""
        await self._link_held(list(self.runtimes.values()))

    async def _link_held(self, runtimes: Iterable[ConnectionRuntime]) -> None:
        """Put the links of those into use whose lease this process holds. Whoever takes another's
        does it then. Raises StoreError."""
        for runtime in runtimes:
            await self._link_again(runtime, runtime.lease.resource)

    async def _link_again(self, runtime: ConnectionRuntime, *resources: str) -> None:
        """`_link` where one that fails is repeated: renewal says whether a lease that was not
        renewed in time is still ours. Raises StoreError."""
        try:
            await self._link(runtime, *resources)
        except StoreError as error:
            if error.problem is not Problem.STORE_HELD:
                raise
            raise StoreError(Problem.STORE_UNAVAILABLE, error.detail) from error

    async def _link(self, runtime: ConnectionRuntime, *resources: str) -> None:
        """Put its links into use under the first of these leases that this process has, unless it
        was replaced meanwhile. Raises StoreError."""
        # Also of a lease that is not valid now: it may be handed over in vain, or be activated with
        # what ran before.
        fences = [fence for name in resources if (fence := self._leases.of(name).acquired)]
        for link in runtime.link:
            if fences and self.runtimes.get(runtime.name) is runtime:
                await link(fences[0])

    def _builder(self, config: Config) -> ConnectionBuilder:
        return ConnectionBuilder(
            config,
            self._store,
            self._lease_of,
            self._clock,
            self._metrics,
            self.limiters,
            new_transport=lambda: Transport(self._pool),
            intake=self._intake,
            known_accounts=self.known_accounts,
            hint=self._hint,
            untracked=lambda name: self._untracked.get(name, ()),
        )

    # ── leases ───────────────────────────────────────────────────────────────────────────────────

    def _lease_of(self, connection: str, account: str | None) -> Lease:
        """The store's on SQLite. Where replicas share a database, that of the account; before the
        account is known, one of the connection's own."""
        if not self._shared:
            return self._leases.of(STORE_RESOURCE)
        return self._leases.of(account or _unnamed(connection))

    def resources(self) -> frozenset[str]:
        """Whose lease this process can use: the store's, and those of its connections."""
        leases = (r.lease.resource for r in self.runtimes.values() if r.enabled)
        return frozenset({STORE_RESOURCE, *leases})

    def resources_before(self, resource: str) -> list[str]:
        """Whose leases the connections of this account had before they knew it."""
        return [name for r in self._of(resource) if (name := _unnamed(r.name)) != resource]

    async def is_outdated(self, resource: str) -> bool:
        """Whether another replica has found another account for a connection of this lease, and
        this one has not learnt it yet. Raises StoreError."""
        names = [r.name for r in self._of(resource) if r.enabled]
        if not (self._shared and names):
            return False
        pinned = await self._store.facts.pinned_accounts()
        return any(_is_other(self.accounts[name], pinned.get(name)) for name in names)

    def _of(self, resource: str) -> list[ConnectionRuntime]:
        return [r for r in list(self.runtimes.values()) if r.lease.resource == resource]

    def lanes_of(self, resource: str) -> list[LaneId] | None:
        """The lanes whose claims are its holder's, also those that do not run any more, such as
        those to a platform that was replaced; None: all there are."""
        if not self._shared:
            return None
        mine = self._of(resource)
        names = {r.name for r in mine}
        lanes = {dispatcher.lane.id for r in mine for dispatcher in r.dispatchers}
        lanes |= {lane.id for lane, _ in self._stored_lanes if lane.connection in names}
        return sorted(lanes | {lane.id for name in names for lane in self._untracked.get(name, ())})

    def command_scope(self, resources: Collection[str]) -> CommandScope:
        """The commands that the holder of these resources carries out."""
        if not self._shared:
            return ALL_COMMANDS
        enabled = {name: r.lease.resource for name, r in self.runtimes.items() if r.enabled}
        mine = frozenset(name for name, resource in enabled.items() if resource in resources)
        return CommandScope(mine, frozenset(enabled) if STORE_RESOURCE in resources else None)

    def is_ours(self, connection: str) -> bool:
        """Whether this process, and no other one, describes the connection: it holds the lease, or
        none does because the connection is not run."""
        runtime = self.runtimes.get(connection)
        running = runtime if runtime and runtime.enabled else None
        return (running.lease if running else self._leases.of(STORE_RESOURCE)).valid()

    def wake(self, resource: str) -> None:
        """Its lease is valid now: look for work, and for the account where it is not confirmed."""
        for runtime in self._of(resource):
            runtime.wake()
        self.unconfirmed.set()

    async def until_quiet(self, resource: str, timeout: float) -> bool:
        """Wait until nothing of it is under way; whether that was within `timeout` seconds."""
        workers = [w for r in self._of(resource) for w in (*r.dispatchers, *r.workers)]
        return all(await asyncio.gather(*(worker.until_quiet(timeout) for worker in workers)))

    async def wake_due(self, ahead: float) -> None:
        """Wake the lanes that have something to claim within `ahead` seconds: other processes store
        webhooks for them and cannot wake them. Raises StoreError."""
        lanes = {
            dispatcher.lane: dispatcher
            for runtime in list(self.runtimes.values())
            if runtime.lease.valid()
            for dispatcher in runtime.dispatchers
        }
        if lanes:
            until = Millis(self._clock.now() + round(ahead * 1000))
            due = await self._store.lanes.due(lanes, now=until)
            for lane, dispatcher in lanes.items():
                if lane.id in due:
                    dispatcher.wake()

    async def wake_releasable(self) -> None:
        """Wake the connections that can release held actions: one look for all of them. Raises
        StoreError."""
        for name in await self._store.action_decisions.releasable():
            runtime = self.runtimes.get(name)
            if runtime and runtime.lease.valid():
                runtime.wake()

    def adopt(self, candidate: Candidate) -> None:
        """Replace the connections by these, not started, beside those that are kept. The replaced
        ones must be stopped."""
        result, self._config, kept = candidate.result, candidate.config, candidate.kept
        for name in self.broken:
            self._problems.clear(f"broken {name}")
        for name in self.accounts.keys() - kept:
            self._problems.clear(f"account {name}")
        for name, old in self.runtimes.items():
            if name in result.runtimes:
                old.signals.forward_to(result.runtimes[name].signals)
        accounts = {name: a for name, a in result.accounts.items() if name in result.runtimes}
        _replace(self.runtimes, result.runtimes, candidate)
        _replace(self.accounts, accounts, candidate)
        _replace(self.broken, result.broken, candidate)
        _replace(self._writers, result.writers, candidate)
        self._stored_lanes = result.stored_lanes
        self._assign_untracked()
        self._report_broken(self.broken)

    def _assign_untracked(self) -> None:
        """The import jobs of each lane that does not run are followed by one connection of the same
        account, whose key sees them."""
        enabled = {name: runtime for name, runtime in self.runtimes.items() if runtime.enabled}
        running = {d.lane.id for runtime in enabled.values() for d in runtime.dispatchers}
        first: dict[str, str] = {}
        for name in enabled:
            if (id := self.accounts[name].id) is not None:
                first.setdefault(id, name)
        self._untracked = {}
        for lane, account in self._stored_lanes:
            if lane.lane_kind not in (PROFILES, LIST_MEMBERS):
                continue
            follower = lane.connection if account is None else first.get(account)
            if lane.id not in running and follower in enabled:
                self._untracked.setdefault(follower, []).append(lane)

    def _report_broken(self, broken: Mapping[str, str]) -> None:
        for name, fault in broken.items():
            self._problems.set(f"broken {name}", Problem.PLUGIN_BROKEN, f"{name}: {fault}")
            self._log.error(
                "connection_broken",
                problem=Problem.PLUGIN_BROKEN.value,
                connection=name,
                fault=fault,
            )

    async def replace(
        self,
        candidate: Candidate,
        *,
        timeout: float,
        recover: Recover,
    ) -> None:
        """Stop the connections that are not kept, and start these. A store that fails meanwhile is
        waited for, because the lanes must run again. `recover` releases what the lanes of both had
        claimed: a process that was killed may have left claims in lanes that come only now."""
        async with self.changing:
            old = [r for name, r in self.runtimes.items() if name not in candidate.kept]
            new = list(candidate.result.runtimes.values())
            await self._stop(old, timeout)
            stopped: dict[str, set[LaneId]] = {}
            for runtime in (*old, *new):
                lanes = stopped.setdefault(runtime.lease.resource, set())
                lanes.update(dispatcher.lane.id for dispatcher in runtime.dispatchers)
            await until_available(partial(recover, stopped), self._clock)
            self.adopt(candidate)
            # A lease that was taken meanwhile was taken with the links of the old ones.
            await until_available(partial(self._link_held, new), self._clock)
            # The old lanes may have changed theirs since the new ones were built.
            await until_available(partial(self._load_states, new), self._clock)
            self.start()
            for name in candidate.kept:
                self.runtimes[name].wake()

    async def rebuild(self, name: str, account: str, *, ours: bool) -> None:
        """Replace a connection whose account is known now, and stop it first where it runs. `ours`:
        this process works for it, under the lease that it had before. Raises ConfigError and
        StoreError; then nothing was changed."""
        builder = self._builder(self._config)
        runtime = await builder.build(self._config.connection(name))
        if name in self.running:
            await self._stop([self.runtimes[name]], _STOP_TIMEOUT)
        old, self.runtimes[name] = self.runtimes[name], runtime
        old.signals.forward_to(runtime.signals)
        self.accounts[name] = builder.accounts[name]
        self._assign_untracked()
        await old.exit_stack.aclose()
        # Not only once the lease of the account is taken: who joins a list is scoped as its link.
        earlier = [old.lease.resource] if ours else []
        link = partial(self._link_again, runtime, *earlier, runtime.lease.resource)
        await until_available(link, self._clock)
        scopes = self._store.address_scopes
        # After the last call that knew no account, as far as the endpoint is concerned.
        await until_available(lambda: scopes.move(name, account), self._clock)

    async def learn_accounts(self, pinned: Mapping[str, str]) -> None:
        """Build connections that are not worked for here for the account that another replica found
        theirs to belong to. One that cannot be built is a problem until it can. Raises
        StoreError."""
        if not any(_may_learn(account, pinned.get(n)) for n, account in self.accounts.items()):
            return
        async with self.changing:
            for name, account in list(self.accounts.items()):
                runtime, runs = self.runtimes[name], name in self.running
                if not _may_learn(account, pinned.get(name)) or (runs and runtime.lease.valid()):
                    continue
                try:
                    # It may run where Klaviyo had refused to name its account.
                    await self.rebuild(name, pinned[name], ours=False)
                except ConfigError as error:
                    text = f"{name}: {error.faults[0]}"
                    self._problems.set(f"account {name}", error.problem, text, connection=name)
                else:
                    self._problems.clear(f"account {name}")

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

    # ── run ──────────────────────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        """Run the connections whose account is confirmed; the others wait for theirs."""
        for name in self.runtimes:
            if name not in self.accounts or self.accounts[name].confirmed:
                self.run(name)
            else:
                self.unconfirmed.set()

    def run(self, name: str) -> None:
        """Start the lanes and workers of a connection, unless they run already."""
        if name not in self.running:
            self.running.add(name)
            self.runtimes[name].start()

    def confirm(self, name: str) -> None:
        """The account that a connection was built for is the one that its key belongs to."""
        self.accounts[name] = replace(self.accounts[name], confirmed=True)

    async def until_confirmed(self, name: str) -> None:
        """Wait until Klaviyo has named the account of a connection, for up to 10 s."""
        give_up = self._clock.monotonic() + _CONFIRM_TIMEOUT
        while name in self.accounts and not self.accounts[name].confirmed:
            if self._clock.monotonic() >= give_up:
                return
            await self._clock.sleep(_IDLE_CHECK_INTERVAL)

    def find_conflicts(self, name: str, account: str) -> list[str]:
        """What this connection and another one would both write, now that its account is known."""
        if name not in self._writers:
            return []
        mine = self._writers[name]
        mine = self._writers[name] = replace(mine, accounts=mine.accounts | {account})
        others = [writer for other, writer in self._writers.items() if other != name]
        return [fault for other in others for fault in find_conflicts([other, mine])]

    async def refresh(self, resource: str) -> None:
        """Load what another process may have changed, lane states and spent quota, and put the
        links of these connections into use. Raises StoreError."""
        runtimes = self._of(resource)
        if runtimes:
            for runtime in runtimes:
                await self._link(runtime, resource)
            await self.limiters.reload({runtime.name for runtime in runtimes})
            await self._load_states(runtimes)

    async def _load_states(self, runtimes: Collection[ConnectionRuntime]) -> None:
        states = {lane.id: state for lane, state in await self._store.lanes.all()}
        for runtime in runtimes:
            for dispatcher in runtime.dispatchers:
                dispatcher.load_state(states[dispatcher.lane.id])

    async def stop(self, timeout: float, resource: str | None = None) -> None:
        """Settle what is in flight within `timeout` seconds, and close everything; with a
        `resource`, of the connections whose lease it is."""
        runtimes = self.runtimes.values() if resource is None else self._of(resource)
        await self._stop(runtimes, timeout)

    async def _stop(self, runtimes: Collection[ConnectionRuntime], timeout: float) -> None:
        await asyncio.gather(*(runtime.stop(timeout) for runtime in runtimes))
        self.running.difference_update(runtime.name for runtime in runtimes)

    async def aclose(self) -> None:
        """Close what the connections share, after `stop`."""
        await self._pool.aclose()

    # ── run --until-idle ─────────────────────────────────────────────────────────────────────────

    async def until_idle(self) -> list[str]:
        """Wait until nothing is ready, in flight or due within a minute and every poll and scan has
        run once. One line for each lane that is not running, each poll that failed and each
        connection that has no runtime or waits for its account."""
        while not all([await self._idle(name) for name in list(self.runtimes)]):
            await self._clock.sleep(_IDLE_CHECK_INTERVAL)
        stopped = [
            ", ".join(filter(None, (f"{d.lane.title}: {d.state.mode}", d.state.detail)))
            for runtime in self.runtimes.values()
            for d in runtime.dispatchers
            if d.state.mode != "running"
        ]
        stopped += [item.line for item in self._problems.items("broken ")]
        stopped += [item.line for item in self._problems.items("account ")]
        for runtime in self.runtimes.values():
            found = await runtime.attention()
            stopped += [item.line for item in found if item.key.startswith("poll ")]
        return stopped

    async def _idle(self, name: str) -> bool:
        """A connection that waits is idle once its account was asked for in vain."""
        if name not in self.running:
            return f"account {name}" in self._problems
        return await self.runtimes[name].idle(_IDLE_HORIZON)
