"""Which live flows hang on lists, segments and metrics.

Source: `include=flow-triggers` of Klaviyo's list, segment and metric reads, and GET /api/flows for
the flows that begin on a date kept at the profile. What Klaviyo answers a key without flows:read
is unverified (docs/unverified.md); 403 is taken to mean just that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from connector.domain.errors import Blocked
from connector.klaviyo.api import KlaviyoApi, unreadable
from connector.klaviyo.limits import GET_FLOWS, GET_LIST, GET_METRICS, GET_SEGMENT, GET_SEGMENTS
from connector.ports import Touched

_NOT_THIS_SHAPE = (AttributeError, KeyError, TypeError)
_WITH = "include=flow-triggers&fields[flow]=name,status,archived"
_LIVE = quote('equals(status,"live")', safe="")
_ON_A_DATE = "Date Based"


class FlowTriggers:
    """connector.ports.Flows."""

    def __init__(self, api: KlaviyoApi) -> None:
        self._api = api

    async def live(self, on: Touched) -> Sequence[str]:
        found: set[str] = set()
        for id in on.lists:
            found |= await self._of_one(GET_LIST, f"/api/lists/{id}?{_WITH}")
        for id in on.segments if not on.fields else ():
            found |= await self._of_one(GET_SEGMENT, f"/api/segments/{id}?{_WITH}")
        if on.fields:
            found |= await self._of_segments() | await self._of_dates()
        if on.metrics:
            found |= await self._of_metrics(on.metrics)
        return sorted(found)

    async def _of_one(self, route: str, path: str) -> set[str]:
        """Of one that is gone nothing hangs."""
        try:
            return _live(route, (await self._api.get(route, path)).get("included"))
        except Blocked as error:
            if error.status == 404:
                return set()
            raise

    async def _of_segments(self) -> set[str]:
        found: set[str] = set()
        async for page in self._api.documents(GET_SEGMENTS, f"/api/segments?{_WITH}"):
            found |= _live(GET_SEGMENTS, page.get("included"))
        return found

    async def _of_dates(self) -> set[str]:
        found: set[str] = set()
        path = f"/api/flows?filter={_LIVE}&fields[flow]=name,status,archived,trigger_type"
        async for page in self._api.documents(GET_FLOWS, path):
            found |= _live(GET_FLOWS, page["data"], only=_ON_A_DATE)
        return found

    async def _of_metrics(self, names: frozenset[str]) -> set[str]:
        found: set[str] = set()
        async for page in self._api.documents(GET_METRICS, f"/api/metrics?{_WITH}"):
            try:
                hanging = {
                    flow["id"]
                    for metric in page["data"]
                    if metric["attributes"]["name"] in names
                    for flow in metric["relationships"]["flow-triggers"].get("data") or ()
                }
                included = [x for x in page.get("included") or () if x["id"] in hanging]
            except _NOT_THIS_SHAPE as error:
                raise unreadable(GET_METRICS) from error
            found |= _live(GET_METRICS, included)
        return found


def _live(route: str, flows: Any, *, only: str | None = None) -> set[str]:
    """The names of those that send by themselves: draft and manual flows do not."""
    try:
        return {
            flow["attributes"].get("name") or flow["id"]
            for flow in flows or ()
            if flow["type"] == "flow"
            and flow["attributes"].get("status") == "live"
            and not flow["attributes"].get("archived")
            and only in (None, flow["attributes"].get("trigger_type"))
        }
    except _NOT_THIS_SHAPE as error:
        raise unreadable(route) from error
