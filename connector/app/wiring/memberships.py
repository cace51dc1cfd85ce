"""Audiences kept as lists, segments kept as the platform's tags: a lane for each direction, a round
for each group that is read, a keeper for each that is kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from connector.app.wiring.context import ConnectionContext, dispatch_policy
from connector.app.wiring.flow_guard import build_flow_guard
from connector.config import Audience, Join, Segment
from connector.domain.errors import ConfigError, Problem
from connector.domain.lanes import LIST_MEMBERS, PROFILES, SEGMENT_MEMBERS, LaneKind
from connector.domain.memberships import Group, Link, MembershipWrite
from connector.domain.outcomes import Outcome, Pending
from connector.domain.records import State
from connector.klaviyo.groups import KlaviyoGroups
from connector.klaviyo.sink.jobs import ImportJobs
from connector.klaviyo.sink.members import MemberSink
from connector.pipeline.dispatch import Dispatcher
from connector.pipeline.import_jobs import ImportJobTracker
from connector.pipeline.rendering import MembershipRenderer
from connector.ports import Audiences, MembersPage, Renderer, Sink
from connector.ports.workers import Worker
from connector.service import CommandHandler, CommandResult
from connector.sync.memberships.join_actions import JoinAction, JoinActionsWorker, SubmitActions
from connector.sync.memberships.links import GroupFinder, audience_finder
from connector.sync.memberships.platform_sink import PlatformMembershipSink
from connector.sync.memberships.scans import GroupScan, SourceScan, TargetReadBack
from connector.sync.memberships.target_sync import TargetPolicy, TargetSync

_ALWAYS_BULK = 0
"""Joins always go in bulk, even one; leaves go singly."""


@dataclass(frozen=True, slots=True)
class MembershipParts:
    dispatchers: tuple[Dispatcher[Any], ...] = ()
    workers: tuple[Worker, ...] = ()
    commands: Mapping[str, CommandHandler] = field(default_factory=dict)

    def __or__(self, other: MembershipParts) -> MembershipParts:
        return MembershipParts(
            self.dispatchers + other.dispatchers,
            self.workers + other.workers,
            {**self.commands, **other.commands},
        )


async def build_memberships(
    context: ConnectionContext, events: Dispatcher[Any], submit: SubmitActions | None
) -> MembershipParts:
    """Both directions. `submit` stores the actions that joins of segments cause, None where the
    platform takes none. `events` shows whether the Klaviyo account is in question."""
    audiences = await _build_audiences(context, events)
    return audiences | await _build_segments(context, events, submit)


@dataclass
class _DirectionBuilder:
    """One direction of a connection while it is put together."""

    context: ConnectionContext
    events: Dispatcher[Any]
    dispatcher: Dispatcher[Any]
    groups: Sequence[Group]
    workers: list[Worker]
    scans: list[GroupScan] = field(default_factory=list)

    def target(self, name: str) -> Group:
        return next(g for g in self.groups if g.target == 0 and g.name == name)

    def source(self, name: str, target: Group) -> Group:
        return next(g for g in self.groups if g.target == target.id and g.name == name)

    @property
    def scan_args(self) -> dict[str, Any]:
        """What every round is made with."""
        services, events = self.context.services, self.events
        return {
            "memberships": services.store.memberships,
            "lease": services.lease,
            "clock": services.clock,
            # Another Klaviyo account than before: nothing is read or made there unasked.
            "is_blocked": lambda: events.state.problem is Problem.KLAVIYO_ACCOUNT,
        }

    def target_sync(
        self,
        target: Group,
        rules: Mapping[str, TargetPolicy],
        finders: Mapping[str, GroupFinder],
        **more: Any,
    ) -> TargetSync:
        services = self.context.services
        return TargetSync(
            self.context.connection.name,
            target.id,
            rules,
            memberships=services.store.memberships,
            approvals=services.store.approvals,
            finders=finders,
            clock=services.clock,
            notify_lane=self.dispatcher.wake,
            **more,
        )

    def add(self, scan: GroupScan) -> None:
        self.scans.append(scan)
        self.workers.append(self.context.supervise("scan", scan))


# ── audiences → lists ────────────────────────────────────────────────────────────────────────────


async def _build_audiences(context: ConnectionContext, events: Dispatcher[Any]) -> MembershipParts:
    entries = context.connection.audiences if context.has("audiences") else ()
    audiences_port = context.client.audiences if context.client else None
    if entries and "audiences" not in context.platform.offers:
        raise ConfigError(
            [
                f"connections.{context.connection.name}.audiences: found {len(entries)}, "
                f"allowed none: {context.platform.title} has no audiences"
            ]
        )
    links = [Link(e.audience, e.list, e.foreign_members == "remove") for e in entries]
    sink = MemberSink(context.api, trust_ids=context.connection.email_change == "new")
    direction = await _direction(context, events, LIST_MEMBERS, links, sink)
    if direction is None or audiences_port is None:
        return MembershipParts()
    klaviyo = KlaviyoGroups(context.api)
    by_list: dict[str, list[Audience]] = {}
    for entry in entries:
        by_list.setdefault(entry.list, []).append(entry)
    for name, linked_entries in by_list.items():
        _build_list_target(direction, name, linked_entries, audiences_port, klaviyo)
    return _parts(direction, "audiences-sync")


def _build_list_target(
    direction: _DirectionBuilder,
    name: str,
    linked_entries: Sequence[Audience],
    audiences_port: Audiences,
    klaviyo: KlaviyoGroups,
) -> None:
    target, creates = direction.target(name), any(entry.create_list for entry in linked_entries)
    target_sync = direction.target_sync(
        target,
        {entry.audience: _rules_of_list(entry) for entry in linked_entries},
        {
            "audience": audience_finder(audiences_port),
            "list": lambda name: klaviyo.find("list", name),
        },
        create=klaviyo.create_list if creates and not direction.context.shadow else None,
        guard=build_flow_guard(direction.context),
    )
    every = min(entry.every for entry in linked_entries)

    async def list_page(id: str, cursor: str | None) -> MembersPage:
        return await klaviyo.members("list", id, cursor)

    direction.add(
        TargetReadBack(target_sync, target.id, list_page, every=every, **direction.scan_args)
    )
    for entry in linked_entries:
        source = direction.source(entry.audience, target)
        direction.add(
            SourceScan(
                target_sync,
                source.id,
                audiences_port.members,
                every=entry.every,
                **direction.scan_args,
            )
        )


def _rules_of_list(entry: Audience) -> TargetPolicy:
    return TargetPolicy(
        entry.max_leave_share,
        entry.max_leave_floor,
        re_add=entry.on_manual_removal == "re-add",
        remove_foreign=entry.foreign_members == "remove",
    )


# ── segments → tags ──────────────────────────────────────────────────────────────────────────────


async def _build_segments(
    context: ConnectionContext, events: Dispatcher[Any], submit: SubmitActions | None
) -> MembershipParts:
    entries = context.connection.segments if context.has("segments") else ()
    members = context.client.members if context.client else None
    links = [Link(entry.segment, entry.target) for entry in entries]
    sink = None
    if members is not None and context.client is not None:
        record_usage = context.services.store.facts.save_usage
        sink = PlatformMembershipSink(
            members, context.client.check, context.services.clock, record_usage
        )
    direction = await _direction(context, events, SEGMENT_MEMBERS, links, sink)
    if direction is None:
        return MembershipParts()
    klaviyo = KlaviyoGroups(context.api)
    by_tag: dict[str, list[Segment]] = {}
    for entry in entries:
        by_tag.setdefault(entry.target, []).append(entry)
    for name, linked_entries in by_tag.items():
        _build_segment_target(direction, name, linked_entries, klaviyo, submit)
    return _parts(direction, "segments-sync")


def _build_segment_target(
    direction: _DirectionBuilder,
    name: str,
    linked_entries: Sequence[Segment],
    klaviyo: KlaviyoGroups,
    submit: SubmitActions | None,
) -> None:
    target = direction.target(name)
    target_sync = direction.target_sync(
        target,
        {e.segment: TargetPolicy(e.max_leave_share, e.max_leave_floor) for e in linked_entries},
        {"segment": lambda name: klaviyo.find("segment", name)},
        create=None,
        guard=None,
    )

    async def page(id: str, cursor: str | None) -> MembersPage:
        return await klaviyo.members("segment", id, cursor)

    async def since(id: str, cursor: str | None, since_time: Any) -> MembersPage:
        return await klaviyo.members("segment", id, cursor, since=since_time)

    for entry in linked_entries:
        source = direction.source(entry.segment, target)
        join_worker = _join_worker(direction, entry, source, submit)
        direction.add(
            SourceScan(
                target_sync,
                source.id,
                page,
                since=since,
                greets=_starts_join_actions(entry),
                on_joined=join_worker.wake if join_worker else lambda: None,
                every=entry.every,
                **direction.scan_args,
            )
        )


def _starts_join_actions(entry: Segment) -> Callable[[Group], bool]:
    """The first complete scan is the baseline: its people were members before."""
    return lambda group: (
        bool(entry.on_join) and (entry.on_join_existing or group.completed_scan > 0)
    )


def _join_worker(
    direction: _DirectionBuilder, entry: Segment, source: Group, submit: SubmitActions | None
) -> JoinActionsWorker | None:
    name, offers = direction.context.connection.name, direction.context.platform.offers
    if not entry.on_join:
        return None
    unsupported = sorted({join.action for join in entry.on_join} - offers)
    if unsupported or submit is None:
        found, title = ", ".join(unsupported) or "actions", direction.context.platform.title
        raise ConfigError(
            [
                f"connections.{name}.segments: on_join of {entry.segment}: found {found}, "
                f"which {title} does not offer"
            ]
        )
    services = direction.context.services
    join_actions = [_join_action(join) for join in entry.on_join]
    join_worker = JoinActionsWorker(
        source.id,
        entry.segment,
        join_actions,
        submit,
        services.store.memberships,
        services.clock,
    )
    direction.workers.append(direction.context.supervise("join_actions", join_worker))
    return join_worker


def _join_action(join: Join) -> JoinAction:
    amount = -join.amount if join.action == "decrease" else join.amount
    return JoinAction(join.action, amount, join.reason, join.message, join.url)


# ── both ─────────────────────────────────────────────────────────────────────────────────────────


async def _direction(
    context: ConnectionContext,
    events: Dispatcher[Any],
    kind: LaneKind,
    links: Sequence[Link],
    sink: Sink[MembershipWrite] | None,
) -> _DirectionBuilder | None:
    """The direction's lane and groups, as configured now; None where nothing is to be kept, or the
    platform does not offer it, which the groups then say."""
    services, name = context.services, context.connection.name
    store = services.store.memberships
    to_klaviyo = kind is LIST_MEMBERS
    kinds = ("audience", "list") if to_klaviyo else ("segment", "tag")
    before = [g for g in await store.groups(name) if g.kind in kinds]
    if not links and not before:
        return None
    account = context.address_scope if to_klaviyo else name
    lane = await services.store.lanes.ensure(name, context.destination(kind), kind.kind)
    await store.set_links(lane, links, account=account)
    groups = [g for g in await store.groups(name) if g.kind in kinds]
    if sink is None:
        for group in groups:
            why = f"{context.platform.title} does not offer it"
            await store.set_problem(group.id, Problem.NOT_OFFERED, why)
        return None
    if not links:
        return None
    if not context.shadow:
        await store.requeue(lane.id, [State.SKIPPED], now=services.clock.now())
    workers: list[Worker] = []
    dispatcher = await _lane(context, workers, kind, sink)
    return _DirectionBuilder(context, events, dispatcher, groups, workers)


async def _lane(
    context: ConnectionContext,
    workers: list[Worker],
    kind: LaneKind,
    sink: Sink[MembershipWrite],
) -> Dispatcher[Any]:
    services = context.services
    renderer: Renderer[MembershipWrite] = MembershipRenderer()

    def on_settled(outcomes: Sequence[Outcome]) -> None:
        if any(isinstance(outcome, Pending) for outcome in outcomes):
            receipts.wake()
        context.signals.wake(PROFILES)

    dispatcher: Dispatcher[Any] = await context.dispatcher(
        kind,
        sink,
        context.suppress_if_off(renderer),
        settled=on_settled,
        policy=replace(dispatch_policy(services.config), bulk_threshold=_ALWAYS_BULK),
    )
    receipts = ImportJobTracker(
        dispatcher.lane,
        services.store.memberships,
        ImportJobs(context.api),
        services.lease,
        services.clock,
        services.metrics,
        on_settled=dispatcher.wake,
    )
    if kind is LIST_MEMBERS:
        workers.append(context.supervise("import_jobs", receipts))
    return dispatcher


def _parts(direction: _DirectionBuilder, kind: str) -> MembershipParts:
    """The direction's lane and workers, and the command that scans its groups now."""
    store, lane = direction.context.services.store.memberships, direction.dispatcher.lane

    async def sync(args: Mapping[str, Any]) -> CommandResult:
        name = args["name"]
        linked = [g for g in direction.groups if name in (g.name, g.remote_id)]
        matching = {g.id for g in linked} | {g.target for g in linked}
        matching |= {g.id for g in direction.groups if g.target in matching}
        scans = [scan for scan in direction.scans if scan.group in matching]
        if not scans:
            known = ", ".join(sorted({g.name for g in direction.groups}))
            return False, {
                "error": f"{direction.context.connection.name} links no `{name}`, but {known}"
            }
        for group in direction.groups:
            if group.id in matching and group.target == 0 and group.kind == "list":
                await store.clear_remote_id(group.id)
        await store.requeue(lane.id, [State.DEAD], now=direction.context.services.clock.now())
        for scan in scans:
            scan.trigger()
        return True, {"requested": name, "groups": sorted(matching - {0})}

    return MembershipParts(
        (direction.dispatcher,), tuple(direction.workers), {kind: CommandHandler(sync)}
    )
