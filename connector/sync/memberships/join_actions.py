"""What is done for those who join a segment, once per person and join.

Who is to be greeted is kept with the page that showed him; the ledger of actions knows a greeting
by the join it is for, so a repeat after a crash is the same action and no second one (promise 4).
"""

from __future__ import annotations

import asyncio
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
from connector.ports import Clock, Member, Memberships
from connector.runtime import log

SubmitActions = Callable[[Origin, Sequence[ActionRequest]], Awaitable[ActionReceipt | Conflict]]
_BATCH_SIZE = 200
_RETRY_DELAY = 5.0


@dataclass(frozen=True, slots=True)
class JoinAction:
    """One thing done for a person who joins; `amount` is signed."""

    action: ActionName
    amount: int = 0
    reason: str = ""
    message: str = ""
    url: str = ""


class JoinActionsWorker:
    """Orders the greetings of one segment."""

    def __init__(
        self,
        source: int,
        name: str,
        join_actions: Sequence[JoinAction],
        submit: SubmitActions,
        memberships: Memberships,
        clock: Clock,
    ) -> None:
        self._source = source
        self._name = name
        self._join_actions = join_actions
        self._submit = submit
        self._store = memberships
        self._clock = clock
        self.wakeup = asyncio.Event()
        self._log = log.get("audiences").bind(segment=name)

    def wake(self) -> None:
        """Somebody may have joined."""
        self.wakeup.set()

    async def idle(self) -> bool:
        return not self.wakeup.is_set() and not await self._store.unhandled_joins(
            self._source, limit=1
        )

    async def attention(self) -> Sequence[AttentionItem]:
        return ()

    async def run_once(self) -> float | None:
        """Submit the actions of some people who joined; again at once while there are more."""
        people = await self._store.unhandled_joins(self._source, limit=_BATCH_SIZE)
        for person in people:
            if isinstance(await self._submit("segment", self._requests_for(person)), Conflict):
                # The same join was greeted before the file said otherwise: once is enough.
                self._log.info("a join was greeted with other words before")
        if people:
            emails = [person.email for person in people if person.email]
            await self._store.mark_joins_handled(self._source, emails)
        return 0 if people else None

    def _requests_for(self, person: Member) -> list[ActionRequest]:
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
                key=f"{self._name}:{person.joined_at}:{number}",
            )
            for number, join_action in enumerate(self._join_actions)
        ]
