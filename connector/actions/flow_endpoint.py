"""A connection's endpoint for Klaviyo's flows: which callers and routes it accepts."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256

from connector.actions.requests import ActionRules, Route, parse_actions
from connector.domain.actions import (
    ActionBatch,
    ActionReceipt,
    ActionRequest,
    Caps,
    Conflict,
    Origin,
)
from connector.domain.errors import Malformed, Problem, Unauthorised
from connector.domain.lanes import ACTIONS, Lane, LaneKind, Millis, Suppression
from connector.domain.records import Appended
from connector.pipeline.intake import Endpoint, Intake
from connector.ports import Clock
from connector.runtime.metrics import Metrics

_BEARER = "bearer "


class FlowEndpoint(Endpoint[Sequence[ActionRequest], ActionReceipt | Conflict]):
    """Stores the actions that flows request, on the lane of actions.

    `lane` is None where the platform takes no actions; then no route is offered. `secrets` are the
    valid ones; without any, no caller is authorized. `enabled`: whether the module is on.
    `suppressed`: why actions that are received now are not sent.
    """

    def __init__(
        self,
        lane: Lane | None,
        intake: Intake,
        clock: Clock,
        metrics: Metrics,
        *,
        wake: Callable[[Mapping[LaneKind, Millis]], None],
        routes: Sequence[Route],
        secrets: Sequence[str],
        rules: ActionRules,
        caps: Caps,
        enabled: bool = True,
        suppressed: Suppression | None = None,
    ) -> None:
        super().__init__(intake, clock, metrics, wake=wake)
        self.routes = tuple(routes) if lane else ()
        self.enabled = enabled
        self._suppressed = suppressed
        self._lane = lane
        self._secret_digests = [sha256(secret.encode()).digest() for secret in secrets if secret]
        self._rules = rules
        self._caps = caps

    def authorize(self, headers: Mapping[str, str]) -> None:
        """Raise Unauthorised unless the call has a valid secret, in constant time.

        Needs no body, so a caller without a secret costs little (guarantee 14).
        """
        presented = [headers.get("api-key", "")]
        authorization = headers.get("authorization", "")
        if authorization.lower().startswith(_BEARER):
            presented.append(authorization[len(_BEARER) :].strip())
        digests = [sha256(text.encode("latin-1", "replace")).digest() for text in presented]
        matches = [
            hmac.compare_digest(digest, secret_digest)
            for digest in digests
            for secret_digest in self._secret_digests
        ]
        if not any(matches):
            raise Unauthorised(
                Problem.FLOW_SECRET,
                "header api-key: missing or not the secret, allowed [connections.actions] secret",
            )

    def _parse(self, path: str, headers: Mapping[str, str], body: bytes) -> Sequence[ActionRequest]:
        self.authorize(headers)
        route = next((route for route in self.routes if route == path), None)
        if route is None:
            raise Malformed(Problem.NOT_OFFERED, f"route {path}: not offered")
        return parse_actions(route, headers, body, self._rules)

    async def _store(self, content: Sequence[ActionRequest]) -> ActionReceipt | Conflict:
        return await self.submit("flow", content)

    async def submit(
        self, origin: Origin, requests: Sequence[ActionRequest]
    ) -> ActionReceipt | Conflict:
        """Store all requests, or none of them if one conflicts with a stored action.

        Raises StoreError when they are not stored, ValueError where the platform takes no actions.
        """
        if self._lane is None:
            raise ValueError("the platform of this connection takes no actions")
        lane, now = self._lane, self._clock.now()
        batch = ActionBatch(lane, origin, requests, now, self._caps, self._suppressed)
        receipt = await self._intake.actions.put(batch)
        if isinstance(receipt, Conflict):
            return receipt
        if receipt.held:
            action = requests[0].action.name
            self._metrics.record_action(lane.connection, action, "held", receipt.held)
        new = Appended(
            receipt.accepted + receipt.held,
            receipt.duplicates,
            receipt.held,
            lanes={ACTIONS: now} if receipt.accepted else {},
        )
        self._stored(lane, "flow" if origin == "flow" else "scan", new, now)
        return receipt
