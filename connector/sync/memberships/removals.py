"""Removals that a person must approve because there are too many (guarantee 6)."""

from __future__ import annotations

from dataclasses import dataclass

from connector.domain.errors import Problem
from connector.ports import Approval, Approvals, Clock, PendingRemovals
from connector.runtime import log

REMOVAL = "removal"
_Detail = dict[str, int | str]


@dataclass(frozen=True, slots=True)
class RemovalLimit:
    """More removals than `floor`, and than `share` of the wanted members, need an approval."""

    share: float = 0.3
    floor: int = 50

    def exceeded_by(self, removals: PendingRemovals) -> bool:
        return removals.count > max(self.floor, self.share * removals.total)


class RemovalGuard:
    """Asks for one connection."""

    def __init__(self, connection: str, approvals: Approvals, clock: Clock) -> None:
        self._connection = connection
        self._approvals = approvals
        self._clock = clock
        self._log = log.get("memberships").bind(connection=connection)

    async def allows(
        self, subject: str, target: str, removals: PendingRemovals, limit: RemovalLimit
    ) -> bool:
        """Whether these people may be removed now. An approval holds for at most as many people as
        it was requested for: more are a new request."""
        if not limit.exceeded_by(removals):
            return True
        detail: _Detail = {"would_leave": removals.count, "of": removals.total, "target": target}
        approval = await self._request(subject, detail)
        if approval.state != "pending" and removals.count > approval.detail["would_leave"]:
            await self.close(subject)
            approval = await self._request(subject, detail)
        if approval.state == "pending":
            self._log.error(
                "removals_held",
                problem=Problem.TOO_MANY_REMOVALS.value,
                approval=approval.id,
                **detail,
            )
        return approval.state == "approved"

    async def _request(self, subject: str, detail: _Detail) -> Approval:
        return await self._approvals.request(
            self._connection, REMOVAL, subject, detail, now=self._clock.now()
        )

    async def close(self, subject: str) -> None:
        """The removals are done: the next ones need a new approval."""
        await self._approvals.close(self._connection, REMOVAL, subject)
