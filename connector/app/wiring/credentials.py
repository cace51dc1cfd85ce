"""One side of a connection, opened to see whether it accepts the credentials: without a store, so
that nothing is counted or kept."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from connector.app.wiring import accounts
from connector.config import Config, Connection
from connector.domain.attention import Check
from connector.domain.errors import ConfigError
from connector.domain.lanes import QuotaUsage
from connector.klaviyo import api as klaviyo
from connector.klaviyo.limits import LIMITS
from connector.net.http import Credential, Http
from connector.net.rate_limit import Limit, RateLimiter
from connector.platforms import registry
from connector.platforms.kit import Kit
from connector.ports import Client, Clock
from connector.runtime.metrics import account_label
from connector.service.connection_setup import Side


async def check_side(
    config: Config, connection: Connection, side: Side, clock: Clock
) -> Sequence[Check]:
    """Whether Klaviyo accepts the private key of the connection, or the platform its credentials.
    The connection need not run or be stored."""
    if side == "klaviyo":
        key = klaviyo.private_key(connection.klaviyo.private_key)
        limiter = klaviyo_limiter(connection, clock)
        async with open_klaviyo(config, connection, key, limiter, clock) as api:
            return await api.check()
    try:
        with registry.isolate_platform(connection.source):
            async with open_platform(config, connection, clock) as client:
                return await client.check() if client else ()
    except ConfigError as error:
        return [Check(connection.source, "fault", error.faults[0], error.problem)]


def klaviyo_limiter(connection: Connection, clock: Clock) -> RateLimiter:
    """The quota of the connection's key, as if nothing were spent."""
    return RateLimiter(
        account_label(f"{connection.klaviyo.base_url} {accounts.credential(connection)}"),
        LIMITS,
        clock=clock,
        share=connection.klaviyo.effective_rate_share,
        live_reserve=connection.klaviyo.live_reserve,
    )


@asynccontextmanager
async def open_klaviyo(
    config: Config,
    connection: Connection,
    credential: Credential,
    limiter: RateLimiter,
    clock: Clock,
) -> AsyncIterator[klaviyo.KlaviyoApi]:
    http = Http(
        connection.klaviyo.base_url,
        vendor="klaviyo",
        clock=clock,
        credential=credential,
        headers=klaviyo.headers(connection.klaviyo.revision),
        allow_http=frozenset(config.security.allow_http),
    )
    api = klaviyo.KlaviyoApi(http, limiter, clock, _discard_spend)
    try:
        yield api
    finally:
        await api.aclose()


@asynccontextmanager
async def open_platform(
    config: Config, connection: Connection, clock: Clock
) -> AsyncIterator[Client | None]:
    """None where nothing of the platform's API is used. Raises ConfigError."""
    platform = registry.load(connection.source, connection.settings)
    if platform.open is None:
        yield None
        return

    def http(base_url: str, credential: Credential, waits: frozenset[int]) -> Http:
        return Http(
            base_url,
            vendor="platform",
            clock=clock,
            credential=credential,
            allow_http=frozenset(config.security.allow_http),
            retry_statuses=waits,
        )

    async def quota(credential: str, limits: Mapping[str, Limit]) -> RateLimiter:
        return RateLimiter(account_label(credential), limits, clock=clock, share=1.0)

    client = await platform.open(connection.settings, Kit(clock, http, quota, _discard_spend))
    try:
        yield client
    finally:
        await client.aclose()


async def _discard_spend(_: Sequence[QuotaUsage]) -> None:
    """There is no store to save it in."""
