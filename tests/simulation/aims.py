"""Traps: what happens at exactly the moment at which it hurts most, once."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from .database import Fault
from .process import Process

Moment = Literal["called", "committed", "sent", "carried out"]
"""A call of the store is made, or was committed and its caller does not know yet; a request leaves,
or was carried out and its sender does not know yet."""

Spring = Callable[[Process], Fault | None]
"""What happens to the process. The fault is that of a call of the store."""


@dataclass(slots=True)
class Trap:
    """Springs at `times` moments whose name matches, after `skips` of them."""

    moment: Moment
    name: re.Pattern[str]
    spring: Spring
    times: int = 1
    skips: int = 0


class Traps:
    """The traps of a world, until they have sprung or are cleared. `sprung`: the names of those
    that did."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self.sprung: list[str] = []
        self._traps: list[Trap] = []
        self._note = note

    def set(
        self, moment: Moment, name: str, spring: Spring, *, times: int = 1, skips: int = 0
    ) -> None:
        """`name`: a regular expression for `SqlOutbox.claim` or `POST /v1/events`."""
        self._traps.append(Trap(moment, re.compile(name), spring, times, skips))

    def clear(self) -> None:
        self._traps.clear()

    def meet(self, process: Process, moment: Moment, name: str) -> Fault | None:
        """This moment has come in a process that runs."""
        if process.condition != "running":
            return None
        for trap in self._traps:
            if trap.moment != moment or not trap.name.search(name):
                continue
            if trap.skips:
                trap.skips -= 1
                continue
            trap.times -= 1
            if trap.times <= 0:
                self._traps.remove(trap)
            self.sprung.append(name)
            self._note(f"{process.name}: {name} {moment}")
            return trap.spring(process)
        return None
