"""What every part of a connection is built with, and how its lanes are put together."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

from connector.app.wiring.limiters import RateLimiters
from connector.app.wiring.oauth import platform_tokens
from connector.app.wiring.stored import StoredFacts
from connector.config import Actions, Config, Connection
from connector.domain.errors import Problem
from connector.domain.lanes import KLAVIYO, Lane, LaneKind, LaneState, Suppression
from connector.domain.messages import Fault, Skip
from connector.domain.outcomes import Outcome
from connector.domain.records import Entry
from connector.klaviyo.api import KlaviyoApi
from connector.mapping import CompiledMapping
from connector.net.answers import RETRY_STATUSES, Vendor
from connector.net.http import CallStats, Credential, Http, TransportFactory
from connector.net.rate_limit import Limit, RateLimiter
from connector.net.stored_token import StoredToken
from connector.pipeline.dispatch import Dispatcher, Policy
from connector.pipeline.intake import Intake
from connector.pipeline.lane_queues import queue_of
from connector.pipeline.lane_signals import LaneSignals
from connector.pipeline.resume import Resume
from connector.platforms.kit import Kit
from connector.ports import Client, Clock, Fence, Lease, Platform, Reader, Renderer, Sink, Store
from connector.ports.workers import Loop, WorkerName
from connector.runtime import log
from connector.runtime.metrics import Metrics
from connector.runtime.supervisor import SupervisedWorker

M = TypeVar("M")

_CLAIM_COOLDOWN = 0.05
"""Seconds (docs/decisions/0033-claim-cooldown.md)."""


class SuppressingRenderer(Generic[M]):
    """A renderer of states that renders and sends nothing, in shadow mode. What it skips is sent
    when shadow mode ends."""

    def __init__(self, inner: Renderer[M], reason: Skip) -> None:
        self._inner = inner
        self._reason = reason

    @property
    def version(self) -> str:
        return self._inner.version

    async def prepare(self, entries: Sequence[Entry]) -> None:
        await self._inner.prepare(entries)

    def render(self, entry: Entry) -> M | Skip | Fault:
        message = self._inner.render(entry)
        return message if isinstance(message, Skip | Fault) else self._reason


LeaseOf = Callable[[str, str | None], Lease]


@dataclass(frozen=True, slots=True)
class SharedServices:
    """What all connections share. `lease_of` has the lease of a connection by its name and account,
    as far as that is known. `stored` is what was read of the store before they were built.
    `known_accounts`: the account ids that Klaviyo has named to this
    process, by credential (connector.app.wiring.accounts). `hint` is called with a
    connection for which something was stored, and whose lanes run in another process. `untracked`
    are lanes that do not run, whose import jobs a connection follows."""

    config: Config
    store: Store
    lease_of: LeaseOf
    clock: Clock
    metrics: Metrics
    limiters: RateLimiters
    new_transport: TransportFactory
    intake: Intake
    stored: StoredFacts
    known_accounts: Mapping[str, str] = field(default_factory=dict)
    hint: Callable[[str], None] = lambda connection: None
    untracked: Callable[[str], Sequence[Lane]] = lambda connection: ()

    def http(
        self,
        connection: Connection,
        lease: Lease,
        base_url: str,
        destination: str,
        *,
        vendor: Vendor,
        credential: Credential,
        headers: Mapping[str, str] | None = None,
        retry_statuses: frozenset[int] = RETRY_STATUSES,
        observe_headers: Callable[[CallStats], None] = lambda seen: None,
    ) -> Http:
        """A client whose calls are counted as this connection's, and which changes nothing at the
        remote API without the lease."""

        def seen(call: CallStats) -> None:
            observe_headers(call)
            self.metrics.record_request(
                connection.name, destination, call.route, call.status, call.seconds
            )

        return Http(
            base_url,
            vendor=vendor,
            clock=self.clock,
            credential=credential,
            headers=headers,
            allow_http=frozenset(self.config.security.allow_http),
            retry_statuses=retry_statuses,
            on_call=seen,
            transport=self.new_transport(),
            may_send=lease.valid,
        )

    def kit(self, connection: Connection, lease: Lease) -> Kit:
        """What the connection's adapter reaches its platform with."""

        async def quota(credential: str, limits: Mapping[str, Limit]) -> RateLimiter:
            return await self.limiters.of(
                credential,
                limits,
                connection=connection.name,
                live_reserve=connection.klaviyo.live_reserve,
            )

        def http(base_url: str, credential: Credential, not_applied: frozenset[int]) -> Http:
            return self.http(
                connection,
                lease,
                base_url,
                connection.source,
                vendor="platform",
                credential=credential,
                retry_statuses=not_applied,
            )

        actions = connection.actions or Actions()
        return Kit(
            self.clock,
            http,
            quota,
            self.store.facts.save_usage,
            frozenset(actions.retry_statuses),
            platform_tokens(self.config, self.store, connection, self.clock),
        )


@dataclass(frozen=True, slots=True)
class ConnectionContext:
    """What every part of one connection needs. `lease` is that of its account. `client` is None
    where nothing of the platform's API is used, `account` before Klaviyo has named its account;
    `account_confirmed` as in connector.app.wiring.accounts.Account. `token` is None where a private
    key is used. `resumptions` make ready what waited while a lane sent nothing, `link`
    puts its links into use, also those that a process with another configuration has replaced."""

    services: SharedServices
    connection: Connection
    lease: Lease
    platform: Platform
    client: Client | None
    mapping: CompiledMapping
    account: str | None
    account_confirmed: bool
    api: KlaviyoApi
    token: StoredToken | None = None
    signals: LaneSignals = field(default_factory=LaneSignals)
    resumptions: list[Resume] = field(default_factory=list)
    link: list[Callable[[Fence], Awaitable[None]]] = field(default_factory=list)

    def has(self, module: str) -> bool:
        """Whether the connection has this module switched on."""
        return module in self.connection.modules

    @property
    def reader(self) -> Reader | None:
        """Reads people at the platform, where their fields are written."""
        return self.client.reader if self.has("profiles") and self.client else None

    @property
    def writes_profiles(self) -> bool:
        """Whether profile fields are written: read at the platform, or taken from events."""
        return self.reader is not None or (
            self.has("profiles") and bool(self.mapping.event_sourced)
        )

    @property
    def address_scope(self) -> str:
        """What a profile's address is scoped by: the account, as far as it is known."""
        return self.account or self.connection.klaviyo.base_url

    @property
    def reconfirm_after(self) -> int:
        """[delivery] reconfirm_after in ms."""
        return round(self.services.config.delivery.reconfirm_after * 1000)

    @property
    def shadow(self) -> bool:
        return self.connection.mode == "shadow"

    def suppress_in_shadow(self, renderer: Renderer[M]) -> Renderer[M]:
        """The renderer of a state, or one that sends nothing in shadow mode."""
        return SuppressingRenderer(renderer, Skip("shadow")) if self.shadow else renderer

    def suppressed(self, module: str) -> Suppression | None:
        """Why records of this module that are received now are never sent; None: they are."""
        if self.shadow:
            return "shadow"
        return None if self.has(module) else "disabled"

    def supervise(self, name: WorkerName, loop: Loop, *, of: str = "") -> SupervisedWorker:
        """A worker of this connection, stopped. `of` distinguishes workers of one name."""
        services = self.services
        return SupervisedWorker(
            name,
            loop,
            subject=f"{self.connection.name} {of}".rstrip(),
            clock=services.clock,
            metrics=services.metrics,
            may_run=self.lease.valid,
        )

    def destination(self, kind: LaneKind) -> str:
        """Where lanes of this kind lead: Klaviyo, or the platform by its name."""
        return KLAVIYO if kind.side == "klaviyo" else self.connection.source

    async def lane(self, kind: LaneKind) -> Lane:
        """The lane of this kind, as stored."""
        stored = self.services.stored
        return await stored.lane(self.connection.name, self.destination(kind), kind.kind)

    async def dispatcher(
        self,
        kind: LaneKind,
        sink: Sink[Any],
        renderer: Renderer[Any],
        settled: Callable[[Sequence[Outcome]], None] = lambda outcomes: None,
        policy: Policy | None = None,
    ) -> Dispatcher[Any]:
        """A lane of this connection, stopped. Others wake it by its kind."""
        services = self.services
        destination = self.destination(kind)
        lane = await self.lane(kind)
        state = services.stored.state(lane)
        if destination == KLAVIYO:
            state = await self._check_account(lane, state)
        dispatcher: Dispatcher[Any] = Dispatcher(
            lane,
            state,
            queue=queue_of(kind, services.store),
            lanes=services.store.lanes,
            sink=sink,
            renderer=renderer,
            lease=self.lease,
            clock=services.clock,
            metrics=services.metrics,
            policy=policy or dispatch_policy(services.config),
            on_settled=settled,
        )
        self.signals.add(dispatcher)
        return dispatcher

    async def _check_account(self, lane: Lane, state: LaneState) -> LaneState:
        """Another Klaviyo account than before pauses the lane until a person resumes it."""
        if self.account is None or not self.account_confirmed:
            return state
        name, store = self.connection.name, self.services.store
        pinned = await store.facts.pin_account(name, self.account)
        if pinned == self.account:
            if state.problem is not Problem.KLAVIYO_ACCOUNT:
                return state
            state = replace(state, mode="running", problem=None, detail="")
        elif state.problem is not Problem.KLAVIYO_ACCOUNT:
            detail = f"the key belongs to account {self.account}, this connection to {pinned}"
            state = LaneState("paused", Problem.KLAVIYO_ACCOUNT, detail, self.services.clock.now())
            log.get("wiring").error(
                "account_changed", connection=name, problem=state.problem, detail=detail
            )
        await store.lanes.set_state(lane.id, state)
        return state


def dispatch_policy(config: Config) -> Policy:
    delivery = config.delivery
    return Policy(
        bulk_threshold=delivery.bulk_threshold,
        claim_cooldown=_CLAIM_COOLDOWN,
        probe_every=delivery.probe_every,
        horizon=round(delivery.retry_horizon * 1000),
        retry_base=delivery.retry_base,
        retry_max=delivery.retry_max,
    )
