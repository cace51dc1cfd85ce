"""One target and its sources: when its writes begin, and who is removed.

Nothing is written to a list before its first sync is allowed (guarantee 9), and a scan that would
remove too many people removes no one before a person approves (guarantee 6).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from connector.domain.approvals import FIRST_SYNC
from connector.domain.errors import Problem
from connector.domain.memberships import Group
from connector.domain.wording import counted
from connector.ports import (
    AffectedResources,
    Clock,
    GroupScans,
    MemberGroups,
    MembershipCounts,
    PendingRemovals,
    TargetMembers,
)
from connector.runtime import log
from connector.sync.flow_guard import FlowGuard, Verdict
from connector.sync.memberships.removals import RemovalGuard, RemovalLimit

_DECISIONS: Mapping[Verdict, str] = {
    "waiting": "nothing happens before a person approves",
    "rejected": "a person rejected it",
}


@dataclass(frozen=True, slots=True)
class TargetPolicy:
    """The configuration of one target: the limits of removals, by source name and for foreign
    members; whether members that were removed by hand are added again (`re_add`); whether foreign
    members are removed."""

    limits: Mapping[str, RemovalLimit]
    foreign_limit: RemovalLimit = field(default_factory=RemovalLimit)
    re_add: bool = False
    remove_foreign: bool = False


class TargetSync:
    """Keeps one target. `notify_lane` is called when its lane may have something to send. A target
    without `first_sync_guard` needs no approval for its first sync."""

    def __init__(
        self,
        target: int,
        policy: TargetPolicy,
        *,
        groups: MemberGroups,
        scans: GroupScans,
        members: TargetMembers,
        removals: RemovalGuard,
        first_sync_guard: FlowGuard | None,
        clock: Clock,
        notify_lane: Callable[[], None],
    ) -> None:
        self._target = target
        self._policy = policy
        self._groups = groups
        self._scans = scans
        self._members = members
        self._removals = removals
        self._first_sync_guard = first_sync_guard
        self._clock = clock
        self.notify_lane = notify_lane
        self._log = log.get("memberships")

    async def on_source_scanned(self, source: Group) -> None:
        """A source was scanned to its end."""
        await self.apply_removals(source)
        target = await self._groups.get(self._target)
        if target.kind == "tag":
            await self._members.resend_unconfirmed(target.id, now=self._clock.now())
            self.notify_lane()
        else:
            await self.reevaluate()

    async def on_target_read_back(self) -> None:
        """The list was read back to its end."""
        removed = await self._members.find_manual_removals(
            self._target, re_add=self._policy.re_add, now=self._clock.now()
        )
        await self.reevaluate()
        if removed and not self._policy.re_add:
            target = await self._groups.get(self._target)
            detail = (
                f"{counted(removed, 'member was', 'members were')} removed by hand at Klaviyo and "
                "will not be added again"
            )
            await self._groups.set_problem(target.id, Problem.REMOVED_BY_HAND, detail)
        self.notify_lane()

    async def apply_removals(self, source: Group) -> None:
        """Remove the people that the last complete scan did not find, unless they are too many."""
        if source.applied_scan == source.completed_scan:
            return
        target = await self._groups.get(self._target)
        subject = _removals_of(source, target)
        removals = await self._scans.pending_removals(source.id)
        limit = self._policy.limits[source.name]
        verdict = await self._removals.allows(subject, target, removals, limit)
        if verdict != "allowed":
            detail = (
                f"{removals.count:,} of {removals.total:,} would be removed from {target.name}; "
                f"{_DECISIONS[verdict]}"
            )
            await self._groups.set_problem(source.id, Problem.TOO_MANY_REMOVALS, detail)
            return
        now, scan = self._clock.now(), source.completed_scan
        removed = await self._scans.apply(source.id, now=now, scan=scan)
        await self._removals.close(subject)
        await self._groups.set_problem(source.id, None)
        if removed:
            self._log.info(
                "removals_applied",
                connection=target.connection,
                target=target.name,
                people=removed,
            )
        self.notify_lane()

    async def ask_again(self) -> None:
        """A person starts the sync again: what was rejected is asked once more."""
        target = await self._groups.get(self._target)
        if self._first_sync_guard is not None:
            await self._first_sync_guard.ask_again(FIRST_SYNC, target.name)
        await self._removals.ask_again(_foreign_members_of(target))
        for source in await self._sources():
            await self._removals.ask_again(_removals_of(source, target))

    async def reevaluate(self) -> None:
        """Do what was not allowed, or not known to be, before now."""
        sources = await self._sources()
        # None where another process has replaced the links: who should be on it is not known then.
        if not sources or not all(source.completed_scan for source in sources):
            return
        await self._enable_writes_if_allowed()
        if self._policy.remove_foreign:
            await self._remove_foreign()

    async def _enable_writes_if_allowed(self) -> None:
        """Begin to write once the sources and the list were read and a person agrees."""
        target = await self._groups.get(self._target)
        if target.writes_enabled:
            # Whoever enabled them may have been cut off before everyone was released.
            await self._enable_writes()
            return
        if not target.completed_scan or target.remote_id is None:
            return
        counts = await self._members.counts(target.id)
        numbers = {"here": counts.wanted, "there": counts.actual, "both": counts.matching}
        joins = counts.wanted - counts.matching
        if joins and self._first_sync_guard is not None:
            affected = AffectedResources(lists=frozenset({target.remote_id}))
            verdict = await self._first_sync_guard(
                FIRST_SYNC, target.name, joins, affected, **numbers
            )
            if verdict != "allowed":
                detail = f"{_counts_text(counts)}; {_DECISIONS[verdict]}"
                await self._groups.set_problem(target.id, Problem.FIRST_SYNC, detail)
                return
        self._log.info("list_linked", connection=target.connection, list=target.name, **numbers)
        await self._enable_writes()
        await self._groups.set_problem(target.id, None)

    async def _enable_writes(self) -> None:
        if await self._members.enable_writes(self._target, now=self._clock.now()):
            self.notify_lane()

    async def _remove_foreign(self) -> None:
        target = await self._groups.get(self._target)
        if target.scan_started_at is not None:
            return  # it has not found all of them yet, and evaluates them when it ends
        counts = await self._members.counts(target.id)
        removals = PendingRemovals(counts.foreign, counts.actual)
        subject = _foreign_members_of(target)
        if not removals.count:
            return
        limit = self._policy.foreign_limit
        if await self._removals.allows(subject, target, removals, limit) != "allowed":
            return
        now, scan = self._clock.now(), target.completed_scan
        if await self._members.remove_foreign(target.id, now=now, scan=scan):
            await self._removals.close(subject)
        self.notify_lane()

    async def _sources(self) -> Sequence[Group]:
        return [group for group in await self._groups.all() if group.target == self._target]


def _removals_of(source: Group, target: Group) -> str:
    return f"{source.name} → {target.name}"


def _foreign_members_of(target: Group) -> str:
    return f"foreign members of {target.name}"


def _counts_text(counts: MembershipCounts) -> str:
    return f"{counts.wanted:,} here, {counts.actual:,} there, {counts.matching:,} in both"
