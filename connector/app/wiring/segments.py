"""Klaviyo's segments, kept as a platform's tags, and the actions of people who join them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from connector.app.wiring.context import ConnectionContext
from connector.app.wiring.membership_direction import (
    Direction,
    MembershipParts,
    build_direction,
    removal_limits,
)
from connector.config import Join, Segment
from connector.domain.lanes import SEGMENT_MEMBERS
from connector.domain.memberships import Group, Link
from connector.klaviyo.groups import KlaviyoGroups
from connector.pipeline.dispatch import Dispatcher
from connector.sync.memberships.join_actions import (
    JoinAction,
    JoinActionsWorker,
    SubmitActions,
    number_actions,
)
from connector.sync.memberships.platform_sink import PlatformMembershipSink
from connector.sync.memberships.remote_groups import KlaviyoSegments
from connector.sync.memberships.scans import SourceScan
from connector.sync.memberships.target_sync import TargetPolicy


async def build_segments(
    context: ConnectionContext, events: Dispatcher[Any], submit: SubmitActions | None
) -> MembershipParts:
    """`submit` queues actions, None where the platform takes none."""
    entries = context.connection.segments if context.has("segments") else ()
    links = [Link(entry.segment, entry.target) for entry in entries]
    sink = _platform_sink(context)
    direction = await build_direction(context, events, SEGMENT_MEMBERS, links, sink)
    if direction is None:
        return MembershipParts()
    joins = _numbered_joins(entries)
    for name in dict.fromkeys(entry.target for entry in entries):
        _add_tag(direction, name, [e for e in entries if e.target == name], submit, joins)
    return direction.parts("segments-sync")


def _platform_sink(context: ConnectionContext) -> PlatformMembershipSink | None:
    client, services = context.client, context.services
    if client is None or client.members is None:
        return None
    return PlatformMembershipSink(
        client.members, client.check, services.clock, services.store.facts.save_usage
    )


def _add_tag(
    direction: Direction,
    name: str,
    entries: Sequence[Segment],
    submit: SubmitActions | None,
    joins: Mapping[tuple[str, str], Sequence[tuple[int, JoinAction]]],
) -> None:
    target = direction.target(name)
    limits = removal_limits((entry.segment, entry) for entry in entries)
    target_sync = direction.target_sync(target, TargetPolicy(limits))
    segments = KlaviyoSegments(KlaviyoGroups(direction.context.api))
    for entry in entries:
        source = direction.source(entry.segment, target)
        direction.add(
            SourceScan(
                source,
                segments,
                target_sync,
                direction.scan_services,
                every=entry.every,
                join_actions=_join_actions(
                    direction, entry, source, submit, joins[entry.segment, entry.target]
                ),
            )
        )


def _numbered_joins(
    entries: Sequence[Segment],
) -> dict[tuple[str, str], Sequence[tuple[int, JoinAction]]]:
    """(segment, tag) → its actions with their numbers."""
    numbered = number_actions([[_join_action(join) for join in e.on_join] for e in entries])
    return {(e.segment, e.target): of for e, of in zip(entries, numbered, strict=True)}


def _join_actions(
    direction: Direction,
    entry: Segment,
    source: Group,
    submit: SubmitActions | None,
    join_actions: Sequence[tuple[int, JoinAction]],
) -> JoinActionsWorker | None:
    context = direction.context
    if not join_actions or submit is None:
        return None
    worker = JoinActionsWorker(
        source.id,
        entry.segment,
        join_actions,
        submit,
        context.services.store.segment_joins,
        context.services.store.member_groups,
        include_existing=entry.on_join_existing,
    )
    direction.workers.append(
        context.supervise("join_actions", worker, of=f"segment {entry.segment}")
    )
    return worker


def _join_action(join: Join) -> JoinAction:
    amount = -join.amount if join.action == "decrease" else join.amount
    return JoinAction(join.action, amount, join.reason, join.message, join.url)
