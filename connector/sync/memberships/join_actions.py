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
    Added,
    Asked,
    Conflict,
    Origin,
)
from connector.domain.errors import StoreError
from connector.ports import Clock, Member, Memberships
from connector.runtime import log

Act = Callable[[Origin, Sequence[Asked]], Awaitable[Added | Conflict]]
_AT_ONCE = 200
_AGAIN = 5.0


@dataclass(frozen=True, slots=True)
class Greeting:
    """One thing done for a person who joins; `amount` is signed."""

    action: ActionName
    amount: int = 0
    reason: str = ""
    message: str = ""
    url: str = ""


class Greeter:
    """Orders the greetings of one segment."""

    def __init__(
        self,
        source: int,
        name: str,
        greetings: Sequence[Greeting],
        act: Act,
        memberships: Memberships,
        clock: Clock,
    ) -> None:
        self._source = source
        self._name = name
        self._greetings = greetings
        self._act = act
        self._store = memberships
        self._clock = clock
        self._bell = asyncio.Event()
        self._bell.set()
        self._log = log.get("audiences").bind(segment=name)

    def wake(self) -> None:
        """Somebody may have joined."""
        self._bell.set()

    async def idle(self) -> bool:
        return not self._bell.is_set() and not await self._store.to_greet(self._source, limit=1)

    async def run(self) -> None:
        """For ever."""
        while True:
            await self._bell.wait()
            try:
                while await self.greet():
                    pass
                self._bell.clear()
            except StoreError as error:
                self._log.warning("greetings wait for the store", detail=error.detail)
                await self._clock.sleep(_AGAIN)
            except Exception:
                self._log.exception("greetings could not be ordered")
                await self._clock.sleep(_AGAIN)

    async def greet(self) -> int:
        """Order what is done for some who joined; how many they were."""
        people = await self._store.to_greet(self._source, limit=_AT_ONCE)
        for person in people:
            if isinstance(await self._act("segment", self._for(person)), Conflict):
                # The same join was greeted before the file said otherwise: once is enough.
                self._log.info("a join was greeted with other words before")
        if people:
            emails = [person.email for person in people if person.email]
            await self._store.greeted(self._source, emails)
        return len(people)

    def _for(self, person: Member) -> list[Asked]:
        return [
            Asked(
                Action(
                    greeting.action,
                    email=person.email,
                    customer=person.profile if greeting.action == "push" else None,
                    amount=greeting.amount,
                    reason=greeting.reason,
                    message=greeting.message,
                    url=greeting.url,
                ),
                route=f"segment/{greeting.action}",
                key=f"{self._name}:{person.since}:{number}",
            )
            for number, greeting in enumerate(self._greetings)
        ]
