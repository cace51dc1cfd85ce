"""Yotpo's loyalty API (v2): a method per route.

Source: loyaltyapi.yotpo.com.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from connector.domain.errors import AmbiguousError, Problem, RetryLater
from connector.net.auth import HeaderKey
from connector.net.http import ApiResponse, Http
from connector.net.rate_limit import RateLimiter
from connector.platforms.json_api import JsonApi
from connector.platforms.kit import NOT_APPLIED, Kit
from connector.platforms.yotpo.settings import Settings

CUSTOMERS = "GET /api/v2/customers"
RECENT = "GET /api/v2/customers/recent"
TIERS = "GET /api/v2/vip_tiers"
REWARDS = "GET /api/v2/redemption_options"
ADJUST = "POST /api/v2/points/adjust"

QUOTA = "Yotpo loyalty API"
"""The one limit counts all calls of a merchant."""
PER_PAGE = 100
_CATALOGUE_TTL = 3600.0
"""Seconds for which tiers and rewards are not fetched again."""
_MIN_PAUSE = 1.0
"""Yotpo's own advice for a 429 without Retry-After."""
_BUSY = 423
"""The customer's record is being written: nothing was done."""


@dataclass(frozen=True, slots=True)
class RecentPage:
    """`next_cursor` is where the next page begins, None at the end."""

    customers: Sequence[dict[str, Any]]
    next_cursor: str | None


class SpacedApi(JsonApi):
    """An API that answers 429 to few calls at once: its calls are spaced, and what it says about
    the limit is followed."""

    async def call(
        self, http: Http, method: str, path: str, *, route: str, body: Any = None
    ) -> ApiResponse:
        try:
            async with self.limiter.spacing(self.endpoint):
                response = await super().call(http, method, path, route=route, body=body)
        except RetryLater as error:
            if error.status == 429:
                self.limiter.slow_down(self.endpoint, max(error.after, _MIN_PAUSE))
            raise
        self.limiter.observe(self.endpoint, response.headers)
        return response


class YotpoApi(SpacedApi):
    """One merchant's account. A method uses one permit of its caller unless it says otherwise, and
    raises DeliveryError."""

    def __init__(self, settings: Settings, kit: Kit, limiter: RateLimiter) -> None:
        super().__init__(kit, limiter, QUOTA)
        key = HeaderKey("x-api-key", settings.api_key)

        def credential() -> Mapping[str, str]:
            return {"x-guid": settings.guid, **key()}

        self._reads = self.client(settings.base_url, credential, NOT_APPLIED | {_BUSY})
        self._writes = self.client(settings.base_url, credential, kit.retry_statuses)
        self._catalogue: Mapping[str, Any] = {}
        self._catalogue_at: float | None = None

    async def customer(
        self, *, email: str | None = None, id: str | None = None, history: bool = False
    ) -> dict[str, Any] | None:
        """The customer object by e-mail address, else by the shop's id; None for an unknown
        person."""
        lookup = {"customer_email": email} if email else {"customer_id": id or ""}
        query = {**lookup, "with_referral_code": "true"}
        if history:
            query["with_history"] = "true"
        return await self.find_object(self._reads, _path(CUSTOMERS, query), route=CUSTOMERS)

    async def recent(self, cursor: str | None) -> RecentPage:
        """A page of recently updated customers. Yotpo documents no order."""
        query = {"per_page": str(PER_PAGE)} | ({"page_info": cursor} if cursor else {})
        found = await self._get(RECENT, query)
        customers = found.get("customers") if isinstance(found, dict) else None
        if not isinstance(customers, list):
            raise AmbiguousError(
                Problem.ANSWER_UNREADABLE, "the response holds no list of customers"
            )
        metadata = found.get("metadata")
        next_cursor = metadata.get("next_page_info") if isinstance(metadata, dict) else None
        return RecentPage(
            [item for item in customers if isinstance(item, dict)],
            next_cursor if isinstance(next_cursor, str) and next_cursor else None,
        )

    async def catalogue(self, *, backfill: bool = False) -> Mapping[str, Any]:
        """The account's `tiers`, from the lowest up, and `rewards`, as Yotpo lists them; fetched
        at most once an hour. Requests its own permits."""
        now = self.clock.monotonic()
        if self._catalogue_at is None or now - self._catalogue_at > _CATALOGUE_TTL:
            self._catalogue = {
                "tiers": await self._get_list(TIERS, backfill),
                "rewards": await self._get_list(REWARDS, backfill),
            }
            self._catalogue_at = now
        return self._catalogue

    async def adjust(self, body: Mapping[str, Any]) -> Any:
        """The JSON of the response to an adjustment, which has been applied then. Not
        idempotent."""
        response = await self.call(self._writes, "POST", _path(ADJUST), route=ADJUST, body=body)
        return response.json()

    async def _get_list(self, route: str, backfill: bool) -> list[dict[str, Any]]:
        await self.permit(backfill=backfill)
        found = await self._get(route)
        return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []

    async def _get(self, route: str, query: Mapping[str, str] | None = None) -> Any:
        return (await self.call(self._reads, "GET", _path(route, query), route=route)).json()


def _path(route: str, query: Mapping[str, str] | None = None) -> str:
    path = route.partition(" ")[2]
    return f"{path}?{urlencode(query)}" if query else path
