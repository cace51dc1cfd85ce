"""Where a connection's flow calls come in: who may call, what is offered, and the ledger behind."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256

from connector.actions.requests import Route, Rules, read
from connector.domain.actions import (
    Added,
    Asked,
    Call,
    Caps,
    Conflict,
    Origin,
)
from connector.domain.lanes import (
    Lane,
)
from connector.domain.records import (
    Appended,
)
from connector.ports import ActionQueue, Clock
from connector.runtime.group_commit import Groups
from connector.runtime.metrics import Metrics

_BEARER = "bearer "


class FlowDoor:
    """One connection's. `secrets` are those in force, empty: nobody may call. `lane` is None where
    the platform takes no actions; `on` is whether its module runs. `arrived` is called when
    something new may be sent."""

    def __init__(
        self,
        lane: Lane | None,
        *,
        routes: Sequence[Route],
        secrets: Sequence[str],
        rules: Rules,
        caps: Caps,
        queue: ActionQueue,
        clock: Clock,
        metrics: Metrics,
        arrived: Callable[[], None],
        on: bool = True,
    ) -> None:
        self.routes = routes if lane else ()
        self.on = on
        self._lane = lane
        self._proofs = [sha256(secret.encode()).digest() for secret in secrets if secret]
        self._rules = rules
        self._caps = caps
        self._clock = clock
        self._metrics = metrics
        self._arrived = arrived
        self._groups = Groups[Call, Added | Conflict](queue.add, lambda call: len(call.asked))

    def admits(self, headers: Mapping[str, str]) -> bool:
        """Whether the call carries one of the secrets; takes the same time whatever it carries."""
        given = [headers.get("api-key", "")]
        word = headers.get("authorization", "")
        if word.lower().startswith(_BEARER):
            given.append(word[len(_BEARER) :].strip())
        digests = [sha256(text.encode("latin-1", "replace")).digest() for text in given]
        found = [hmac.compare_digest(d, proof) for d in digests for proof in self._proofs]
        return any(found)

    def read(self, route: Route, headers: Mapping[str, str], body: bytes) -> Sequence[Asked]:
        """What a call asks for. Raises Malformed."""
        return read(route, headers, body, self._rules)

    async def take(self, origin: Origin, asked: Sequence[Asked]) -> Added | Conflict:
        """Store what is asked for, whole or not at all. Raises StoreError when it is not stored."""
        assert self._lane is not None
        lane, now = self._lane, self._clock.now()
        answer = await self._groups.put(Call(lane, origin, asked, now, self._caps))
        if isinstance(answer, Conflict):
            return answer
        new = answer.accepted + answer.held
        via = "flow" if origin == "flow" else "scan"
        self._metrics.took_in(lane, via, Appended(new, answer.duplicates, answer.held), now)
        if answer.held:
            self._metrics.acted(lane.connection, asked[0].action.name, "held", answer.held)
        if answer.accepted:
            self._arrived()
        return answer
