"""Klaviyo's segments. Tests set the members; segment definitions are not emulated.

Source: the published spec. Guess: `profile_count` counts members.
"""

from __future__ import annotations

import re

from starlette.datastructures import URL

from connector.sandbox.klaviyo import views
from connector.sandbox.klaviyo.lists import MemberList


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

    def view(self, found: Segment, url: URL) -> views.Resource:
        """The segment as a resource."""
        return views.segment(found, url, is_processing=found.id in self.processing)
