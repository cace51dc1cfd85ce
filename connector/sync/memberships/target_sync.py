"""One target and its sources: what may be told, what waits for a person, what needs one.

Nobody leaves because of a scan that would take too many off, and nothing is told of a list before
its first sync was allowed: each is a question (promises 6 and 9).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from connector.domain.errors import Problem
from connector.domain.memberships import (
    Group,
)
from connector.ports import Approvals, Clock, Leaving, Memberships, Standing, Touched
from connector.runtime import log
from connector.sync.flow_guard import Guard
from connector.sync.memberships.links import Named

REMOVAL, FIRST = "removal", "first_sync"
_FOREIGN = "foreign members"


@dataclass(frozen=True, slots=True)
class Rules:
    """What the configuration says of a target: how many may leave without a person's yes, whether
    who was taken off by hand is put back, and whether foreign members leave."""

    max_leave_share: float = 0.3
    max_leave_floor: int = 50
    re_add: bool = False
    removes: bool = False

    def too_many(self, leaving: Leaving) -> bool:
        share = self.max_leave_share * leaving.of
        return leaving.count > self.max_leave_floor and leaving.count > share


class Keeper:
    """Keeps one target. `named` finds a group by its kind, `create` makes a list, None where that
    is not wanted, `told` is called when the lane may have something to tell."""

    def __init__(
        self,
        connection: str,
        target: int,
        rules: Mapping[str, Rules],
        *,
        memberships: Memberships,
        approvals: Approvals,
        named: Mapping[str, Named],
        create: Callable[[str], Awaitable[str]] | None,
        guard: Guard | None,
        clock: Clock,
        told: Callable[[], None],
    ) -> None:
        self._connection = connection
        self._target = target
        self._rules = rules
        self._store = memberships
        self._approvals = approvals
        self._named = named
        self._create = create
        self._guard = guard
        self._clock = clock
        self.changed = told
        self._log = log.get("audiences").bind(connection=connection)

    # ── names ────────────────────────────────────────────────────────────────────────────────────

    async def resolve(self, group: Group) -> str | None:
        """The far end's id of a group, looked up by its name where it is not known yet; None where
        the configuration names nothing, or more than one, and the group says so."""
        if group.far_id is not None:
            return group.far_id
        found = await self._named[group.kind](group.name)
        if len(found) > 1:
            ids = ", ".join(sorted(found))
            why = f"{len(found)} are called {group.name}: write the id, one of {ids}"
            await self._store.failing(group.id, Problem.GROUP_AMBIGUOUS, why)
            return None
        if not found and group.kind == "list" and self._create is not None:
            # Looked for just now, so a list that an unanswered call made is not made twice.
            found = {await self._create(group.name): group.name}
            self._log.info("list created", list=group.name)
        if not found:
            why = f"there is no {group.kind} {group.name}"
            await self._store.failing(group.id, Problem.GROUP_NOT_FOUND, why)
            return None
        [(far_id, title)] = found.items()
        await self._store.found(group.id, far_id, title, now=self._clock.now())
        self.changed()
        return far_id

    async def lost(self, group: Group) -> None:
        """The far end does not know a source by its id any more: it is looked up anew. A list is
        not, for a person may have deleted it on purpose."""
        if group.kind != "list":
            await self._store.lost(group.id)

    # ── what a round is for ──────────────────────────────────────────────────────────────────────

    async def judge(self, source: Group) -> None:
        """Let those leave whom the last complete scan did not find, unless they are too many."""
        if source.applied == source.complete:
            return
        target = await self._group(self._target)
        subject = f"{source.name} → {target.name}"
        leaving = await self._store.leaving(source.id)
        if not await self._allowed(subject, leaving, self._rules[source.name], target):
            why = f"{leaving.count:,} of {leaving.of:,} would leave {target.name}"
            await self._store.failing(source.id, Problem.TOO_MANY_LEAVE, why)
            return
        left = await self._store.apply(source.id, now=self._clock.now())
        await self._approvals.close(self._connection, REMOVAL, subject)
        await self._store.failing(source.id, None)
        if left:
            self._log.info("members leave", target=target.name, people=left)
        self.changed()

    async def _allowed(self, subject: str, leaving: Leaving, rules: Rules, target: Group) -> bool:
        """An answer is good for as many as were asked about."""
        if not rules.too_many(leaving):
            return True
        now = self._clock.now()
        detail = {"would_leave": leaving.count, "of": leaving.of, "target": target.name}
        asked = await self._approvals.ask(self._connection, REMOVAL, subject, detail, now=now)
        if asked.state != "pending" and leaving.count > asked.detail["would_leave"]:
            await self._approvals.close(self._connection, REMOVAL, subject)
            asked = await self._approvals.ask(self._connection, REMOVAL, subject, detail, now=now)
        if asked.state == "pending":
            self._log.error("too many would leave", problem=Problem.TOO_MANY_LEAVE.value, **detail)
        return asked.state == "approved"

    async def scanned(self) -> None:
        """A source was read to its end."""
        target = await self._group(self._target)
        if target.kind == "tag":
            await self._store.repeat(target.id, now=self._clock.now())
            self.changed()
        else:
            await self.reconsider(target)

    async def looked(self, target: Group) -> None:
        """The list was read back to its end."""
        rules = self._rule_of_list()
        removed = await self._store.compare(target.id, re_add=rules.re_add, now=self._clock.now())
        await self.reconsider(target)
        if removed and not rules.re_add:
            why = f"{removed:,} were taken off {target.name} at Klaviyo and are not put back"
            await self._store.failing(target.id, Problem.REMOVED_BY_HAND, why)
        self.changed()

    async def reconsider(self, target: Group) -> None:
        """Whether the list may be told now what it could not be told before."""
        await self._open(target)
        await self._foreign(target)

    async def _open(self, target: Group) -> None:
        """Begin to tell, once it is known who is here and who is there, and a person agrees."""
        target = await self._group(target.id)
        if target.opened or not target.complete or not await self._settled():
            return
        assert target.far_id is not None
        standing = await self._store.standing(target.id)
        numbers = {"here": standing.here, "there": standing.there, "both": standing.both}
        joining = standing.here - standing.both
        if joining and self._guard is not None:
            on = Touched(lists=frozenset({target.far_id}))
            if await self._guard(FIRST, target.name, joining, on, **numbers) != "allowed":
                why = f"{_numbers(standing)}; see `connector approvals list`"
                await self._store.failing(target.id, Problem.FIRST_SYNC, why)
                return
        self._log.info("list linked", list=target.name, **numbers)
        await self._store.open(target.id, now=self._clock.now())
        await self._store.failing(target.id, None)
        self.changed()

    async def _foreign(self, target: Group) -> None:
        """Those whom nobody of ours put there leave where they are to, as many as may."""
        if not self._rule_of_list().removes or not await self._settled():
            return
        standing = await self._store.standing(target.id)
        leaving = Leaving(standing.foreign, standing.there)
        subject = f"{_FOREIGN} of {target.name}"
        if leaving.count and await self._allowed(subject, leaving, self._rule_of_list(), target):
            if await self._store.dismiss(target.id, now=self._clock.now()):
                await self._approvals.close(self._connection, REMOVAL, subject)
            self.changed()

    def _rule_of_list(self) -> Rules:
        """The entries of one list agree on what becomes of it: the configuration's checks see to
        it."""
        return next(iter(self._rules.values()))

    async def _settled(self) -> bool:
        """Whether all sources were read to their end."""
        return all(group.complete for group in await self._sources())

    async def _sources(self) -> Sequence[Group]:
        groups = await self._store.groups(self._connection)
        return [group for group in groups if group.target == self._target]

    async def _group(self, id: int) -> Group:
        [found] = [g for g in await self._store.groups(self._connection) if g.id == id]
        return found


def _numbers(standing: Standing) -> str:
    return f"{standing.here:,} here, {standing.there:,} there, {standing.both:,} in both"
