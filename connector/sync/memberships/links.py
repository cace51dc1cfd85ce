"""The links between sources and targets, as people see them in status, CLI, API and console."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from connector.domain.attention import Affected, AttentionItem
from connector.domain.errors import Problem
from connector.domain.lanes import Millis
from connector.domain.memberships import Group
from connector.ports import MemberGroups, TargetMembers

_NO_ATTENTION = {
    Problem.TOO_MANY_REMOVALS,
    Problem.FIRST_SYNC,
    Problem.NOT_OFFERED,
    Problem.SEGMENT_PROCESSING,
}
"""Approvals have items of their own. What a platform does not offer cannot be fixed, and what
Klaviyo computes ends by itself."""
_OF_ONE_GROUP = {
    Problem.GROUP_NOT_FOUND,
    Problem.GROUP_AMBIGUOUS,
    Problem.REMOVED_BY_HAND,
    Problem.KLAVIYO_TARGET,
    Problem.PLATFORM_TARGET,
}
"""What is wrong with one group, and not with the remote side that it is read from."""


async def links(groups: MemberGroups, members: TargetMembers, now: Millis) -> list[dict[str, Any]]:
    """One JSON object per configured link, source by source. Ages and `took` are in seconds,
    `last_full_sync` in ms. `here` counts who should be on the target, `there` who is, as far as
    known."""
    all_groups = await groups.all()
    targets = {group.id: group for group in all_groups if group.is_target}
    return [
        await _link(source, targets[source.target], members, now)
        for source in all_groups
        if source.target in targets
    ]


async def _link(
    source: Group, target: Group, members: TargetMembers, now: Millis
) -> dict[str, Any]:
    counts = await members.counts(target.id)
    cause = source if source.problem else target
    return {
        "connection": source.connection,
        "kind": source.kind,
        "source": source.name,
        "target": target.name,
        "target_id": target.remote_id,
        "members": source.members if source.completed_scan else None,
        "without_address": source.without_address,
        "scanning": source.scan_started_at is not None,
        "last_full_sync": source.completed_at,
        "full_sync_age": _age(source.completed_at, now),
        "took": source.scan_ms / 1000 if source.completed_scan else None,
        "read_back_age": _age(target.completed_at, now),
        "open": target.writes_enabled,
        "here": counts.wanted,
        "there": counts.actual,
        "both": counts.matching,
        "waiting": counts.pending,
        "unconfirmed": counts.unconfirmed,
        "removed_by_hand": counts.removed,
        "foreign": counts.foreign,
        "problem": cause.problem.value if cause.problem else None,
        "meaning": cause.problem.meaning if cause.problem else None,
        "detail": cause.detail,
    }


async def attention(groups: MemberGroups) -> Sequence[AttentionItem]:
    """The groups whose problem a person must fix."""
    return [
        attention_item(group)
        for group in await groups.all()
        if group.problem is not None and group.problem not in _NO_ATTENTION
    ]


def attention_item(group: Group) -> AttentionItem:
    why = group.detail
    if group.problem and group.problem.waits_for_remote:
        why = f"{group.problem.meaning} ({group.detail})"
    text = f"{group.connection}: {group.kind} {group.name}: {why}"
    key = f"poll {group.connection} {group.kind} {group.name}"
    own = group.problem in _OF_ONE_GROUP
    affected = None if own else Affected(group.connection, f"{group.kind}s", group.detail)
    return AttentionItem(key, text, group.problem, affected=affected)


def _age(at: Millis | None, now: Millis) -> float | None:
    return None if at is None else (now - at) / 1000
