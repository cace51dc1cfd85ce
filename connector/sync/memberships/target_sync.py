"""One target and its sources: what may be told, what waits for a person, what needs one.

Nobody leaves because of a scan that would take too many off, and nothing is told of a list before
its first sync was allowed: each is a question (promises 6 and 9).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from connector.domain.errors import Problem
from connector.domain.memberships import Group
from connector.ports import (
    AffectedResources,
    Approvals,
    Clock,
    MembershipCounts,
    Memberships,
    PendingRemovals,
)
from connector.runtime import log
from connector.sync.flow_guard import FlowGuard
from connector.sync.memberships.links import GroupFinder

REMOVAL, FIRST_SYNC = "removal", "first_sync"
_FOREIGN = "foreign members"


@dataclass(frozen=True, slots=True)
class TargetPolicy:
    """What the configuration says of a target: how many may leave without a person's yes, whether
    who was taken off by hand is put back, and whether foreign members leave."""

    max_leave_share: float = 0.3
    max_leave_floor: int = 50
    re_add: bool = False
    remove_foreign: bool = False

    def exceeds_limit(self, leaving: PendingRemovals) -> bool:
        share = self.max_leave_share * leaving.total
        return leaving.count > self.max_leave_floor and leaving.count > share


class TargetSync:
    """Keeps one target. `named` finds a group by its kind, `create` makes a list, None where that
    is not wanted, `told` is called when the lane may have something to tell."""

    def __init__(
        self,
        connection: str,
        target: int,
        policies: Mapping[str, TargetPolicy],
        *,
        memberships: Memberships,
        approvals: Approvals,
        finders: Mapping[str, GroupFinder],
        create: Callable[[str], Awaitable[str]] | None,
        guard: FlowGuard | None,
        clock: Clock,
        notify_lane: Callable[[], None],
    ) -> None:
        self._connection = connection
        self._target = target
        self._policies = policies
        self._store = memberships
        self._approvals = approvals
        self._finders = finders
        self._create = create
        self._guard = guard
        self._clock = clock
        self.notify_lane = notify_lane
        self._log = log.get("audiences").bind(connection=connection)

    # ── names ────────────────────────────────────────────────────────────────────────────────────

    async def resolve(self, group: Group) -> str | None:
        """The far end's id of a group, looked up by its name where it is not known yet; None where
        the configuration names nothing, or more than one, and the group says so."""
        if group.remote_id is not None:
            return group.remote_id
        found = await self._finders[group.kind](group.name)
        if len(found) > 1:
            ids = ", ".join(sorted(found))
            why = f"{len(found)} are called {group.name}: write the id, one of {ids}"
            await self._store.set_problem(group.id, Problem.GROUP_AMBIGUOUS, why)
            return None
        if not found and group.kind == "list" and self._create is not None:
            # Looked for just now, so a list that an unanswered call made is not made twice.
            found = {await self._create(group.name): group.name}
            self._log.info("list created", list=group.name)
        if not found:
            why = f"there is no {group.kind} {group.name}"
            await self._store.set_problem(group.id, Problem.GROUP_NOT_FOUND, why)
            return None
        [(far_id, title)] = found.items()
        await self._store.set_remote_id(group.id, far_id, title, now=self._clock.now())
        self.notify_lane()
        return far_id

    async def forget_remote_id(self, group: Group) -> None:
        """The far end does not know a source by its id any more: it is looked up anew. A list is
        not, for a person may have deleted it on purpose."""
        if group.kind != "list":
            await self._store.clear_remote_id(group.id)

    # ── what a round is for ──────────────────────────────────────────────────────────────────────

    async def apply_removals(self, source: Group) -> None:
        """Let those leave whom the last complete scan did not find, unless they are too many."""
        if source.applied_scan == source.completed_scan:
            return
        target = await self._load_group(self._target)
        subject = f"{source.name} → {target.name}"
        leaving = await self._store.pending_removals(source.id)
        if not await self._removal_allowed(subject, leaving, self._policies[source.name], target):
            why = f"{leaving.count:,} of {leaving.total:,} would leave {target.name}"
            await self._store.set_problem(source.id, Problem.TOO_MANY_REMOVALS, why)
            return
        left = await self._store.apply_scan(source.id, now=self._clock.now())
        await self._approvals.close(self._connection, REMOVAL, subject)
        await self._store.set_problem(source.id, None)
        if left:
            self._log.info("members leave", target=target.name, people=left)
        self.notify_lane()

    async def _removal_allowed(
        self, subject: str, leaving: PendingRemovals, policy: TargetPolicy, target: Group
    ) -> bool:
        """An answer is good for as many as were asked about."""
        if not policy.exceeds_limit(leaving):
            return True
        now = self._clock.now()
        detail = {"would_leave": leaving.count, "of": leaving.total, "target": target.name}
        approval = await self._approvals.request(
            self._connection, REMOVAL, subject, detail, now=now
        )
        if approval.state != "pending" and leaving.count > approval.detail["would_leave"]:
            await self._approvals.close(self._connection, REMOVAL, subject)
            approval = await self._approvals.request(
                self._connection, REMOVAL, subject, detail, now=now
            )
        if approval.state == "pending":
            self._log.error(
                "too many would leave", problem=Problem.TOO_MANY_REMOVALS.value, **detail
            )
        return approval.state == "approved"

    async def on_scan_complete(self) -> None:
        """A source was read to its end."""
        target = await self._load_group(self._target)
        if target.kind == "tag":
            await self._store.resend_unconfirmed(target.id, now=self._clock.now())
            self.notify_lane()
        else:
            await self.reevaluate(target)

    async def on_read_back_complete(self, target: Group) -> None:
        """The list was read back to its end."""
        policy = self._list_policy()
        removed = await self._store.find_manual_removals(
            target.id, re_add=policy.re_add, now=self._clock.now()
        )
        await self.reevaluate(target)
        if removed and not policy.re_add:
            why = f"{removed:,} were taken off {target.name} at Klaviyo and are not put back"
            await self._store.set_problem(target.id, Problem.REMOVED_BY_HAND, why)
        self.notify_lane()

    async def reevaluate(self, target: Group) -> None:
        """Whether the list may be told now what it could not be told before."""
        await self._open_if_allowed(target)
        await self._remove_foreign(target)

    async def _open_if_allowed(self, target: Group) -> None:
        """Begin to tell, once it is known who is here and who is there, and a person agrees."""
        target = await self._load_group(target.id)
        if target.writes_enabled or not target.completed_scan or not await self._all_scanned():
            return
        assert target.remote_id is not None
        standing = await self._store.count_members(target.id)
        numbers = {"here": standing.wanted, "there": standing.actual, "both": standing.matching}
        join_count = standing.wanted - standing.matching
        if join_count and self._guard is not None:
            on = AffectedResources(lists=frozenset({target.remote_id}))
            if await self._guard(FIRST_SYNC, target.name, join_count, on, **numbers) != "allowed":
                why = f"{_counts_text(standing)}; see `connector approvals list`"
                await self._store.set_problem(target.id, Problem.FIRST_SYNC, why)
                return
        self._log.info("list linked", list=target.name, **numbers)
        await self._store.enable_writes(target.id, now=self._clock.now())
        await self._store.set_problem(target.id, None)
        self.notify_lane()

    async def _remove_foreign(self, target: Group) -> None:
        """Those whom nobody of ours put there leave where they are to, as many as may."""
        if not self._list_policy().remove_foreign or not await self._all_scanned():
            return
        standing = await self._store.count_members(target.id)
        leaving = PendingRemovals(standing.foreign, standing.actual)
        subject = f"{_FOREIGN} of {target.name}"
        if leaving.count and await self._removal_allowed(
            subject, leaving, self._list_policy(), target
        ):
            if await self._store.remove_foreign(target.id, now=self._clock.now()):
                await self._approvals.close(self._connection, REMOVAL, subject)
            self.notify_lane()

    def _list_policy(self) -> TargetPolicy:
        """The entries of one list agree on what becomes of it: the configuration's checks see to
        it."""
        return next(iter(self._policies.values()))

    async def _all_scanned(self) -> bool:
        """Whether all sources were read to their end."""
        return all(group.completed_scan for group in await self._sources())

    async def _sources(self) -> Sequence[Group]:
        groups = await self._store.groups(self._connection)
        return [group for group in groups if group.target == self._target]

    async def _load_group(self, id: int) -> Group:
        [found] = [g for g in await self._store.groups(self._connection) if g.id == id]
        return found


def _counts_text(standing: MembershipCounts) -> str:
    return f"{standing.wanted:,} here, {standing.actual:,} there, {standing.matching:,} in both"
