"""`customers/recent` of the Yotpo sandbox, with adverse variants of undocumented behaviour."""

from __future__ import annotations

import base64
import random
from collections import deque
from typing import Any, Literal

Order = Literal["newest", "oldest", "shuffled"]
_SNAPSHOTS_KEPT = 20


class Listing:
    """Pages of the customers as of `lag` seconds ago. All pages of one walk show the same snapshot,
    in `order`. `repeats_cursor`: the last page's cursor points at the second page."""

    def __init__(self, order: Order, lag: float, repeats_cursor: bool) -> None:
        self._order = order
        self._lag = lag
        self._repeats_cursor = repeats_cursor
        self._listed: dict[str, dict[str, Any]] = {}
        self._updated: deque[tuple[float, str, dict[str, Any] | None]] = deque()
        self._snapshots: dict[str, list[dict[str, Any]]] = {}
        self._started = 0

    def note(self, at: float, id: str, view: dict[str, Any] | None) -> None:
        """Record the customer's view at time `at`; None: removed."""
        self._updated.append((at, id, view))

    def page(
        self, cursor: str | None, size: int, now: float
    ) -> tuple[list[dict[str, Any]], str | None]:
        """(customers, cursor of the next page). Unknown cursor: raises KeyError or ValueError."""
        snapshot_id, at = (self._take_snapshot(now), 0) if cursor is None else _unpack(cursor)
        shown, following = self._snapshots[snapshot_id], at + size
        more = following < len(shown)
        if self._repeats_cursor and not more and at:
            return shown[at:], _pack(snapshot_id, size)
        return shown[at : at + size], _pack(snapshot_id, following) if more else None

    def _take_snapshot(self, now: float) -> str:
        while self._updated and self._updated[0][0] <= now - self._lag:
            _, id, view = self._updated.popleft()
            self._listed.pop(id, None)
            if view is not None:
                self._listed[id] = view
        shown = list(self._listed.values())
        if self._order == "newest":
            shown.reverse()
        elif self._order == "shuffled":
            random.Random(self._started).shuffle(shown)
        self._started += 1
        name = f"walk{self._started}"
        self._snapshots[name] = shown
        self._snapshots.pop(f"walk{self._started - _SNAPSHOTS_KEPT}", None)
        return name


def _pack(snapshot_id: str, at: int) -> str:
    return base64.urlsafe_b64encode(f"{snapshot_id}:{at}".encode()).decode()


def _unpack(cursor: str) -> tuple[str, int]:
    snapshot_id, _, at = base64.urlsafe_b64decode(cursor).decode().partition(":")
    return snapshot_id, int(at)
