"""Audiences kept as lists and segments kept as the platform's tags: a lane for each direction, a
scan for each group that is read, a TargetSync for each group that is kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from connector.app.wiring.context import ConnectionContext, dispatch_policy
from connector.app.wiring.flow_guard import build_flow_guard
from connector.config import Audience, Join, Segment
from connector.domain.errors import ConfigError, Problem
from connector.domain.memberships import Group, Link, MembershipWrite
from connector.domain.outcomes import Outcome, Pending
from connector.domain.records import State
from connector.klaviyo.groups import KlaviyoGroups
from connector.klaviyo.sink.jobs import ImportJobs
from connector.klaviyo.sink.members import MemberSink
from connector.pipeline.dispatch import Dispatcher
from connector.pipeline.import_jobs import ImportJobTracker
from connector.pipeline.rendering import MembershipRenderer
from connector.ports import Audiences, Renderer, Sink
from connector.ports.workers import Worker
from connector.service import KLAVIYO, CommandHandler, CommandResult
from connector.sync.flow_guard import FlowGuard
from connector.sync.memberships.join_actions import JoinAction, JoinActionsWorker, SubmitActions
from connector.sync.memberships.platform_sink import PlatformMembershipSink
from connector.sync.memberships.remote_groups import (
    KlaviyoLists,
    KlaviyoSegments,
    PlatformAudiences,
)
from connector.sync.memberships.removals import RemovalGuard, RemovalLimit
from connector.sync.memberships.scans import GroupScan, ScanServices, SourceScan, TargetReadBack
from connector.sync.memberships.target_sync import TargetPolicy, TargetSync

_ALWAYS_BULK = 0
"""Joins are always sent in bulk, even a single one; leaves are the entries that go singly."""


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
    """Both directions. `submit` queues the actions of people who join segments, None where the
    platform takes none. `events` shows whether the Klaviyo account is in question."""
    audiences = await _build_audiences(context, events)
    return audiences | await _build_segments(context, events, submit)


@dataclass
class _Direction:
    """One direction of a connection while it is built."""

    context: ConnectionContext
    events: Dispatcher[Any]
    dispatcher: Dispatcher[Any]
    groups: Sequence[Group]
    workers: list[Worker]
    scans: list[GroupScan] = field(default_factory=list)

    def target(self, name: str) -> Group:
        return next(g for g in self.groups if g.is_target and g.name == name)

    def source(self, name: str, target: Group) -> Group:
        return next(g for g in self.groups if g.target == target.id and g.name == name)

    @property
    def scan_services(self) -> ScanServices:
        services, events = self.context.services, self.events
        return ScanServices(
            groups=services.store.member_groups,
            scans=services.store.group_scans,
            lease=services.lease,
            clock=services.clock,
            is_blocked=lambda: events.state.problem is Problem.KLAVIYO_ACCOUNT,
        )

    def target_sync(
        self, target: Group, policy: TargetPolicy, *, first_sync_guard: FlowGuard | None = None
    ) -> TargetSync:
        services = self.context.services
        store = services.store
        return TargetSync(
            target.id,
            policy,
            groups=store.member_groups,
            scans=store.group_scans,
            members=store.target_members,
            removals=RemovalGuard(self.context.connection.name, store.approvals, services.clock),
            first_sync_guard=first_sync_guard,
            clock=services.clock,
            notify_lane=self.dispatcher.wake,
        )

    def add(self, scan: GroupScan) -> None:
        self.scans.append(scan)
        self.workers.append(self.context.supervise("scan", scan))


# ── audiences → lists ────────────────────────────────────────────────────────────────────────────


async def _build_audiences(context: ConnectionContext, events: Dispatcher[Any]) -> MembershipParts:
    entries = context.connection.audiences if context.has("audiences") else ()
    audiences = context.client.audiences if context.client else None
    if entries and "audiences" not in context.platform.offers:
        raise ConfigError(
            [
                f"connections.{context.connection.name}.audiences: found {len(entries)}, "
                f"allowed none: {context.platform.title} has no audiences"
            ]
        )
    links = [Link(e.audience, e.list, e.foreign_members == "remove") for e in entries]
    sink = MemberSink(context.api, trust_ids=context.connection.email_change == "new")
    direction = await _direction(context, events, KLAVIYO, links, sink)
    if direction is None or audiences is None:
        return MembershipParts()
    for name in dict.fromkeys(entry.list for entry in entries):
        _build_list(direction, name, [e for e in entries if e.list == name], audiences)
    return _parts(direction, "audiences-sync")


def _build_list(
    direction: _Direction, name: str, entries: Sequence[Audience], audiences: Audiences
) -> None:
    context, target = direction.context, direction.target(name)
    target_sync = direction.target_sync(
        target, _list_policy(entries), first_sync_guard=build_flow_guard(context)
    )
    creates = any(entry.create_list for entry in entries) and not context.shadow
    direction.add(
        TargetReadBack(
            target.id,
            KlaviyoLists(KlaviyoGroups(context.api), creates=creates),
            target_sync,
            direction.scan_services,
            every=min(entry.every for entry in entries),
        )
    )
    for entry in entries:
        direction.add(
            SourceScan(
                direction.source(entry.audience, target).id,
                PlatformAudiences(audiences),
                target_sync,
                direction.scan_services,
                every=entry.every,
            )
        )


def _list_policy(entries: Sequence[Audience]) -> TargetPolicy:
    """The entries of one list agree on manual removals and foreign members: checked with the
    configuration."""
    first = entries[0]
    limits = _limits((entry.audience, entry) for entry in entries)
    return TargetPolicy(
        limits,
        foreign_limit=limits[first.audience],
        re_add=first.on_manual_removal == "re-add",
        remove_foreign=first.foreign_members == "remove",
    )


def _limits(entries: Iterable[tuple[str, Audience | Segment]]) -> dict[str, RemovalLimit]:
    return {
        source: RemovalLimit(entry.max_leave_share, entry.max_leave_floor)
        for source, entry in entries
    }


# ── segments → tags ──────────────────────────────────────────────────────────────────────────────


async def _build_segments(
    context: ConnectionContext, events: Dispatcher[Any], submit: SubmitActions | None
) -> MembershipParts:
    entries = context.connection.segments if context.has("segments") else ()
    links = [Link(entry.segment, entry.target) for entry in entries]
    direction = await _direction(
        context, events, context.connection.source, links, _platform_sink(context)
    )
    if direction is None:
        return MembershipParts()
    for name in dict.fromkeys(entry.target for entry in entries):
        _build_tag(direction, name, [e for e in entries if e.target == name], submit)
    return _parts(direction, "segments-sync")


def _platform_sink(context: ConnectionContext) -> PlatformMembershipSink | None:
    client, services = context.client, context.services
    if client is None or client.members is None:
        return None
    return PlatformMembershipSink(
        client.members, client.check, services.clock, services.store.facts.save_usage
    )


def _build_tag(
    direction: _Direction, name: str, entries: Sequence[Segment], submit: SubmitActions | None
) -> None:
    target = direction.target(name)
    limits = _limits((entry.segment, entry) for entry in entries)
    target_sync = direction.target_sync(target, TargetPolicy(limits))
    segments = KlaviyoSegments(KlaviyoGroups(direction.context.api))
    for entry in entries:
        source = direction.source(entry.segment, target)
        direction.add(
            SourceScan(
                source.id,
                segments,
                target_sync,
                direction.scan_services,
                every=entry.every,
                join_actions=_join_actions(direction, entry, source, submit),
            )
        )


def _join_actions(
    direction: _Direction, entry: Segment, source: Group, submit: SubmitActions | None
) -> JoinActionsWorker | None:
    context = direction.context
    if not entry.on_join:
        return None
    unsupported = sorted({join.action for join in entry.on_join} - context.platform.offers)
    if unsupported or submit is None:
        found = ", ".join(unsupported) or "actions"
        raise ConfigError(
            [
                f"connections.{context.connection.name}.segments: on_join of {entry.segment}: "
                f"found {found}, which {context.platform.title} does not offer"
            ]
        )
    worker = JoinActionsWorker(
        source.id,
        entry.segment,
        [_join_action(join) for join in entry.on_join],
        submit,
        context.services.store.segment_joins,
        include_existing=entry.on_join_existing,
    )
    direction.workers.append(context.supervise("join_actions", worker))
    return worker


def _join_action(join: Join) -> JoinAction:
    amount = -join.amount if join.action == "decrease" else join.amount
    return JoinAction(join.action, amount, join.reason, join.message, join.url)


# ── both ─────────────────────────────────────────────────────────────────────────────────────────


async def _direction(
    context: ConnectionContext,
    events: Dispatcher[Any],
    destination: str,
    links: Sequence[Link],
    sink: Sink[MembershipWrite] | None,
) -> _Direction | None:
    """The direction's lane and groups, as configured now; None where it has no links, or the
    platform does not offer it (then the groups' problem says so)."""
    services, name, store = context.services, context.connection.name, context.services.store
    kinds = ("audience", "list") if destination == KLAVIYO else ("segment", "tag")
    earlier = [g for g in await store.member_groups.all(name) if g.kind in kinds]
    if not links and not earlier:
        return None
    account = (
        (context.account or context.connection.klaviyo.base_url) if destination == KLAVIYO else name
    )
    lane = await store.lanes.ensure(name, destination, "membership")
    await store.member_groups.set_links(lane, links, account=account)
    groups = [g for g in await store.member_groups.all(name) if g.kind in kinds]
    if sink is None:
        for group in groups:
            detail = f"{context.platform.title} does not offer it"
            await store.member_groups.set_problem(group.id, Problem.NOT_OFFERED, detail)
        return None
    if not links:
        return None
    if not context.shadow:
        await store.memberships.requeue(lane.id, [State.SKIPPED], now=services.clock.now())
    workers: list[Worker] = []
    dispatcher = await _lane(context, workers, destination, sink)
    return _Direction(context, events, dispatcher, groups, workers)


async def _lane(
    context: ConnectionContext,
    workers: list[Worker],
    destination: str,
    sink: Sink[MembershipWrite],
) -> Dispatcher[Any]:
    services = context.services
    renderer: Renderer[MembershipWrite] = MembershipRenderer()

    def on_settled(outcomes: Sequence[Outcome]) -> None:
        if any(isinstance(outcome, Pending) for outcome in outcomes):
            import_jobs.wake()
        context.signals.wake("writes")

    dispatcher: Dispatcher[Any] = await context.dispatcher(
        "memberships",
        destination,
        "membership",
        services.store.memberships,
        sink,
        context.suppress_if_off(renderer),
        settled=on_settled,
        policy=replace(dispatch_policy(services.config), bulk_threshold=_ALWAYS_BULK),
    )
    import_jobs = ImportJobTracker(
        dispatcher.lane,
        services.store.memberships,
        ImportJobs(context.api),
        services.lease,
        services.clock,
        services.metrics,
        on_settled=dispatcher.wake,
    )
    if destination == KLAVIYO:
        workers.append(context.supervise("import_jobs", import_jobs))
    return dispatcher


def _parts(direction: _Direction, command: str) -> MembershipParts:
    """The direction's lane and workers, and the command that scans the groups of a link now."""
    context, store = direction.context, direction.context.services.store

    async def sync(args: Mapping[str, Any]) -> CommandResult:
        name = args["name"]
        groups = _linked(direction.groups, name)
        scans = [scan for scan in direction.scans if scan.group in groups]
        if not scans:
            known = ", ".join(sorted({g.name for g in direction.groups}))
            return False, {"error": f"{context.connection.name} links no `{name}`, but {known}"}
        for group in groups.values():
            if group.kind == "list":
                await store.member_groups.clear_remote_id(group.id)
        lane, now = direction.dispatcher.lane, context.services.clock.now()
        await store.memberships.requeue(lane.id, [State.DEAD], now=now)
        for scan in scans:
            scan.trigger()
        return True, {"requested": name, "groups": sorted(groups)}

    return MembershipParts(
        (direction.dispatcher,), tuple(direction.workers), {command: CommandHandler(sync)}
    )


def _linked(groups: Sequence[Group], name: str) -> dict[int, Group]:
    """The groups with this name or remote id, their targets, and all sources of those targets."""
    named = [group for group in groups if name in (group.name, group.remote_id)]
    targets = {group.id if group.is_target else group.target for group in named}
    return {g.id: g for g in groups if g.id in targets or g.target in targets}
