"""From a connection's configuration to a line that runs: the only place where adapters, mapping,
quota and dispatcher are put together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from connector import log
from connector.adapters import registry
from connector.adapters.klaviyo import api as klaviyo
from connector.adapters.klaviyo.limits import GET_ACCOUNTS, LIMITS
from connector.adapters.klaviyo.sink.events import EventSink
from connector.config import Config, Connection
from connector.dispatch import Dispatcher, Policy
from connector.errors import DeliveryError, Problem
from connector.governor import Governor
from connector.http import Http, Seen
from connector.mapping import CompiledMapping
from connector.mapping import load as load_mapping
from connector.metrics import Metrics, account_label
from connector.model import Entry, EventMessage, Fault, LaneState, Skip, Spend
from connector.operate import Line
from connector.ports import Clock, Lease, Platform, Renderer, Store
from connector.rendering import EventRenderer

KLAVIYO = "klaviyo"


class Muted:
    """A renderer that renders and sends nothing: shadow mode, or a module that is off."""

    def __init__(self, inner: Renderer[EventMessage], reason: Skip) -> None:
        self._inner = inner
        self._reason = reason

    @property
    def version(self) -> str:
        return self._inner.version

    async def prepare(self, entries: Sequence[Entry]) -> None:
        await self._inner.prepare(entries)

    def render(self, entry: Entry) -> EventMessage | Skip | Fault:
        message = self._inner.render(entry)
        return self._reason if isinstance(message, EventMessage) else message


class Quotas:
    """One governor per account, however many connections share it."""

    def __init__(self, store: Store, clock: Clock, metrics: Metrics) -> None:
        self._store = store
        self._clock = clock
        self._metrics = metrics
        self._governors: dict[tuple[str, float, float], Governor] = {}

    async def of(self, account: str, connection: Connection) -> Governor:
        """The governor of an account, remembering what was granted before a restart."""
        share = connection.klaviyo.effective_rate_share
        key = (account, share, connection.klaviyo.live_reserve)
        if key not in self._governors:
            label = account_label(account)
            governor = Governor(
                label,
                LIMITS,
                clock=self._clock,
                share=share,
                live_reserve=connection.klaviyo.live_reserve,
                blocked=lambda endpoint, wait: self._metrics.quota_wait.labels(label, endpoint).inc(
                    wait
                ),
            )
            since = self._clock.now() // 1000 - 86_400
            governor.load(await self._store.memory.spent(since_second=since))
            self._governors[key] = governor
        return self._governors[key]

    def publish(self) -> None:
        for governor in self._governors.values():
            for endpoint, window, left in governor.remaining():
                self._metrics.quota.labels(governor.account, endpoint, window).set(left)


class Workshop:
    """Builds lines."""

    def __init__(
        self, config: Config, store: Store, lease: Lease, clock: Clock, metrics: Metrics
    ) -> None:
        self.config = config
        self._store = store
        self._lease = lease
        self._clock = clock
        self._metrics = metrics
        self.quotas = Quotas(store, clock, metrics)
        self._log = log.get("lines")

    async def build(self, connection: Connection) -> Line:
        """A line, stopped. Raises ConfigError for a platform or mapping that cannot be used."""
        platform = registry.load(connection.source)
        mapping = load_mapping(connection.mapping).mapping
        await self._store.memory.remember_mapping(
            mapping.version, mapping.text, now=self._clock.now()
        )
        lane = await self._store.lanes.ensure(connection.name, KLAVIYO, "event")
        state = next(s for x, s in await self._store.lanes.all() if x.id == lane.id)
        api, account = await self._connect(connection)
        sink = EventSink(api, self._clock, late_after=self.config.delivery.late_after)
        dispatcher = Dispatcher(
            lane,
            await self._pinned(connection, account, state),
            store=self._store,
            sink=sink,
            renderer=self.renderer(connection, platform, mapping),
            lease=self._lease,
            clock=self._clock,
            metrics=self._metrics,
            policy=policy(self.config),
        )
        return Line(
            name=connection.name,
            title=platform.title,
            enabled=connection.enabled,
            lane=lane,
            dispatcher=dispatcher,
            sink=sink,
            webhook=platform.webhook(connection.settings) if platform.webhook else None,
            account=account,
            close=api.aclose,
        )

    def renderer(
        self, connection: Connection, platform: Platform, mapping: CompiledMapping
    ) -> Renderer[EventMessage]:
        renderer = EventRenderer(mapping, platform.event_view, self._store.memory)
        if connection.mode == "shadow":
            return Muted(renderer, Skip("shadow"))
        if "events" not in connection.modules:
            return Muted(renderer, Skip("disabled"))
        return renderer

    # ── the Klaviyo side ─────────────────────────────────────────────────────────────────────────

    async def _connect(self, connection: Connection) -> tuple[klaviyo.KlaviyoApi, str | None]:
        """The API on the quota of its account, and the account's id where it can be read."""
        secret = connection.klaviyo.private_key.get_secret_value()
        credential = f"{connection.klaviyo.base_url} {secret}"
        api = self._api(connection, await self.quotas.of(credential, connection))
        if not connection.enabled:
            return api, None
        try:
            account = (await asyncio.wait_for(api.account(), 5.0)).id
        except (DeliveryError, TimeoutError, KeyError, IndexError) as error:
            self._log.warning(
                "the Klaviyo account cannot be read", connection=connection.name, error=str(error)
            )
            return api, None
        await api.aclose()
        governor = await self.quotas.of(account, connection)
        governor.reserve(GET_ACCOUNTS, 1)  # the call just made counts for the account too
        return self._api(connection, governor), account

    def _api(self, connection: Connection, governor: Governor) -> klaviyo.KlaviyoApi:
        watch = klaviyo.watch(governor)

        def seen(call: Seen) -> None:
            watch(call)
            self._metrics.requested(connection.name, KLAVIYO, call.route, call.status, call.seconds)

        async def remember(spend: Sequence[Spend]) -> None:
            await self._store.memory.remember_spend(spend)

        http = Http(
            connection.klaviyo.base_url,
            vendor="klaviyo",
            clock=self._clock,
            credential=klaviyo.private_key(connection.klaviyo.private_key),
            headers=klaviyo.headers(connection.klaviyo.revision),
            allow_http=frozenset(self.config.security.allow_http),
            seen=seen,
        )
        return klaviyo.KlaviyoApi(http, governor, self._clock, remember)

    async def _pinned(
        self, connection: Connection, account: str | None, state: LaneState
    ) -> LaneState:
        """Another account than before is a question for a person, not a place to send to."""
        if account is None:
            return state
        pinned = await self._store.memory.pin_account(connection.name, account)
        if pinned == account:
            if state.problem is Problem.KLAVIYO_ACCOUNT:
                return replace(state, mode="running", problem=None, detail="")
            return state
        detail = (
            f"the key belongs to account {account}, this connection to {pinned}; "
            f"if you mean it: connector resume {connection.name}"
        )
        return LaneState("paused", Problem.KLAVIYO_ACCOUNT, detail, self._clock.now())


def policy(config: Config) -> Policy:
    delivery = config.delivery
    return Policy(
        bulk_threshold=delivery.bulk_threshold,
        probe_every=delivery.probe_every,
        horizon=round(delivery.retry_horizon * 1000),
        retry_base=delivery.retry_base,
        retry_max=delivery.retry_max,
    )
