"""Where a connection's flow calls come in: who may call, what is offered, and the ledger behind."""

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
from connector.domain.lanes import Lane
from connector.domain.records import Appended
from connector.ports import ActionQueue, Clock
from connector.runtime.group_commit import GroupCommit
from connector.runtime.metrics import Metrics

_BEARER = "bearer "


class FlowEndpoint:
    """One connection's. `secrets` are those in force, empty: nobody may call. `lane` is None where
    the platform takes no actions; `on` is whether its module runs. `arrived` is called when
    something new may be sent."""

    def __init__(
        self,
        lane: Lane | None,
        *,
        routes: Sequence[Route],
        secrets: Sequence[str],
        rules: ActionRules,
        caps: Caps,
        queue: ActionQueue,
        clock: Clock,
        metrics: Metrics,
        on_accepted: Callable[[], None],
        on: bool = True,
    ) -> None:
        self.routes = routes if lane else ()
        self.on = on
        self._lane = lane
        self._secret_digests = [sha256(secret.encode()).digest() for secret in secrets if secret]
        self._rules = rules
        self._caps = caps
        self._clock = clock
        self._metrics = metrics
        self._on_accepted = on_accepted
        self._commits = GroupCommit[ActionBatch, ActionReceipt | Conflict](
            queue.add, lambda call: len(call.requests)
        )

    def is_authorized(self, headers: Mapping[str, str]) -> bool:
        """Whether the call carries one of the secrets; takes the same time whatever it carries."""
        presented = [headers.get("api-key", "")]
        authorization = headers.get("authorization", "")
        if authorization.lower().startswith(_BEARER):
            presented.append(authorization[len(_BEARER) :].strip())
        digests = [sha256(text.encode("latin-1", "replace")).digest() for text in presented]
        found = [
            hmac.compare_digest(d, secret_digest)
            for d in digests
            for secret_digest in self._secret_digests
        ]
        return any(found)

    def parse_actions(
        self, route: Route, headers: Mapping[str, str], body: bytes
    ) -> Sequence[ActionRequest]:
        """What a call asks for. Raises Malformed."""
        return parse_actions(route, headers, body, self._rules)

    async def submit(
        self, origin: Origin, asked: Sequence[ActionRequest]
    ) -> ActionReceipt | Conflict:
        """Store what is asked for, whole or not at all. Raises StoreError when it is not stored."""
        assert self._lane is not None
        lane, now = self._lane, self._clock.now()
        answer = await self._commits.put(ActionBatch(lane, origin, asked, now, self._caps))
        if isinstance(answer, Conflict):
            return answer
        new = answer.accepted + answer.held
        via = "flow" if origin == "flow" else "scan"
        self._metrics.record_received(lane, via, Appended(new, answer.duplicates, answer.held), now)
        if answer.held:
            self._metrics.record_action(lane.connection, asked[0].action.name, "held", answer.held)
        if answer.accepted:
            self._on_accepted()
        return answer
