"""The flow guard: no bulk write that could start live flows begins unseen (guarantee 9).

A profile write or a list join may start live flows at Klaviyo, and no flag prevents it. Before a
backfill, the first sync of a list or a mass unset, the guard finds the live flows that depend on
it and asks for an approval, as `[connections.klaviyo] flow_guard` says.
"""

from __future__ import annotations

from typing import Any, Literal

from connector.domain.errors import Blocked
from connector.ports import AffectedResources, Flows
from connector.runtime import log
from connector.sync.approval_requests import ApprovalRequests

Verdict = Literal["allowed", "waiting", "rejected"]
FlowGuardMode = Literal["ask", "warn", "off"]

_COUNT = "people"
FLOWS_UNKNOWN = "unknown, because the key has no scope flows:read"


class FlowGuard:
    """The guard of one connection. `what` is the kind of operation (backfill, first_sync,
    mass_unset), `subject` its name within the connection."""

    def __init__(self, mode: FlowGuardMode, flows: Flows, requests: ApprovalRequests) -> None:
        self._mode = mode
        self._flows = flows
        self._requests = requests
        self._log = log.get("flow_guard").bind(connection=requests.connection)

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

        A decision holds for the account, the resources, the live flows and the number of people
        that were asked for; otherwise the same call asks again. While a request waits Klaviyo is
        not asked. `people` is None where the number is unknown; `details` are shown with the
        approval. Raises DeliveryError where Klaviyo cannot be asked now.
        """
        if self._mode == "off":
            return "allowed", []
        facts = {
            "people": "unknown" if people is None else people,
            **details,
            "target": _text_of(affected),
        }
        found = await self._requests.find(what, subject)
        if found and found.state == "pending" and self._requests.answers(found, facts, _COUNT):
            return "waiting", found.detail["live_flows"]
        flows = await self.live(affected)
        if self._mode == "warn" or not flows or flows == FLOWS_UNKNOWN:
            if flows:
                self._log.warning(
                    "live_flows_warned", what=what, subject=subject, people=people, flows=flows
                )
            if found:
                await self._requests.close(what, subject)
            return "allowed", flows
        facts["live_flows"] = flows
        approval = await self._requests.request(what, subject, facts, count=_COUNT)
        if approval.state == "pending":
            self._log.warning("approval_requested", what=what, approval=approval.id, people=people)
        return VERDICTS[approval.state], flows

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
        await self._requests.close(what, subject)

    async def ask_again(self, what: str, subject: str) -> None:
        """A person starts the operation again: a rejection no longer counts."""
        await self._requests.ask_again(what, subject)


def _text_of(affected: AffectedResources) -> str:
    """What the operation writes to, for people."""
    named = {
        "list": affected.lists,
        "segment": affected.segments,
        "metric": affected.metrics,
        "profile fields": frozenset({""}) if affected.fields else frozenset(),
    }
    return ", ".join(
        f"{kind} {name}".strip() for kind, names in named.items() for name in sorted(names)
    )


VERDICTS: dict[str, Verdict] = {
    "pending": "waiting",
    "approved": "allowed",
    "rejected": "rejected",
}
