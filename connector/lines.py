"""From a connection's configuration to a line that runs: the only place where adapters, mapping,
quota and dispatchers are put together.

A line has up to three lanes: events out, people read again at the platform, and profiles out. An
event asks for a read in the transaction that stores it; the read settles an observation; and the
observation makes the profile ready.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, TypeVar

from connector import log
from connector.adapters import registry
from connector.adapters.kit import Kit
from connector.adapters.klaviyo import api as klaviyo
from connector.adapters.klaviyo.limits import GET_ACCOUNTS, LIMITS
from connector.adapters.klaviyo.sink.events import EventSink
from connector.adapters.klaviyo.sink.jobs import ImportJobs
from connector.adapters.klaviyo.sink.profiles import ProfileSink
from connector.config import Config, Connection
from connector.dispatch import Dispatcher, Policy
from connector.errors import ConfigError, DeliveryError, Problem
from connector.governor import Governor, Limit
from connector.http import Http, Seen, Vendor
from connector.intake import Door
from connector.mapping import CompiledMapping
from connector.mapping import load as load_mapping
from connector.metrics import Metrics, account_label
from connector.model import (
    Entry,
    Fault,
    Kind,
    Lane,
    LaneState,
    Outcome,
    Pending,
    ProfileWrite,
    Skip,
)
from connector.operate import KLAVIYO, Line
from connector.ports import Clock, Lease, Platform, Queue, Reader, Renderer, Sink, Store
from connector.receipts import Receipts
from connector.refresh import PassThrough, Refresher
from connector.rendering import EventRenderer, ProfileRenderer
from connector.retry import reading

M = TypeVar("M")
_DAY, _MINUTES = 86_400, 180
"""Seconds of spent quota that are read at start: as long as the longest window, and more."""


class Muted(Generic[M]):
    """A renderer that renders and sends nothing: shadow mode, or a module that is off."""

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


class Quotas:
    """One governor per account or credential, however many connections share it."""

    def __init__(self, store: Store, clock: Clock, metrics: Metrics) -> None:
        self._store = store
        self._clock = clock
        self._metrics = metrics
        self._governors: dict[str, Governor] = {}
        self._uses: dict[str, dict[str, tuple[float, float]]] = {}

    async def of(
        self,
        account: str,
        limits: Mapping[str, Limit],
        *,
        connection: str,
        share: float = 1.0,
        live_reserve: float = 0.0,
    ) -> Governor:
        """The governor of an account, remembering what was granted before a restart. Connections
        that share an account are shares of one quota: the smallest share of those that use it
        counts, and the largest reserve."""
        uses = self._uses.setdefault(account, {})
        uses[connection] = (share, live_reserve)
        share = min(share for share, _ in uses.values())
        live_reserve = max(reserve for _, reserve in uses.values())
        governor = self._governors.get(account)
        if governor is not None:
            governor.adjust(limits, share=share, live_reserve=live_reserve)
            return governor
        label = account_label(account)
        governor = Governor(
            label,
            limits,
            clock=self._clock,
            share=share,
            live_reserve=live_reserve,
            blocked=lambda endpoint, wait: self._metrics.quota_wait.labels(label, endpoint).inc(
                wait
            ),
        )
        longest = _DAY if any(limit.daily for limit in limits.values()) else _MINUTES
        since = self._clock.now() // 1000 - longest
        governor.load(await self._store.memory.spent(since_second=since))
        self._governors[account] = governor
        return governor

    def start_over(self) -> None:
        """The configuration is read again: who uses which account is told anew."""
        self._uses.clear()

    def forget(self, account: str) -> None:
        """Drop a governor that another has taken over from: what it granted is in the store."""
        self._governors.pop(account, None)
        self._uses.pop(account, None)

    def publish(self) -> None:
        for governor in self._governors.values():
            for endpoint, window, left in governor.remaining():
                self._metrics.quota.labels(governor.account, endpoint, window).set(left)


@dataclass(frozen=True, slots=True)
class _Site:
    """What every part of one line needs."""

    connection: Connection
    platform: Platform
    mapping: CompiledMapping
    account: str | None
    api: klaviyo.KlaviyoApi

    @property
    def profiles(self) -> bool:
        """Whether people are read and their fields are written."""
        return "profiles" in self.connection.modules and self.platform.reader is not None


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
        self.config = config
        self._store = store
        self._lease = lease
        self._clock = clock
        self._metrics = metrics
        self.quotas = quotas or Quotas(store, clock, metrics)
        self._log = log.get("lines")

    async def build(self, connection: Connection) -> Line:
        """A line, stopped. Raises ConfigError for a platform or mapping that cannot be used."""
        platform = registry.load(connection.source)
        mapping = load_mapping(connection.mapping).mapping
        if mapping.source != connection.source:
            raise ConfigError(
                [
                    f"connections.{connection.name}.mapping: found a mapping for {mapping.source}, "
                    f"allowed one for {connection.source}"
                ]
            )
        await self._store.memory.remember_mapping(
            mapping.version, mapping.text, now=self._clock.now()
        )
        self._metrics.expects(connection.name, _stable_until(connection.klaviyo.revision))
        api, account = await self._connect(connection)
        site = _Site(connection, platform, mapping, account, api)

        def freed() -> None:
            if line.writes:
                line.writes.wake()

        line = Line(
            name=connection.name,
            title=platform.title,
            enabled=connection.enabled,
            mapping=mapping.version,
            account=account,
            events=await self._events(site, freed),
            checks=[api.check],
            close=[api.aclose],
        )
        if site.profiles:
            await self._states(site, line)
        line.door = self._door(site, line)
        return line

    # ── events out ───────────────────────────────────────────────────────────────────────────────

    async def _events(self, site: _Site, freed: Callable[[], None]) -> Dispatcher[Any]:
        """`freed` is called when people may be written again whom an event was carrying."""
        reads = self._store.reads if site.profiles else None
        renderer = EventRenderer(site.mapping, site.platform.event_view, self._store.memory, reads)
        sink = EventSink(site.api, self._clock, late_after=self.config.delivery.late_after)
        on = "events" in site.connection.modules
        muted = self._muted(site, renderer, on=on)
        return await self._dispatcher(
            site, KLAVIYO, "event", self._store, sink, muted, settled=lambda _: freed()
        )

    def _door(self, site: _Site, line: Line) -> Door | None:
        if site.platform.webhook is None:
            return None
        webhook = site.platform.webhook(site.connection.settings)
        if line.reads is None:
            return Door(line.events.lane, webhook)
        wait = self.config.delivery.attach_wait if site.mapping.attach_profile else 0.0
        events = line.events
        return Door(
            events.lane,
            webhook,
            reads=line.reads.lane.id,
            wants_read=site.mapping.refreshes,
            renews=line.renews,
            attach_wait=round(wait * 1000),
            hurried=lambda: events.hurried,
        )

    # ── people in, profiles out ──────────────────────────────────────────────────────────────────

    async def _states(self, site: _Site, line: Line) -> None:
        """The two lanes of states, and who follows the jobs. Each wakes the next."""
        connection, platform = site.connection, site.platform
        assert platform.reader is not None
        reader: Reader = await platform.reader(connection.settings, self._kit(connection))
        line.renews = reader.renews
        line.checks.append(reader.check)
        line.close.append(reader.aclose)
        sink = ProfileSink(site.api)

        def written(outcomes: Sequence[Outcome]) -> None:
            if any(isinstance(o, Pending) for o in outcomes) and line.receipts:
                line.receipts.wake()

        renderer: Renderer[ProfileWrite] = ProfileRenderer()
        line.writes = await self._dispatcher(
            site,
            KLAVIYO,
            "profile",
            self._store.profiles,
            sink,
            self._muted(site, renderer),
            settled=written,
        )
        line.receipts = Receipts(
            line.writes.lane,
            self._store.profiles,
            ImportJobs(site.api),
            self._lease,
            self._clock,
            self._metrics,
            settled=line.writes.wake,
        )
        refresher = Refresher(
            reader,
            site.mapping,
            lane=line.writes.lane.id,
            account=site.account or connection.klaviyo.base_url,
            email_change=connection.email_change,
            on_leave=connection.on_leave,
        )

        def seen(outcomes: Sequence[Outcome]) -> None:
            line.events.wake()
            if line.writes:
                line.writes.wake()

        line.reads = await self._dispatcher(
            site,
            connection.source,
            "profile",
            self._store.reads,
            refresher,
            PassThrough(),
            settled=seen,
        )

    def _kit(self, connection: Connection) -> Kit:
        async def quota(credential: str, limits: Mapping[str, Limit]) -> Governor:
            return await self.quotas.of(credential, limits, connection=connection.name)

        def http(
            base_url: str,
            credential: Callable[[], Mapping[str, str]],
            not_applied: frozenset[int],
        ) -> Http:
            return self._http(
                connection,
                base_url,
                connection.source,
                vendor="platform",
                credential=credential,
                wait_statuses=not_applied,
            )

        return Kit(self._clock, http, quota, self._store.memory.remember_spend)

    # ── parts ────────────────────────────────────────────────────────────────────────────────────

    async def _dispatcher(
        self,
        site: _Site,
        destination: str,
        kind: Kind,
        queue: Queue,
        sink: Sink[Any],
        renderer: Renderer[Any],
        settled: Callable[[Sequence[Outcome]], None] = lambda outcomes: None,
    ) -> Dispatcher[Any]:
        lane = await self._store.lanes.ensure(site.connection.name, destination, kind)
        state = next(s for x, s in await self._store.lanes.all() if x.id == lane.id)
        if destination == KLAVIYO:
            state = await self._pinned(site, lane, state)
        return Dispatcher(
            lane,
            state,
            queue=queue,
            lanes=self._store.lanes,
            sink=sink,
            renderer=renderer,
            lease=self._lease,
            clock=self._clock,
            metrics=self._metrics,
            policy=policy(self.config),
            settled=settled,
        )

    def _muted(self, site: _Site, renderer: Renderer[M], *, on: bool = True) -> Renderer[M]:
        if site.connection.mode == "shadow":
            return Muted(renderer, Skip("shadow"))
        return renderer if on else Muted(renderer, Skip("disabled"))

    async def _pinned(self, site: _Site, lane: Lane, state: LaneState) -> LaneState:
        """Another account than before is a question for a person, not a place to send to."""
        if site.account is None:
            return state
        name = site.connection.name
        pinned = await self._store.memory.pin_account(name, site.account)
        if pinned == site.account:
            if state.problem is not Problem.KLAVIYO_ACCOUNT:
                return state
            state = replace(state, mode="running", problem=None, detail="")
        elif state.problem is not Problem.KLAVIYO_ACCOUNT:
            detail = (
                f"the key belongs to account {site.account}, this connection to {pinned}; "
                f"if you mean it: connector resume {name}"
            )
            now = self._clock.now()
            state = LaneState("paused", Problem.KLAVIYO_ACCOUNT, detail, now)
            self._log.error(
                "another account", connection=name, problem=state.problem, detail=detail
            )
        await self._store.lanes.set_state(lane.id, state)
        return state

    # ── the Klaviyo side ─────────────────────────────────────────────────────────────────────────

    async def _connect(self, connection: Connection) -> tuple[klaviyo.KlaviyoApi, str | None]:
        """The API on the quota of its account, and the account's id where it can be read."""
        secret = connection.klaviyo.private_key.get_secret_value()
        credential = f"{connection.klaviyo.base_url} {secret}"
        api = self._api(connection, await self._quota(credential, connection))
        if not connection.enabled:
            return api, None
        try:
            account = (await asyncio.wait_for(reading(api.account, clock=self._clock), 8.0)).id
        except (DeliveryError, TimeoutError) as error:
            pinned = await self._store.memory.pinned(connection.name)
            self._log.warning(
                "the Klaviyo account cannot be read now",
                connection=connection.name,
                error=str(error),
                taken_to_be=pinned or "unknown",
            )
            if pinned is None:
                return api, None
            account = pinned
        await api.aclose()
        self.quotas.forget(credential)
        governor = await self._quota(account, connection)
        governor.reserve(GET_ACCOUNTS, 1)  # the call just made counts for the account too
        return self._api(connection, governor), account

    async def _quota(self, account: str, connection: Connection) -> Governor:
        return await self.quotas.of(
            account,
            LIMITS,
            connection=connection.name,
            share=connection.klaviyo.effective_rate_share,
            live_reserve=connection.klaviyo.live_reserve,
        )

    def _api(self, connection: Connection, governor: Governor) -> klaviyo.KlaviyoApi:
        http = self._http(
            connection,
            connection.klaviyo.base_url,
            KLAVIYO,
            vendor="klaviyo",
            credential=klaviyo.private_key(connection.klaviyo.private_key),
            headers=klaviyo.headers(connection.klaviyo.revision),
            watch=klaviyo.watch(governor),
        )
        return klaviyo.KlaviyoApi(
            http, governor, self._clock, self._store.memory.remember_spend, self._lease.valid
        )

    def _http(
        self,
        connection: Connection,
        base_url: str,
        destination: str,
        *,
        vendor: Vendor,
        credential: Callable[[], Mapping[str, str]],
        headers: Mapping[str, str] | None = None,
        wait_statuses: frozenset[int] = frozenset({429, 503}),
        watch: Callable[[Seen], None] = lambda seen: None,
    ) -> Http:
        def seen(call: Seen) -> None:
            watch(call)
            self._metrics.requested(
                connection.name, destination, call.route, call.status, call.seconds
            )

        return Http(
            base_url,
            vendor=vendor,
            clock=self._clock,
            credential=credential,
            headers=headers,
            allow_http=frozenset(self.config.security.allow_http),
            wait_statuses=wait_statuses,
            seen=seen,
        )


def _stable_until(revision: str) -> float:
    """Klaviyo keeps a revision stable for a year (facts of its versioning policy)."""
    day = datetime.fromisoformat(revision.partition(".")[0]).replace(tzinfo=UTC)
    return (day + timedelta(days=365)).timestamp()


def policy(config: Config) -> Policy:
    delivery = config.delivery
    return Policy(
        bulk_threshold=delivery.bulk_threshold,
        probe_every=delivery.probe_every,
        horizon=round(delivery.retry_horizon * 1000),
        retry_base=delivery.retry_base,
        retry_max=delivery.retry_max,
    )
