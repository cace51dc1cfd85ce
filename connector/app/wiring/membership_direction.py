"""One direction of memberships: its groups, the lane that keeps its targets, the scans that read
them, and the command that starts the scans."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from connector.app.wiring.context import ConnectionContext, dispatch_policy
from connector.app.wiring.flow_guard import approval_requests
from connector.app.wiring.import_jobs import build_tracker
from connector.config import Audience, Segment
from connector.domain.errors import Problem
from connector.domain.lanes import LIST_MEMBERS, PROFILES, Lane, LaneKind, Millis
from connector.domain.memberships import Group, GroupType, Link, MembershipWrite
from connector.domain.outcomes import Outcome, Pending
from connector.domain.records import State
from connector.pipeline.dispatch import Dispatcher
from connector.pipeline.import_jobs import ImportJobTracker
from connector.pipeline.rendering import MembershipRenderer
from connector.ports import Fence, Renderer, Sink
from connector.ports.workers import Worker
from connector.service import CommandHandler, CommandResult
from connector.sync.flow_guard import FlowGuard
from connector.sync.memberships.removals import RemovalGuard, RemovalLimit
from connector.sync.memberships.scans import GroupScan, ScanServices
from connector.sync.memberships.target_sync import TargetPolicy, TargetSync

_ALWAYS_BULK = 0
"""Joins always go in bulk, even one; leaves go singly."""


@dataclass(frozen=True, slots=True)
class MembershipParts:
    """What the memberships of a connection add to its runtime."""

    dispatchers: tuple[Dispatcher[Any], ...] = ()
    workers: tuple[Worker, ...] = ()
    commands: Mapping[str, CommandHandler] = field(default_factory=dict)

    def __or__(self, other: MembershipParts) -> MembershipParts:
        return MembershipParts(
            self.dispatchers + other.dispatchers,
            self.workers + other.workers,
            {**self.commands, **other.commands},
        )


@dataclass
class Direction:
    """A direction while it is built. `events` shows whether the Klaviyo account is in question."""

    context: ConnectionContext
    events: Dispatcher[Any]
    dispatcher: Dispatcher[Any]
    groups: Sequence[Group]
    workers: list[Worker]
    scans: list[GroupScan] = field(default_factory=list)
    target_syncs: dict[int, TargetSync] = field(default_factory=dict)

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
            lease=self.context.lease,
            clock=services.clock,
            is_blocked=lambda: events.state.problem is Problem.KLAVIYO_ACCOUNT,
        )

    def target_sync(
        self, target: Group, policy: TargetPolicy, *, first_sync_guard: FlowGuard | None = None
    ) -> TargetSync:
        services = self.context.services
        target_sync = TargetSync(
            target.id,
            policy,
            groups=services.store.member_groups,
            scans=services.store.group_scans,
            members=services.store.target_members,
            removals=RemovalGuard(approval_requests(self.context)),
            first_sync_guard=first_sync_guard,
            clock=services.clock,
            notify_lane=self.dispatcher.wake,
        )
        self.target_syncs[target.id] = target_sync
        return target_sync

    def add(self, scan: GroupScan) -> None:
        group = next(group for group in self.groups if group.id == scan.group)
        self.scans.append(scan)
        self.workers.append(self.context.supervise("scan", scan, of=f"{group.kind} {group.name}"))

    def parts(self, sync_command: str) -> MembershipParts:
        return MembershipParts(
            (self.dispatcher,), tuple(self.workers), {sync_command: CommandHandler(self._sync)}
        )

    async def _sync(self, args: Mapping[str, Any]) -> CommandResult:
        """Scan the groups of one link now, and send again what was refused."""
        store, connection = self.context.services.store, self.context.connection.name
        groups = _linked(self.groups, args["name"])
        scans = [scan for scan in self.scans if scan.group in groups]
        if not scans:
            known = ", ".join(sorted({group.name for group in self.groups}))
            return False, {"error": f"{connection} links no `{args['name']}`, but {known}"}
        for group in groups.values():
            if group.kind == "list":
                await store.member_groups.clear_remote_id(group.id)
            if target_sync := self.target_syncs.get(group.id):
                await target_sync.ask_again()
        now = self.context.services.clock.now()
        await store.memberships.requeue(self.dispatcher.lane.id, [State.DEAD], now=now)
        for scan in scans:
            scan.trigger()
        return True, {"requested": args["name"], "groups": sorted(groups)}


def _linked(groups: Sequence[Group], name: str) -> dict[int, Group]:
    """The groups with this name or remote id, their targets, and all sources of those targets."""
    named = [group for group in groups if name in (group.name, group.remote_id)]
    targets = {group.id if group.is_target else group.target for group in named}
    return {g.id: g for g in groups if g.id in targets or g.target in targets}


def removal_limits(entries: Iterable[tuple[str, Audience | Segment]]) -> dict[str, RemovalLimit]:
    """Source → its limit."""
    return {
        source: RemovalLimit(entry.max_leave_share, entry.max_leave_floor)
        for source, entry in entries
    }


async def build_direction(
    context: ConnectionContext,
    events: Dispatcher[Any],
    kind: LaneKind,
    links: Sequence[Link],
    sink: Sink[MembershipWrite] | None,
) -> Direction | None:
    """The direction with its lane and its groups as configured now. None where it has no links, or
    where the platform has no sink for it: then the problem of the groups says so."""
    services, name = context.services, context.connection.name
    if not links and not any(g.kind in _group_types(kind) for g in services.stored.groups(name)):
        return None
    member_groups, lane = services.store.member_groups, await context.lane(kind)
    account = context.address_scope if kind is LIST_MEMBERS else name
    # Also where there are none any more, but not now: another process may work with its own.
    context.link.append(partial(_set_links, context, lane, links, account))
    if not links:
        return None
    groups = await member_groups.ensure(lane, links, account=account)
    if sink is None:
        detail = f"{context.platform.title} does not offer it"
        for group in groups:
            await member_groups.set_problem(group.id, Problem.NOT_OFFERED, detail)
        return None
    import_jobs: ImportJobTracker | None = None
    if kind is LIST_MEMBERS:
        wake = partial(context.signals.wake, LIST_MEMBERS)
        import_jobs = build_tracker(context, lane, wake)
    dispatcher = await _dispatcher(context, kind, sink, import_jobs)

    async def resume(now: Millis) -> int:
        memberships = services.store.memberships
        count = await memberships.release_linked(lane.id, now=now)
        count += await memberships.requeue(lane.id, [State.SKIPPED], now=now)
        dispatcher.wake()
        return count

    if not context.shadow:
        context.resumptions.append(resume)
    workers: list[Worker] = []
    if import_jobs is not None:
        workers.append(context.supervise("import_jobs", import_jobs, of="memberships"))
    return Direction(context, events, dispatcher, groups, workers)


async def _set_links(
    context: ConnectionContext, lane: Lane, links: Sequence[Link], account: str, fence: Fence
) -> None:
    services = context.services
    await services.store.member_groups.set_links(
        lane, links, account=account, fence=fence, now=services.clock.now()
    )


def _group_types(kind: LaneKind) -> tuple[GroupType, GroupType]:
    return ("audience", "list") if kind is LIST_MEMBERS else ("segment", "tag")


async def _dispatcher(
    context: ConnectionContext,
    kind: LaneKind,
    sink: Sink[MembershipWrite],
    import_jobs: ImportJobTracker | None,
) -> Dispatcher[Any]:
    def on_settled(outcomes: Sequence[Outcome]) -> None:
        if import_jobs and any(isinstance(outcome, Pending) for outcome in outcomes):
            import_jobs.wake()
        context.signals.wake(PROFILES)

    renderer: Renderer[MembershipWrite] = MembershipRenderer()
    return await context.dispatcher(
        kind,
        sink,
        context.suppress_in_shadow(renderer),
        settled=on_settled,
        policy=replace(dispatch_policy(context.services.config), bulk_threshold=_ALWAYS_BULK),
    )
