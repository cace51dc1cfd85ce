"""A platform's audiences, kept as Klaviyo lists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from connector.app.wiring.context import ConnectionContext
from connector.app.wiring.flow_guard import build_flow_guard
from connector.app.wiring.membership_direction import (
    Direction,
    MembershipParts,
    build_direction,
    removal_limits,
)
from connector.config import Audience
from connector.domain.lanes import LIST_MEMBERS
from connector.domain.memberships import Link
from connector.klaviyo.groups import KlaviyoGroups
from connector.klaviyo.sink.members import MemberSink
from connector.pipeline.dispatch import Dispatcher
from connector.ports import Audiences
from connector.sync.memberships.remote_groups import KlaviyoLists, PlatformAudiences
from connector.sync.memberships.scans import SourceScan, TargetReadBack
from connector.sync.memberships.target_sync import TargetPolicy


async def build_audiences(context: ConnectionContext, events: Dispatcher[Any]) -> MembershipParts:
    entries = context.connection.audiences if context.has("audiences") else ()
    audiences = context.client.audiences if context.client else None
    links = [Link(e.audience, e.list, e.foreign_members == "remove") for e in entries]
    sink = MemberSink(context.api, trust_ids=context.connection.email_change == "new")
    direction = await build_direction(context, events, LIST_MEMBERS, links, sink)
    if direction is None or audiences is None:
        return MembershipParts()
    for name in dict.fromkeys(entry.list for entry in entries):
        _add_list(direction, name, [e for e in entries if e.list == name], audiences)
    return direction.parts("audiences-sync")


def _add_list(
    direction: Direction, name: str, entries: Sequence[Audience], audiences: Audiences
) -> None:
    context, target = direction.context, direction.target(name)
    target_sync = direction.target_sync(
        target,
        _policy(entries),
        first_sync_guard=build_flow_guard(
            context, share=min(entry.max_leave_share for entry in entries)
        ),
    )
    creates = any(entry.create_list for entry in entries) and not context.shadow
    direction.add(
        TargetReadBack(
            target,
            KlaviyoLists(KlaviyoGroups(context.api), creates=creates),
            target_sync,
            direction.scan_services,
            every=min(entry.every for entry in entries),
        )
    )
    for entry in entries:
        direction.add(
            SourceScan(
                direction.source(entry.audience, target),
                PlatformAudiences(audiences),
                target_sync,
                direction.scan_services,
                every=entry.every,
            )
        )


def _policy(entries: Sequence[Audience]) -> TargetPolicy:
    """The configuration's checks make sure that the entries of one list agree on manual removals
    and foreign members."""
    first = entries[0]
    limits = removal_limits((entry.audience, entry) for entry in entries)
    return TargetPolicy(
        limits,
        foreign_limit=limits[first.audience],
        re_add=first.on_manual_removal == "re-add",
        remove_foreign=first.foreign_members == "remove",
    )
