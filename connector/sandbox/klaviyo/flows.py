"""Klaviyo's flows: name, status and trigger.

Source: the published spec (statuses, `trigger_type`, `include=flow-triggers`).
Guess: a key without flows:read is answered 403 by every request that would include flows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import URL, QueryParams
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from connector.sandbox.klaviyo import reads
from connector.sandbox.klaviyo.errors import ApiJSON, Refused, errors

TRIGGERS = frozenset(
    ("Added to List", "Date Based", "Low Inventory", "Metric", "Price Drop", "Unconfigured")
)


@dataclass(frozen=True, slots=True)
class Flow:
    """`trigger_target`: the id of a list or segment, or a metric's name; else empty."""

    id: str
    name: str
    status: str
    trigger: str
    trigger_target: str
    archived: bool


class Flows:
    """All flows. `readable`: whether the key has the scope flows:read."""

    def __init__(self) -> None:
        self.all: list[Flow] = []
        self.readable = True

    def add(
        self, name: str, status: str, trigger: str, trigger_target: str, *, archived: bool = False
    ) -> Flow:
        if trigger not in TRIGGERS:
            raise ValueError(f"{trigger!r} is not a trigger of flows")
        flow = Flow(f"F{len(self.all):05d}", name, status, trigger, trigger_target, archived)
        self.all.append(flow)
        return flow

    def require_scope(self) -> None:
        if not self.readable:
            detail = "Your API key does not have the scope flows:read."
            raise Refused(errors(403, [(detail, {"pointer": "/data/"})], code="permission_denied"))

    def include(
        self,
        query: QueryParams,
        url: URL,
        shown: Iterable[tuple[dict[str, Any], str]],
        document: dict[str, Any],
    ) -> dict[str, Any]:
        """Add the flows triggered by each (resource, id or name), if the query includes them."""
        if "flow-triggers" not in query.get("include", "").split(","):
            return document
        self.require_scope()
        included: dict[str, dict[str, Any]] = {}
        for resource, trigger_target in shown:
            triggered = [flow for flow in self.all if flow.trigger_target == trigger_target]
            relationships = resource.setdefault("relationships", {})
            relationships.setdefault("flow-triggers", {})["data"] = [
                {"type": "flow", "id": flow.id} for flow in triggered
            ]
            included |= {flow.id: view(flow, url) for flow in triggered}
        return {**document, "included": list(included.values())}


class FlowApi:
    """The endpoint of flows."""

    def __init__(self, flows: Flows, now: Callable[[], float]) -> None:
        self._flows = flows
        self.routes = [Route("/api/flows", self._all, methods=["GET"])]

    async def _all(self, request: Request) -> Response:
        self._flows.require_scope()
        query, found = request.query_params, self._flows.all
        for operator, name, values in reads.terms(query.get("filter", "")):
            if operator != "equals" or name not in ("status", "name"):
                raise reads.InvalidParameter(
                    "filter", f"'{name}' cannot be filtered by '{operator}'."
                )
            found = [flow for flow in found if getattr(flow, name) == values[0]]
        size, start = reads.size_of(query, default=50, most=50), reads.offset_of(query)
        following = str(start + size) if len(found) > start + size else None
        page = [view(flow, request.url) for flow in found[start : start + size]]
        return ApiJSON(reads.collection(page, request.url, query, following))


def view(flow: Flow, url: URL) -> dict[str, Any]:
    """A flow as a resource."""
    place = f"{url.scheme}://{url.netloc}/api/flows/{flow.id}"
    return {
        "type": "flow",
        "id": flow.id,
        "attributes": {
            "name": flow.name,
            "status": flow.status,
            "archived": flow.archived,
            "created": "2026-01-01T00:00:00+00:00",
            "updated": "2026-01-01T00:00:00+00:00",
            "trigger_type": flow.trigger,
        },
        "links": {"self": f"{place}/"},
    }
