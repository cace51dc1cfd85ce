"""Klaviyo's endpoints for segments; the segments themselves are in `segments.py`.

Source: the published spec. Guess: `profile_count` counts members.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from connector.sandbox.klaviyo import members, reads
from connector.sandbox.klaviyo.account import AccountState
from connector.sandbox.klaviyo.documents import Documents
from connector.sandbox.klaviyo.errors import unknown
from connector.sandbox.klaviyo.segments import Segment, Segments

_BY = ("email", "phone_number", "profile_id")
_INCLUDES = ("flow-triggers", "tags")
_FILTERS = {
    "id": ("equals", "any"),
    "name": ("equals", "any"),
    "created": ("greater-than",),
    "updated": ("greater-than",),
    "is_active": ("equals", "any"),
    "is_starred": ("equals",),
}


class SegmentApi:
    """The endpoints of segments."""

    def __init__(self, account: AccountState, segments: Segments, documents: Documents) -> None:
        self._account = account
        self._documents = documents
        self._segments = segments
        self.routes = [
            Route("/api/segments", self._all, methods=["GET"]),
            Route("/api/segments/{id}", self._one, methods=["GET"]),
            Route("/api/segments/{id}/profiles", self._profiles, methods=["GET"]),
            Route("/api/segments/{id}/relationships/profiles", self._ids, methods=["GET"]),
        ]

    async def _all(self, request: Request) -> Response:
        query, found = request.query_params, self._segments.all
        for operator, name, values in reads.terms(query.get("filter", "")):
            reads.allow(operator, name, _FILTERS)
            found = [each for each in found if _matches(each, name, values)]
        size, start = reads.size_of(query, default=10, most=10), reads.offset_of(query)
        following = str(start + size) if len(found) > start + size else None
        page = [self._segments.view(each, request.url) for each in found[start : start + size]]
        return self._documents.page(request, page, following, includes=_INCLUDES)

    async def _one(self, request: Request) -> Response:
        found, query = self._segment(request), request.query_params
        view = self._segments.view(found, request.url)
        if query.get("additional-fields[segment]") == "profile_count":
            view["attributes"]["profile_count"] = len(found.members)
        return self._documents.one(request, view, includes=_INCLUDES)

    async def _profiles(self, request: Request) -> Response:
        page = members.profiles(self._page(request), request.query_params, request.url)
        return self._documents.page(request, *page)

    async def _ids(self, request: Request) -> Response:
        return self._documents.page(request, *members.ids(self._page(request)))

    def _page(self, request: Request) -> members.Page:
        people = self._segment(request)
        return members.page_of(self._account.memory, people, request.query_params, by=_BY)

    def _segment(self, request: Request) -> Segment:
        id = str(request.path_params["id"])
        found = self._segments.get(id)
        if found is None:
            raise unknown("segment", id)
        return found


def _matches(segment: Segment, name: str, values: list[str]) -> bool:
    if name in ("created", "updated"):
        return bool(getattr(segment, name) > reads.parse_time(values[0]))
    if name in ("is_active", "is_starred"):
        # Every segment is active, and none is starred.
        return ("true" if name == "is_active" else "false") in values
    return getattr(segment, name) in values
