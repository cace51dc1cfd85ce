"""The kit: what an adapter gets to call its platform's API, with quota already counted."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from pydantic import SecretStr

from connector.domain.lanes import QuotaUsage
from connector.net.auth import TokenEndpoint
from connector.net.http import Credential, Http
from connector.net.rate_limit import Limit, RateLimiter
from connector.net.stored_token import StoredToken
from connector.ports import Clock

NOT_APPLIED = frozenset({429, 503})
"""Statuses that mean "not applied, try again" for calls that may be repeated."""


class RefreshedToken(Protocol):
    """Makes the credential of a token endpoint and a configured refresh token. `query` as in
    OAuthToken."""

    def __call__(
        self, endpoint: TokenEndpoint, refresh_token: SecretStr, *, query: str | None
    ) -> StoredToken: ...


@dataclass(frozen=True, slots=True)
class Kit:
    """`http` makes a client from a base address, a credential (headers, requested at each call)
    and the statuses that mean "not applied, try again"; a request that is not a GET is refused
    where another process has the lease. `quota` returns the rate limiter of a
    credential, shared by all connections that use it. `record_usage` saves quota that was granted
    outside a claim. `retry_statuses` are the connection's statuses for "not applied, try again"
    for calls that must not be made twice. `refreshed_token` makes a token whose refresh token is
    kept when the platform replaces it; None where nothing can be stored encrypted."""

    clock: Clock
    http: Callable[[str, Credential, frozenset[int]], Http]
    quota: Callable[[str, Mapping[str, Limit]], Awaitable[RateLimiter]]
    record_usage: Callable[[Sequence[QuotaUsage]], Awaitable[None]]
    retry_statuses: frozenset[int] = NOT_APPLIED | {423}
    refreshed_token: RefreshedToken | None = None
