"""Removals that a person must approve because there are too many (guarantee 6)."""

from __future__ import annotations

from dataclasses import dataclass

from connector.domain.approvals import DEFAULT_SHARE, REMOVAL
from connector.domain.errors import Problem
from connector.domain.memberships import Group
from connector.ports import PendingRemovals
from connector.runtime import log
from connector.sync.approval_requests import ApprovalRequests
from connector.sync.flow_guard import VERDICTS, Verdict

_COUNT = "would_leave"


@dataclass(frozen=True, slots=True)
class RemovalLimit:
    """More removals than `floor`, and than `share` of the wanted members, need an approval."""

    share: float = DEFAULT_SHARE
    floor: int = 50

    def exceeded_by(self, removals: PendingRemovals) -> bool:
        return removals.count > max(self.floor, self.share * removals.total)


class RemovalGuard:
    """Asks for one connection."""

    def __init__(self, requests: ApprovalRequests) -> None:
        self._requests = requests
        self._log = log.get("memberships").bind(connection=requests.connection)

    async def allows(
        self, subject: str, target: Group, removals: PendingRemovals, limit: RemovalLimit
    ) -> Verdict:
        """Whether these people may be removed from the target now. A decision holds for the
        account, the target and the number of people that it was requested for, give or take the
        limit's share; otherwise this asks again."""
        if not limit.exceeded_by(removals):
            return "allowed"
        facts: dict[str, int | str] = {
            _COUNT: removals.count,
            "of": removals.total,
            "target": f"{target.kind} {target.name}",
        }
        if target.remote_id:
            # Another list of the same name needs an approval of its own.
            facts["target_id"] = target.remote_id
        approval = await self._requests.request(
            REMOVAL, subject, facts, count=_COUNT, share=limit.share
        )
        if approval.state == "pending":
            self._log.error(
                "removals_held",
                problem=Problem.TOO_MANY_REMOVALS.value,
                approval=approval.id,
                **facts,
            )
        return VERDICTS[approval.state]

    async def close(self, subject: str) -> None:
        """The removals are done: the next ones need a new approval."""
        await self._requests.close(REMOVAL, subject)

    async def ask_again(self, subject: str) -> None:
        """A person starts the sync again: a rejection no longer counts."""
        await self._requests.ask_again(REMOVAL, subject)
