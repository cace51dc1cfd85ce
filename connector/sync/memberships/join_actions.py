"""The actions of people who join a segment, queued once per person and join.

A join is saved with the page that shows it and marked as handled after its actions are queued. A
repeat after a crash has the same keys, so the action queue takes it for the same action
(guarantee 4).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from connector.domain.actions import (
    Action,
    ActionName,
    ActionReceipt,
    ActionRequest,
    Conflict,
    Origin,
)
from connector.domain.attention import AttentionItem
from connector.domain.memberships import Group
from connector.ports import Member, MemberGroups, SegmentJoins
from connector.runtime import log

SubmitActions = Callable[[Origin, Sequence[ActionRequest]], Awaitable[ActionReceipt | Conflict]]
_BATCH_SIZE = 200


@dataclass(frozen=True, slots=True)
class JoinAction:
    """One action for a person who joins; `amount` is signed."""

    action: ActionName
    amount: int = 0
    reason: str = ""
    message: str = ""
    url: str = ""


def number_actions(links: Sequence[Sequence[JoinAction]]) -> list[list[tuple[int, JoinAction]]]:
    """The number of each action in the keys, for all links: several may have the same segment, by
    its name and by its id. The same action of another link has the same number: it is sent once
    per person and join."""
    numbers: dict[tuple[JoinAction, int], int] = {}
    numbered = []
    for join_actions in links:
        seen: Counter[JoinAction] = Counter()
        of_link = []
        for each in join_actions:
            of_link.append((numbers.setdefault((each, seen[each]), len(numbers)), each))
            seen[each] += 1
        numbered.append(of_link)
    return numbered


class JoinActionsWorker:
    """connector.ports.workers.Loop for one link of a segment. The people that its first complete
    scan finds are the baseline and get no action, unless `include_existing`. `join_actions` have
    their numbers among those of all links.

    Keys have Klaviyo's id of the segment, so that one which is linked by its id instead of its name
    triggers nothing twice. Until the id is known, joins wait.
    """

    def __init__(
        self,
        source: int,
        segment: str,
        join_actions: Sequence[tuple[int, JoinAction]],
        submit: SubmitActions,
        joins: SegmentJoins,
        groups: MemberGroups,
        *,
        include_existing: bool,
    ) -> None:
        self._source = source
        self._join_actions = join_actions
        self._submit = submit
        self._joins = joins
        self._groups = groups
        self._include_existing = include_existing
        self.wakeup = asyncio.Event()
        self._log = log.get("memberships").bind(segment=segment)

    def tracks_joins(self, source: Group) -> bool:
        """Whether the people that the running scan finds have joined."""
        return self._include_existing or source.completed_scan > 0

    def wake(self) -> None:
        self.wakeup.set()

    async def idle(self) -> bool:
        return not self.wakeup.is_set() and not (await self._unhandled(limit=1))[1]

    async def attention(self) -> Sequence[AttentionItem]:
        return ()

    async def run_once(self) -> float | None:
        id, people = await self._unhandled(limit=_BATCH_SIZE)
        for person in people:
            if isinstance(await self._submit("segment", self._requests_for(person, id)), Conflict):
                # Other actions were configured when this join was queued: once is enough.
                self._log.info("join_action_conflict_ignored")
        if people:
            await self._joins.mark_handled(self._source, people)
        return 0 if people else None

    async def _unhandled(self, *, limit: int) -> tuple[str, Sequence[Member]]:
        """Klaviyo's id of the segment, and joins that can be handled."""
        people = await self._joins.unhandled(self._source, limit=limit)
        id = (await self._groups.get(self._source)).remote_id if people else None
        return (id, people) if id is not None else ("", ())

    def _requests_for(self, person: Member, segment_id: str) -> list[ActionRequest]:
        return [
            ActionRequest(
                Action(
                    join_action.action,
                    email=person.email,
                    customer=person.profile_id if join_action.action == "push" else None,
                    amount=join_action.amount,
                    reason=join_action.reason,
                    message=join_action.message,
                    url=join_action.url,
                ),
                route=f"segment/{join_action.action}",
                key=f"{segment_id}:{person.joined_at}:{number}",
            )
            for number, join_action in self._join_actions
        ]
