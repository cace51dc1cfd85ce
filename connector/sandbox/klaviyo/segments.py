"""Klaviyo's segments. Tests set the members; segment definitions are not emulated.

Source: the published spec. Guess: `profile_count` counts members.
"""

from __future__ import annotations

import re
from typing import Any

from starlette.datastructures import URL
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from connector.sandbox.klaviyo import members, reads
from connector.sandbox.klaviyo.account import AccountState
from connector.sandbox.klaviyo.errors import ApiJSON, unknown
from connector.sandbox.klaviyo.lists import MemberList

_BY = ("email", "phone_number", "profile_id")


class Segment(MemberList):
    """A segment: members that the API cannot change."""

    __slots__ = ()

    @property
    def id(self) -> str:
        """An id in Klaviyo's form: 6 characters."""
        return f"S{self.number:05d}"


class Segments:
    """All segments."""

    def __init__(self) -> None:
        self.all: list[Segment] = []
        self.processing: set[str] = set()
        """Ids of those whose members are being computed."""

    def create(self, name: str, at: float) -> Segment:
        """A new, empty segment."""
        segment = Segment(len(self.all), name, "", at, at)
        self.all.append(segment)
        return segment

    def get(self, id: str) -> Segment | None:
        """The segment of this id."""
        if not re.fullmatch(r"S\d{5}", id) or int(id[1:]) >= len(self.all):
            return None
        return self.all[int(id[1:])]


class SegmentApi:
    """The endpoints of segments."""

    def __init__(self, account: AccountState, segments: Segments) -> None:
        self._account = account
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
            if operator not in ("equals", "any") or name not in ("id", "name"):
                raise reads.InvalidParameter(
                    "filter", f"'{name}' cannot be filtered by '{operator}'."
                )
            found = [each for each in found if getattr(each, name) in values]
        size, start = reads.size_of(query, default=10, most=10), reads.offset_of(query)
        following = str(start + size) if len(found) > start + size else None
        page = [(self._view(each, request.url), each.id) for each in found[start : start + size]]
        document = reads.collection([view for view, _ in page], request.url, query, following)
        return ApiJSON(self._account.flows.include(query, request.url, page, document))

    async def _one(self, request: Request) -> Response:
        found, query = self._segment(request), request.query_params
        view = self._view(found, request.url)
        if query.get("additional-fields[segment]") == "profile_count":
            view["attributes"]["profile_count"] = len(found.members)
        document = {"data": view}
        shown = [(view, found.id)]
        return ApiJSON(self._account.flows.include(query, request.url, shown, document))

    async def _profiles(self, request: Request) -> Response:
        return ApiJSON(members.profiles(self._page(request), request.query_params, request.url))

    async def _ids(self, request: Request) -> Response:
        return ApiJSON(members.ids(self._page(request), request.query_params, request.url))

    def _view(self, found: Segment, url: URL) -> dict[str, Any]:
        return _view(found, url, found.id in self._segments.processing)

    def _page(self, request: Request) -> members.Page:
        people = self._segment(request)
        return members.page_of(self._account.memory, people, request.query_params, by=_BY)

    def _segment(self, request: Request) -> Segment:
        id = str(request.path_params["id"])
        found = self._segments.get(id)
        if found is None:
            raise unknown("segment", id)
        return found


def _view(found: Segment, url: URL, is_processing: bool) -> dict[str, Any]:
    place = f"{url.scheme}://{url.netloc}/api/segments/{found.id}"
    return {
        "type": "segment",
        "id": found.id,
        "attributes": {
            "name": found.name,
            "definition": None,
            "created": reads.iso(found.created),
            "updated": reads.iso(found.updated),
            "is_active": True,
            "is_processing": is_processing,
            "is_starred": False,
        },
        "relationships": {
            name: {
                "links": {
                    "self": f"{place}/relationships/{name}/",
                    "related": f"{place}/{name}/",
                }
            }
            for name in ("profiles", "tags", "flow-triggers")
        },
        "links": {"self": f"{place}/"},
    }
