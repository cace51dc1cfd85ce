"""`customers/recent` of the Yotpo double: what no page tells of it may be nasty here."""

from __future__ import annotations

import base64
import random
from collections import deque
from typing import Any, Literal

Order = Literal["newest", "oldest", "shuffled"]
_WALKS_KEPT = 20


class Listing:
    """Customers as they were `lag` seconds ago, page by page. A walk shows one moment, in `order`;
    with `repeats_cursor` its last page points at its second one."""

    def __init__(self, order: Order, lag: float, repeats_cursor: bool) -> None:
        self._order = order
        self._lag = lag
        self._repeats_cursor = repeats_cursor
        self._listed: dict[str, dict[str, Any]] = {}
        self._updated: deque[tuple[float, str, dict[str, Any] | None]] = deque()
        self._walks: dict[str, list[dict[str, Any]]] = {}
        self._begun = 0

    def note(self, at: float, id: str, view: dict[str, Any] | None) -> None:
        """From this moment on the customer is shown like this, or is none."""
        self._updated.append((at, id, view))

    def page(
        self, cursor: str | None, size: int, now: float
    ) -> tuple[list[dict[str, Any]], str | None]:
        """A page, and where the next begins. KeyError or ValueError for a cursor of nobody's."""
        walk, at = (self._begin(now), 0) if cursor is None else _unpack(cursor)
        shown, following = self._walks[walk], at + size
        more = following < len(shown)
        if self._repeats_cursor and not more and at:
            return shown[at:], _pack(walk, size)
        return shown[at : at + size], _pack(walk, following) if more else None

    def _begin(self, now: float) -> str:
        while self._updated and self._updated[0][0] <= now - self._lag:
            _, id, view = self._updated.popleft()
            self._listed.pop(id, None)
            if view is not None:
                self._listed[id] = view
        shown = list(self._listed.values())
        if self._order == "newest":
            shown.reverse()
        elif self._order == "shuffled":
            random.Random(self._begun).shuffle(shown)
        self._begun += 1
        name = f"walk{self._begun}"
        self._walks[name] = shown
        self._walks.pop(f"walk{self._begun - _WALKS_KEPT}", None)
        return name


def _pack(walk: str, at: int) -> str:
    return base64.urlsafe_b64encode(f"{walk}:{at}".encode()).decode()


def _unpack(cursor: str) -> tuple[str, int]:
    walk, _, at = base64.urlsafe_b64decode(cursor).decode().partition(":")
    return walk, int(at)
