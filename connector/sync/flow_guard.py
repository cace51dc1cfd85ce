"""The flow guard: what cannot be told to keep quiet at Klaviyo does not start unseen (promise 9).

A profile write or a list join may start live flows, and no flag prevents it. So before a backfill,
the first sync of a list or a mass unset, the live flows that hang on it and the number of people
are named, and a person approves as `[connections.klaviyo] flow_guard` says.
"""

from __future__ import annotations

from typing import Any, Literal

from connector.domain.errors import Blocked
from connector.ports import AffectedResources, Approvals, Clock, Flows
from connector.runtime import log

Verdict = Literal["allowed", "waiting", "rejected"]
FlowGuardMode = Literal["ask", "warn", "off"]

FLOWS_UNKNOWN = "cannot know: needs the scope flows:read"


class FlowGuard:
    """Asks for one connection. `what` is a closed word (backfill, first_sync, mass_unset),
    `subject` what it is about within the connection."""

    def __init__(
        self, connection: str, mode: FlowGuardMode, flows: Flows, approvals: Approvals, clock: Clock
    ) -> None:
        self._connection = connection
        self._mode = mode
        self._flows = flows
        self._approvals = approvals
        self._clock = clock
        self._log = log.get("guard").bind(connection=connection)

    async def __call__(
        self,
        what: str,
        subject: str,
        people: int | None,
        affected: AffectedResources,
        **details: Any,
    ) -> Verdict:
        """Whether it may begin now."""
        return (await self.evaluate(what, subject, people, affected, **details))[0]

    async def evaluate(
        self,
        what: str,
        subject: str,
        people: int | None,
        affected: AffectedResources,
        **details: Any,
    ) -> tuple[Verdict, list[str] | str]:
        """Whether it may begin now, and the live flows, or why nobody can know them.

        Klaviyo is asked once; after `waiting` the same call tells whether a person has answered,
        without asking anybody. `people` None: nobody knows how many; `known` is said to the person
        too. Raises DeliveryError where Klaviyo cannot be asked now.
        """
        if self._mode == "off":
            return "allowed", []
        for approval in await self._approvals.find(pending=False):
            if (approval.connection, approval.what, approval.subject) == (
                self._connection,
                what,
                subject,
            ):
                return _VERDICTS[approval.state], approval.detail["live_flows"]
        flows = await self.live(affected)
        if not flows:
            return "allowed", flows
        if self._mode == "warn" or flows == FLOWS_UNKNOWN:
            self._log.warning(
                "live flows may start", what=what, subject=subject, people=people, flows=flows
            )
            return "allowed", flows
        people_text = "unknown" if people is None else people
        detail = {"people": people_text, **details, "live_flows": flows}
        approval = await self._approvals.request(
            self._connection, what, subject, detail, now=self._clock.now()
        )
        self._log.warning("waits for a person", what=what, approval=approval.id, people=people)
        return _VERDICTS[approval.state], flows

    async def live(self, affected: AffectedResources) -> list[str] | str:
        """Names of the live flows that hang on it, or why nobody can know."""
        try:
            return sorted(await self._flows.live(affected))
        except Blocked as error:
            if error.status != 403:
                raise
            return FLOWS_UNKNOWN

    async def close_request(self, what: str, subject: str) -> None:
        """It has ended: the next time is asked anew."""
        await self._approvals.close(self._connection, what, subject)


_VERDICTS: dict[str, Verdict] = {
    "pending": "waiting",
    "approved": "allowed",
    "rejected": "rejected",
}
