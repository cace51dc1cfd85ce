"""The Klaviyo side of a line: whose account it is, and the API on that account's quota."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

from connector.app.wiring.context import Shop
from connector.config import Connection
from connector.domain.errors import DeliveryError
from connector.klaviyo import api as klaviyo
from connector.klaviyo.limits import GET_ACCOUNTS, LIMITS
from connector.net.rate_limit import Governor
from connector.net.retry import reading
from connector.runtime import log
from connector.service import KLAVIYO

_PATIENCE = 8.0


async def connect(shop: Shop, connection: Connection) -> tuple[klaviyo.KlaviyoApi, str | None]:
    """The API on the quota of its account, and the account's id where it can be read."""
    unread = credential(connection)
    api = _api(shop, connection, await _quota(shop, unread, connection))
    if not connection.enabled:
        return api, None
    asked = unread in shop.asked
    if not asked:
        shop.asked[unread] = asyncio.create_task(_read(shop, api))
    try:
        account = await asyncio.shield(shop.asked[unread])
    except (DeliveryError, TimeoutError) as error:
        pinned = await shop.store.memory.pinned(connection.name)
        log.get("lines").warning(
            "the Klaviyo account cannot be read now",
            connection=connection.name,
            error=str(error),
            taken_to_be=pinned or "unknown",
        )
        if pinned is None:
            return api, None
        account = pinned
    await api.aclose()
    shop.quotas.forget(unread)
    governor = await _quota(shop, account, connection)
    if not asked:
        governor.reserve(GET_ACCOUNTS, 1)  # the call just made counts for the account too
    return _api(shop, connection, governor), account


def credential(connection: Connection) -> str:
    """What stands for an account that could not be read: where it is, and the key, or without one
    the connection itself. A secret."""
    key = connection.klaviyo.private_key.get_secret_value()
    return f"{connection.klaviyo.base_url} {key or connection.name}"


def known_by(connection: Connection, account: str | None = None) -> frozenset[str]:
    """What two connections have in common when they belong to one account. Holds a secret."""
    return frozenset(filter(None, (account, credential(connection))))


async def _read(shop: Shop, api: klaviyo.KlaviyoApi) -> str:
    """The account's id. Raises DeliveryError, and TimeoutError when it takes too long."""
    return (await asyncio.wait_for(reading(api.account, clock=shop.clock), _PATIENCE)).id


async def _quota(shop: Shop, account: str, connection: Connection) -> Governor:
    return await shop.quotas.of(
        account,
        LIMITS,
        connection=connection.name,
        share=connection.klaviyo.effective_rate_share,
        live_reserve=connection.klaviyo.live_reserve,
    )


def _api(shop: Shop, connection: Connection, governor: Governor) -> klaviyo.KlaviyoApi:
    http = shop.http(
        connection,
        connection.klaviyo.base_url,
        KLAVIYO,
        vendor="klaviyo",
        credential=klaviyo.private_key(connection.klaviyo.private_key),
        headers=klaviyo.headers(connection.klaviyo.revision),
        watch=klaviyo.watch(governor),
    )
    return klaviyo.KlaviyoApi(
        http, governor, shop.clock, shop.store.memory.remember_spend, shop.lease.valid
    )


def stable_until(revision: str) -> float:
    """Klaviyo keeps a revision stable for a year (facts of its versioning policy)."""
    day = datetime.fromisoformat(revision.partition(".")[0]).replace(tzinfo=UTC)
    return (day + timedelta(days=365)).timestamp()
