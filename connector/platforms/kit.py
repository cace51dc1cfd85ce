"""What an adapter is handed to reach its platform: HTTP, quota and time, already counted."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from connector.domain.lanes import QuotaUsage
from connector.net.http import Credential, Http
from connector.net.rate_limit import Limit, RateLimiter
from connector.ports import Clock

NOT_APPLIED = frozenset({429, 503})


@dataclass(frozen=True, slots=True)
class Kit:
    """`http` makes a client of a base address with a credential (its headers, asked for at each
    call) and the statuses that mean "not applied, try again"; `quota` the governor of a credential,
    shared by all connections that use it; `remember` saves quota granted outside a claim.
    `retry_statuses` are those statuses for what must not be done twice, as the connection has
    them; for everything else there is `NOT_APPLIED`."""

    clock: Clock
    http: Callable[[str, Credential, frozenset[int]], Http]
    quota: Callable[[str, Mapping[str, Limit]], Awaitable[RateLimiter]]
    record_usage: Callable[[Sequence[QuotaUsage]], Awaitable[None]]
    retry_statuses: frozenset[int] = NOT_APPLIED | {423}
