"""Yotpo's loyalty API (v2), typed: customers, what they can reach, and points.

Source: loyaltyapi.yotpo.com (facts: Yotpo, sections 2 to 4).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import orjson

from connector.domain.errors import AmbiguousError, Blocked, Problem, RetryLater
from connector.domain.lanes import Millis, QuotaUsage
from connector.net.http import Http
from connector.net.rate_limit import Limit, RateLimiter
from connector.platforms.yotpo.settings import Settings
from connector.platforms.yotpo.view import Catalogue
from connector.ports import Clock

CUSTOMERS = "GET /api/v2/customers"
RECENT = "GET /api/v2/customers/recent"
TIERS = "GET /api/v2/vip_tiers"
REWARDS = "GET /api/v2/redemption_options"
ADJUST = "POST /api/v2/points/adjust"

ANY_CALL = "/api/v2"
"""What quota is counted by: Yotpo's limit is the merchant's, whatever is called."""
PER_PAGE = 100
_CATALOGUE_TTL = 3600.0
"""Seconds for which tiers and rewards are believed unchanged."""
_MIN_PAUSE = 1.0
"""Yotpo's own advice for a 429 that says nothing."""


def limits(settings: Settings) -> dict[str, Limit]:
    """`rate_per_second` for all calls together."""
    rate = max(1, round(settings.rate_per_second))
    return {ANY_CALL: Limit(rate, round(settings.rate_per_second * 60) or 1)}


@dataclass(frozen=True, slots=True)
class RecentPage:
    """`next` is where the next page begins, None at the end."""

    customers: Sequence[dict[str, Any]]
    next_cursor: str | None


async def call(
    http: Http,
    governor: RateLimiter,
    quota: str,
    method: str,
    path: str,
    route: str,
    content: bytes | None = None,
) -> Any:
    """The JSON that Yotpo answers. What it says of the limit is believed. Raises DeliveryError."""
    headers = {"content-type": "application/json"} if content is not None else None
    try:
        async with governor.spacing(quota):
            answer = await http.call(method, path, route=route, content=content, headers=headers)
    except RetryLater as error:
        if error.status == 429:
            governor.slow_down(quota, max(error.after, _MIN_PAUSE))
        raise
    governor.observe(quota, answer.headers)
    return answer.json()


class YotpoApi:
    """One merchant's account. `changes` is for what must not be done twice."""

    endpoint = ANY_CALL

    def __init__(
        self,
        reads: Http,
        writes: Http,
        governor: RateLimiter,
        clock: Clock,
        record_usage: Callable[[Sequence[QuotaUsage]], Awaitable[None]],
    ) -> None:
        self.governor = governor
        self._reads = reads
        self._writes = writes
        self._clock = clock
        self._record_usage = record_usage
        self._catalogue: Catalogue | None = None
        self._catalogue_at = 0.0

    def now(self) -> Millis:
        return self._clock.now()

    async def customer(
        self, *, email: str | None = None, id: str | None = None, history: bool = False
    ) -> dict[str, Any] | None:
        """The customer object by address, else by the shop's id; None for an unknown one. Its
        permit was given by the caller. Raises DeliveryError."""
        lookup = {"customer_email": email} if email else {"customer_id": id or ""}
        query = {**lookup, "with_referral_code": "true"}
        if history:
            query["with_history"] = "true"
        try:
            found = await self._get(CUSTOMERS, query)
        except Blocked as error:
            if error.status == 404:
                return None
            raise
        if not isinstance(found, dict):
            raise AmbiguousError(Problem.ANSWER_UNREADABLE, "the answer is no JSON object")
        return found

    async def recent(self, cursor: str | None) -> RecentPage:
        """A page of recently updated customers, in whatever order Yotpo has. The caller has a
        permit. Raises DeliveryError."""
        query = {"per_page": str(PER_PAGE)} | ({"page_info": cursor} if cursor else {})
        found = await self._get(RECENT, query)
        customers = found.get("customers") if isinstance(found, dict) else None
        if not isinstance(customers, list):
            raise AmbiguousError(Problem.ANSWER_UNREADABLE, "the answer holds no list of customers")
        metadata = found.get("metadata")
        next_cursor = metadata.get("next_page_info") if isinstance(metadata, dict) else None
        return RecentPage(
            [item for item in customers if isinstance(item, dict)],
            next_cursor if isinstance(next_cursor, str) and next_cursor else None,
        )

    async def catalogue(self, *, backfill: bool = False) -> Catalogue:
        """The account's tiers and rewards, fetched at most once an hour. Asks for its own permits.
        Raises DeliveryError."""
        now = self._clock.monotonic()
        if self._catalogue is None or now - self._catalogue_at > _CATALOGUE_TTL:
            tiers, rewards = [await self._get_list(route, backfill) for route in (TIERS, REWARDS)]
            self._catalogue = Catalogue(
                [item["name"] for item in tiers if isinstance(item.get("name"), str)],
                [
                    (item["amount"], item["name"])
                    for item in rewards
                    if type(item.get("amount")) is int and isinstance(item.get("name"), str)
                ],
            )
            self._catalogue_at = now
        return self._catalogue

    async def adjust(self, body: Mapping[str, Any]) -> Any:
        """What Yotpo answers to an adjustment; it has been made then. The caller has a permit.
        Raises DeliveryError."""
        path, content = ADJUST.removeprefix("POST "), orjson.dumps(body)
        return await call(self._writes, self.governor, ANY_CALL, "POST", path, ADJUST, content)

    async def permit(self, *, backfill: bool = False) -> None:
        """Wait for quota for one call and save that it was granted."""
        await self.governor.acquire(ANY_CALL, self._record_usage, backfill=backfill)

    async def aclose(self) -> None:
        await self._reads.aclose()
        await self._writes.aclose()

    async def _get_list(self, route: str, backfill: bool) -> list[dict[str, Any]]:
        await self.permit(backfill=backfill)
        found = await self._get(route, {})
        return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []

    async def _get(self, route: str, query: Mapping[str, str]) -> Any:
        path = route.removeprefix("GET ") + (f"?{urlencode(query)}" if query else "")
        return await call(self._reads, self.governor, ANY_CALL, "GET", path, route)
