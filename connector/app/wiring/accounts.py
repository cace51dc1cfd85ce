"""The Klaviyo side of a connection: its account, and the API on that account's quota."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from connector.app.wiring.context import SharedServices
from connector.app.wiring.oauth import klaviyo_token
from connector.config import Connection
from connector.domain.lanes import KLAVIYO
from connector.klaviyo import api as klaviyo
from connector.klaviyo.limits import GET_ACCOUNTS, LIMITS
from connector.net.http import Credential
from connector.net.rate_limit import RateLimiter
from connector.ports import Lease


@dataclass(frozen=True, slots=True)
class Account:
    """The Klaviyo account of a connection, as far as it is known without a request.

    `id`: as Klaviyo named it to this process, else as `pinned`. `pinned`: what the store had for
    the connection when it was built; None before first contact. `confirmed`: Klaviyo has named it
    for the key that is configured now. `credential` identifies the key (a secret); `read` asks
    Klaviyo for the id and raises DeliveryError, after a wait where `waits_for_quota`.
    """

    id: str | None
    pinned: str | None
    confirmed: bool
    credential: str = field(repr=False)
    read: Callable[[], Awaitable[str]]
    waits_for_quota: Callable[[], bool]


def build_credential(services: SharedServices, connection: Connection) -> Credential:
    """The private key of the connection, or its OAuth token, which has to be closed."""
    if connection.klaviyo.auth == "oauth":
        return klaviyo_token(services.config, connection, services.store, services.clock)
    return klaviyo.private_key(connection.klaviyo.private_key)


async def connect(
    services: SharedServices, connection: Connection, auth: Credential
) -> tuple[klaviyo.KlaviyoApi, Account, Lease]:
    """The API on the quota of its account, and the account's lease. Klaviyo is not called."""
    key = credential(connection)
    known = services.known_accounts.get(key)
    pinned = services.stored.account(connection.name)
    id = known or pinned
    asked_by_key = known is not None and services.limiters.drop(key)
    limiter = await _limiter(services, id or key, connection)
    if asked_by_key:
        # The call that named it counts for the account too, also after a restart.
        await services.store.facts.save_usage(limiter.reserve(GET_ACCOUNTS, 1).usage)
    lease = services.lease_of(connection.name, id if connection.enabled else None)
    api = _api(services, connection, limiter, auth, lease)

    async def read() -> str:
        return (await api.account()).id

    def waits_for_quota() -> bool:
        return limiter.is_used_up(GET_ACCOUNTS)

    return api, Account(id, pinned, known is not None, key, read, waits_for_quota), lease


def credential(connection: Connection) -> str:
    """Identifies an account whose id is not known: base URL and key, or the connection's name where
    it has no key. A secret."""
    with_key = connection.klaviyo.auth == "private-key"
    key = connection.klaviyo.private_key.get_secret_value() if with_key else ""
    return f"{connection.klaviyo.base_url} {key or connection.name}"


def account_aliases(connection: Connection, account: str | None = None) -> frozenset[str]:
    """What two connections have in common when they belong to one account. Holds a secret."""
    return frozenset(filter(None, (account, credential(connection))))


async def _limiter(services: SharedServices, account: str, connection: Connection) -> RateLimiter:
    return await services.limiters.of(
        account,
        LIMITS,
        connection=connection.name,
        share=connection.klaviyo.effective_rate_share,
        live_reserve=connection.klaviyo.live_reserve,
    )


def _api(
    services: SharedServices,
    connection: Connection,
    limiter: RateLimiter,
    auth: Credential,
    lease: Lease,
) -> klaviyo.KlaviyoApi:
    http = services.http(
        connection,
        lease,
        connection.klaviyo.base_url,
        KLAVIYO,
        vendor="klaviyo",
        credential=auth,
        headers=klaviyo.headers(connection.klaviyo.revision),
        observe_headers=klaviyo.observe_headers(limiter),
    )
    return klaviyo.KlaviyoApi(http, limiter, services.clock, services.store.facts.save_usage)


def revision_expires_at(revision: str) -> float:
    """Klaviyo keeps a revision stable for a year (facts of its versioning policy)."""
    day = datetime.fromisoformat(revision.partition(".")[0]).replace(tzinfo=UTC)
    return (day + timedelta(days=365)).timestamp()
