"""The flow guard: no bulk write that could start live flows begins unseen (guarantee 9).

A profile write or a list join may start live flows at Klaviyo, and no flag prevents it. Before a
backfill, the first sync of a list or a mass unset, the guard finds the live flows that depend on
it and asks for an approval, as `[connections.klaviyo] flow_guard` says.
"""

from __future__ import annotations

from typing import Any, Literal

from connector.domain.errors import Blocked
from connector.ports import AffectedResources, Approvals, Clock, Flows
from connector.runtime import log

Verdict = Literal["allowed", "waiting", "rejected"]
FlowGuardMode = Literal["ask", "warn", "off"]

FLOWS_UNKNOWN = "unknown, because the key has no scope flows:read"


class FlowGuard:
    """The guard of one connection. `what` is the kind of operation (backfill, first_sync,
    mass_unset), `subject` its name within the connection."""

    def __init__(
        self, connection: str, mode: FlowGuardMode, flows: Flows, approvals: Approvals, clock: Clock
    ) -> None:
        self._connection = connection
        self._mode = mode
        self._flows = flows
        self._approvals = approvals
        self._clock = clock
        self._log = log.get("flow_guard").bind(connection=connection)

    async def __call__(
        self,
        what: str,
        subject: str,
        people: int | None,
        affected: AffectedResources,
        **details: Any,
    ) -> Verdict:
        """Whether the operation may begin now. See `evaluate`."""
        return (await self.evaluate(what, subject, people, affected, **details))[0]

    async def evaluate(
        self,
        what: str,
        subject: str,
        people: int | None,
        affected: AffectedResources,
        **details: Any,
    ) -> tuple[Verdict, list[str] | str]:
        """Whether the operation may begin now, and the live flows, or why they are unknown.

        Klaviyo is asked in the first call only; after `waiting` the same call returns the decision
        of the approval once there is one. `people` is None where the number is unknown; `details`
        are shown with the approval. Raises DeliveryError where Klaviyo cannot be asked now.
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
                "live_flows_warned", what=what, subject=subject, people=people, flows=flows
            )
            return "allowed", flows
        count = "unknown" if people is None else people
        detail = {"people": count, **details, "live_flows": flows}
        approval = await self._approvals.request(
            self._connection, what, subject, detail, now=self._clock.now()
        )
        self._log.warning("approval_requested", what=what, approval=approval.id, people=people)
        return _VERDICTS[approval.state], flows

    async def live(self, affected: AffectedResources) -> list[str] | str:
        """Names of the live flows that a write of these resources may start, or why they are
        unknown. Raises DeliveryError."""
        try:
            return sorted(await self._flows.live(affected))
        except Blocked as error:
            if error.status != 403:
                raise
            return FLOWS_UNKNOWN

    async def close_request(self, what: str, subject: str) -> None:
        """The operation has ended: delete its approval, so that the next one asks again."""
        await self._approvals.close(self._connection, what, subject)


_VERDICTS: dict[str, Verdict] = {
    "pending": "waiting",
    "approved": "allowed",
    "rejected": "rejected",
}
