"""Waking a connection's lanes: each hands work to the next, and they do so in a cycle."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, Literal

from connector.pipeline.dispatch import Dispatcher

LaneRole = Literal["events", "reads", "writes", "actions", "memberships"]


class LaneSignals:
    """Wakes the lanes of one connection by role. A role without a lane is ignored, so a part can
    name the lane that follows it before that lane is built."""

    def __init__(self) -> None:
        self._lanes: defaultdict[LaneRole, list[Dispatcher[Any]]] = defaultdict(list)

    def add(self, role: LaneRole, dispatcher: Dispatcher[Any]) -> None:
        self._lanes[role].append(dispatcher)

    def wake(self, *roles: LaneRole) -> None:
        for role in roles:
            for dispatcher in self._lanes[role]:
                dispatcher.wake()
