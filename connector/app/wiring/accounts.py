"""The Klaviyo side of a connection: its account, and the API on that account's quota."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

from connector.app.wiring.context import SharedServices
from connector.app.wiring.oauth import klaviyo_token
from connector.config import Connection
from connector.domain.errors import DeliveryError
from connector.domain.lanes import KLAVIYO
from connector.klaviyo import api as klaviyo
from connector.klaviyo.limits import GET_ACCOUNTS, LIMITS
from connector.net.http import Credential
from connector.net.rate_limit import RateLimiter
from connector.net.retry import retry_read
from connector.runtime import log

_ACCOUNT_TIMEOUT = 8.0


def build_credential(services: SharedServices, connection: Connection) -> Credential:
    """The private key of the connection, or its OAuth token, which has to be closed."""
    if connection.klaviyo.auth == "oauth":
        return klaviyo_token(services.config, connection, services.store, services.clock)
    return klaviyo.private_key(connection.klaviyo.private_key)


async def connect(
    services: SharedServices, connection: Connection, auth: Credential
) -> tuple[klaviyo.KlaviyoApi, str | None]:
    """The API on the quota of its account, and the account's id where it can be read."""
    credential_key = credential(connection)
    api = _api(services, connection, await _limiter(services, credential_key, connection), auth)
    if not connection.enabled:
        return api, None
    already_requested = credential_key in services.account_lookups
    if not already_requested:
        services.account_lookups[credential_key] = asyncio.create_task(
            _fetch_account_id(services, api)
        )
    try:
        account = await asyncio.shield(services.account_lookups[credential_key])
    except (DeliveryError, TimeoutError) as error:
        pinned = await services.store.facts.pinned_account(connection.name)
        log.get("wiring").warning(
            "klaviyo_account_unreadable",
            connection=connection.name,
            error=str(error),
            assumed=pinned or "unknown",
        )
        if pinned is None:
            return api, None
        account = pinned
    await api.aclose()
    services.limiters.drop(credential_key)
    limiter = await _limiter(services, account, connection)
    if not already_requested:
        limiter.reserve(GET_ACCOUNTS, 1)  # the call just made counts for the account too
    return _api(services, connection, limiter, auth), account


def credential(connection: Connection) -> str:
    """Identifies an account whose id is not known: base URL and key, or the connection's name where
    it has no key. A secret."""
    with_key = connection.klaviyo.auth == "private-key"
    key = connection.klaviyo.private_key.get_secret_value() if with_key else ""
    return f"{connection.klaviyo.base_url} {key or connection.name}"


def account_aliases(connection: Connection, account: str | None = None) -> frozenset[str]:
    """What two connections have in common when they belong to one account. Holds a secret."""
    return frozenset(filter(None, (account, credential(connection))))


async def _fetch_account_id(services: SharedServices, api: klaviyo.KlaviyoApi) -> str:
    """The account's id. Raises DeliveryError, and TimeoutError when it takes too long."""
    return (
        await asyncio.wait_for(retry_read(api.account, clock=services.clock), _ACCOUNT_TIMEOUT)
    ).id


async def _limiter(services: SharedServices, account: str, connection: Connection) -> RateLimiter:
    return await services.limiters.of(
        account,
        LIMITS,
        connection=connection.name,
        share=connection.klaviyo.effective_rate_share,
        live_reserve=connection.klaviyo.live_reserve,
    )


def _api(
    services: SharedServices, connection: Connection, limiter: RateLimiter, auth: Credential
) -> klaviyo.KlaviyoApi:
    http = services.http(
        connection,
        connection.klaviyo.base_url,
        KLAVIYO,
        vendor="klaviyo",
        credential=auth,
        headers=klaviyo.headers(connection.klaviyo.revision),
        observe_headers=klaviyo.observe_headers(limiter),
    )
    return klaviyo.KlaviyoApi(
        http, limiter, services.clock, services.store.facts.save_usage, services.lease.valid
    )


def revision_expires_at(revision: str) -> float:
    """Klaviyo keeps a revision stable for a year (facts of its versioning policy)."""
    day = datetime.fromisoformat(revision.partition(".")[0]).replace(tzinfo=UTC)
    return (day + timedelta(days=365)).timestamp()
