"""Which live flows are triggered by lists, segments and metrics.

Source: `include=flow-triggers` of Klaviyo's list, segment and metric reads, and GET /api/flows for
the flows that start on a date in the profile. What Klaviyo answers a key without flows:read is
unverified (docs/unverified.md); a 403 is taken to mean that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from connector.domain.errors import Blocked
from connector.klaviyo.api import KlaviyoApi, documented_shape
from connector.klaviyo.limits import GET_FLOWS, GET_LIST, GET_METRICS, GET_SEGMENT, GET_SEGMENTS
from connector.ports import AffectedResources

_INCLUDE_FLOWS = "include=flow-triggers&fields[flow]=name,status,archived"
_LIVE_FILTER = quote('equals(status,"live")', safe="")
_DATE_TRIGGER = "Date Based"


class FlowTriggers:
    """connector.ports.Flows."""

    def __init__(self, api: KlaviyoApi) -> None:
        self._api = api

    async def live(self, affected: AffectedResources) -> Sequence[str]:
        found: set[str] = set()
        for id in affected.lists:
            found |= await self._flows_of(GET_LIST, f"/api/lists/{id}?{_INCLUDE_FLOWS}")
        for id in affected.segments if not affected.fields else ():
            found |= await self._flows_of(GET_SEGMENT, f"/api/segments/{id}?{_INCLUDE_FLOWS}")
        if affected.fields:
            found |= await self._segment_flows() | await self._date_flows()
        if affected.metrics:
            found |= await self._metric_flows(affected.metrics)
        return sorted(found)

    async def _flows_of(self, route: str, path: str) -> set[str]:
        """None where the list or segment is gone."""
        try:
            return _live_names(route, (await self._api.get(route, path)).get("included"))
        except Blocked as error:
            if error.status == 404:
                return set()
            raise

    async def _segment_flows(self) -> set[str]:
        found: set[str] = set()
        async for page in self._api.documents(GET_SEGMENTS, f"/api/segments?{_INCLUDE_FLOWS}"):
            found |= _live_names(GET_SEGMENTS, page.get("included"))
        return found

    async def _date_flows(self) -> set[str]:
        found: set[str] = set()
        path = f"/api/flows?filter={_LIVE_FILTER}&fields[flow]=name,status,archived,trigger_type"
        async for page in self._api.documents(GET_FLOWS, path):
            found |= _live_names(GET_FLOWS, page["data"], trigger_type=_DATE_TRIGGER)
        return found

    async def _metric_flows(self, names: frozenset[str]) -> set[str]:
        found: set[str] = set()
        async for page in self._api.documents(GET_METRICS, f"/api/metrics?{_INCLUDE_FLOWS}"):
            with documented_shape(GET_METRICS):
                triggered = {
                    flow["id"]
                    for metric in page["data"]
                    if metric["attributes"]["name"] in names
                    for flow in metric["relationships"]["flow-triggers"].get("data") or ()
                }
                included = [x for x in page.get("included") or () if x["id"] in triggered]
            found |= _live_names(GET_METRICS, included)
        return found


def _live_names(route: str, flows: Any, *, trigger_type: str | None = None) -> set[str]:
    """The names of the flows that send without a person: not drafts, not manual ones."""
    with documented_shape(route):
        return {
            flow["attributes"].get("name") or flow["id"]
            for flow in flows or ()
            if flow["type"] == "flow"
            and flow["attributes"].get("status") == "live"
            and not flow["attributes"].get("archived")
            and trigger_type in (None, flow["attributes"].get("trigger_type"))
        }
