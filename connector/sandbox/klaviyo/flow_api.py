"""Klaviyo's endpoint for flows; the flows themselves are in `flows.py`."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from connector.sandbox.klaviyo import reads, views
from connector.sandbox.klaviyo.documents import Documents
from connector.sandbox.klaviyo.flows import Flow, Flows

_TEXT = {
    "equals": str.__eq__,
    "contains": str.__contains__,
    "starts-with": str.startswith,
    "ends-with": str.endswith,
}
_FILTERS = {
    "id": ("any",),
    "name": tuple(_TEXT),
    "status": ("equals",),
    "archived": ("equals",),
    "trigger_type": ("equals",),
}


class FlowApi:
    """The endpoint of flows."""

    def __init__(self, flows: Flows, documents: Documents) -> None:
        self._flows = flows
        self._documents = documents
        self.routes = [Route("/api/flows", self._all, methods=["GET"])]

    async def _all(self, request: Request) -> Response:
        self._flows.require_scope()
        query, found = request.query_params, self._flows.all
        for operator, name, values in reads.terms(query.get("filter", "")):
            reads.allow(operator, name, _FILTERS)
            found = [flow for flow in found if _matches(flow, operator, name, values)]
        size, start = reads.size_of(query, default=50, most=50), reads.offset_of(query)
        following = str(start + size) if len(found) > start + size else None
        page = [views.flow(flow, request.url) for flow in found[start : start + size]]
        includes = ("flow-actions", "tags")
        return self._documents.page(request, page, following, includes=includes)


def _matches(flow: Flow, operator: str, name: str, values: list[str]) -> bool:
    if name == "archived":
        return flow.archived == (values[0] == "true")
    text = str(getattr(flow, "trigger" if name == "trigger_type" else name))
    return text in values if operator == "any" else bool(_TEXT[operator](text, values[0]))
