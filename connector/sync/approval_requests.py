"""Requests for approval of one connection, each with what it is valid for (guarantee 6)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from connector.domain.approvals import DEFAULT_SHARE, holds_for, with_range
from connector.ports import Approval, Approvals, Clock


class ApprovalRequests:
    """Asks for decisions and finds those that were made. `account` is the Klaviyo account that
    they hold for; by `share` the number of people may differ."""

    def __init__(
        self,
        connection: str,
        approvals: Approvals,
        clock: Clock,
        *,
        account: str = "",
        share: float = DEFAULT_SHARE,
    ) -> None:
        self.connection = connection
        self._approvals = approvals
        self._clock = clock
        self._account = account
        self._share = share

    async def find(self, what: str, subject: str) -> Approval | None:
        """The newest request about the subject, whatever it was about."""
        found = await self._approvals.about(self.connection, what)
        return next((approval for approval in found if approval.subject == subject), None)

    def answers(
        self, approval: Approval, facts: Mapping[str, Any], count: str, share: float | None = None
    ) -> bool:
        """Whether the approval, decided or pending, is about these facts. `count` is their key of
        the number of people."""
        return holds_for(
            approval.detail,
            {"account": self._account, **facts},
            count=count,
            share=self._share if share is None else share,
            approved=approval.state != "rejected",
        )

    async def request(
        self,
        what: str,
        subject: str,
        facts: Mapping[str, Any],
        *,
        count: str,
        share: float | None = None,
    ) -> Approval:
        """The approval that answers these facts, requested if there is none. One about other facts
        is closed: its number must not be approved for them."""
        found = await self.find(what, subject)
        if found is not None:
            if self.answers(found, facts, count, share):
                return found
            await self.close(what, subject)
        people = facts.get(count)
        detail = with_range(
            {"account": self._account, **facts},
            people if isinstance(people, int) else None,
            self._share if share is None else share,
        )
        now = self._clock.now()
        return await self._approvals.request(self.connection, what, subject, detail, now=now)

    async def close(self, what: str, subject: str) -> None:
        """The decision was carried out, or is about something else: the next time asks again."""
        await self._approvals.close(self.connection, what, subject)

    async def ask_again(self, what: str, subject: str) -> None:
        """A person starts the operation again: a rejection no longer counts."""
        found = await self.find(what, subject)
        if found is not None and found.state == "rejected":
            await self.close(what, subject)
