"""Waking a connection's lanes: each hands work to the next, and they do so in a cycle."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

from connector.domain.lanes import LaneKind, Millis
from connector.pipeline.dispatch import Dispatcher
from connector.ports import Lease


class LaneSignals:
    """Wakes the lanes of one connection by their kind. A kind without a lane is ignored, so a part
    can name the lane that follows it before that lane is built. `on_elsewhere` is called where
    another process runs the lanes, which then looks for what is due."""

    def __init__(
        self, lease: Lease | None = None, on_elsewhere: Callable[[], None] = lambda: None
    ) -> None:
        self._lease = lease
        self._on_elsewhere = on_elsewhere
        self._lanes: defaultdict[LaneKind, list[Dispatcher[Any]]] = defaultdict(list)
        self._successor: LaneSignals | None = None

    def add(self, dispatcher: Dispatcher[Any]) -> None:
        self._lanes[dispatcher.lane.lane_kind].append(dispatcher)

    def forward_to(self, successor: LaneSignals) -> None:
        """The lanes were replaced: what a call that is still under way stores is for the new
        ones."""
        self._successor = successor

    def wake_at(self, lanes: Mapping[LaneKind, Millis]) -> None:
        """Wake these lanes when their entries are due."""
        if self._successor:
            self._successor.wake_at(lanes)
            return
        self._hint()
        for kind, due in lanes.items():
            for dispatcher in self._lanes[kind]:
                dispatcher.wake_at(due)

    def wake(self, *kinds: LaneKind) -> None:
        if self._successor:
            self._successor.wake(*kinds)
            return
        self._hint()
        for kind in kinds:
            for dispatcher in self._lanes[kind]:
                dispatcher.wake()

    def _hint(self) -> None:
        if self._lease and not self._lease.valid():
            self._on_elsewhere()
