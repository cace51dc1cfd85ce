"""Links as a person sees them: what is kept as what, since when, and what stands in the way."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from connector.domain.attention import AttentionItem, Check
from connector.domain.errors import DeliveryError, Problem
from connector.domain.lanes import Millis
from connector.domain.memberships import Group
from connector.ports import Audiences, Memberships

GroupFinder = Callable[[str], Awaitable[Mapping[str, str]]]
"""A name or an id → id and name of what the far end knows by it."""
_APPROVAL_PROBLEMS = {Problem.TOO_MANY_REMOVALS, Problem.FIRST_SYNC}
_NOT_ACTIONABLE = {Problem.NOT_OFFERED}


async def links(memberships: Memberships, now: Millis) -> list[dict[str, Any]]:
    """One for each source and its target, as configured when it last ran. Ages in seconds; `here`
    counts who should be on the target, `there` who is as far as we know."""
    groups = await memberships.groups()
    targets = {group.id: group for group in groups if group.target == 0}
    found = []
    for source in groups:
        target = targets.get(source.target)
        if target is None:
            continue
        standing = await memberships.count_members(target.id)
        why = source if source.problem else target
        found.append(
            {
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
                "here": standing.wanted,
                "there": standing.actual,
                "both": standing.matching,
                "waiting": standing.pending,
                "unconfirmed": standing.unconfirmed,
                "removed_by_hand": standing.removed,
                "foreign": standing.foreign,
                "problem": why.problem.value if why.problem else None,
                "meaning": why.problem.meaning if why.problem else None,
                "detail": why.detail,
            }
        )
    return found


async def check_groups(
    kind: str,
    wanted: Sequence[str],
    find: GroupFinder,
    *,
    created_on_demand: frozenset[str] = frozenset(),
) -> list[Check]:
    """One line for each group that the configuration names: whether the far end knows exactly one
    by it. Those `made` need not be there yet."""
    found = []
    for name in dict.fromkeys(wanted):
        what = f"{kind} {name}"
        try:
            known = await find(name)
        except DeliveryError as error:
            found.append(Check(what, "fault", error.detail, error.problem))
            continue
        if len(known) > 1:
            ids = f"write the id, one of {', '.join(sorted(known))}"
            found.append(Check(what, "fault", ids, Problem.GROUP_AMBIGUOUS))
        elif known:
            [(id, title)] = known.items()
            found.append(Check(what, "ok", f"{id} {title}"))
        elif name in created_on_demand:
            found.append(Check(what, "ok", "will be made at the first run"))
        else:
            found.append(Check(what, "fault", "there is none", Problem.GROUP_NOT_FOUND))
    return found


def audience_finder(audiences: Audiences) -> GroupFinder:
    """A platform's audience by its id, else by its name."""

    async def find(name: str) -> Mapping[str, str]:
        names = await audiences.names()
        if name in names:
            return {name: names[name]}
        return {id: title for id, title in names.items() if title == name}

    return find


async def attention(memberships: Memberships) -> list[AttentionItem]:
    """Groups that a person must look at. What waits for his answer is told of as a question."""
    return [attention_item(g) for g in await memberships.groups() if _needs_attention(g)]


def attention_item(group: Group) -> AttentionItem:
    text = f"{group.problem} {group.connection}: {group.kind} {group.name}: {group.detail}"
    return AttentionItem(f"poll {group.connection} {group.kind} {group.name}", text)


def _needs_attention(group: Group) -> bool:
    return group.problem is not None and group.problem not in _APPROVAL_PROBLEMS | _NOT_ACTIONABLE


def _age(at: Millis | None, now: Millis) -> float | None:
    return None if at is None else (now - at) / 1000
