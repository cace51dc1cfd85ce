"""The screen of the demo: a card for each connection, then Klaviyo, its quota and the last
problem."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from connector.domain.outcomes import Request
from connector.domain.wording import counted
from connector.service.status import QuotaStatus

_BARS = "▁▂▃▄▅▆▇█"
_BINS, _MINUTE = 20, 60.0


@dataclass(slots=True)
class Pulse:
    """Events of the last minute, as a sparkline."""

    _samples: deque[tuple[float, int]] = field(default_factory=deque)

    def add(self, at: float, total: int) -> None:
        """`total` events until the second `at`."""
        self._samples.append((at, total))
        while len(self._samples) > 1 and self._samples[1][0] <= at - _MINUTE:
            self._samples.popleft()

    def line(self) -> str:
        """One character for every three seconds, the newest last."""
        if not self._samples:
            return _BARS[0] * _BINS
        end = self._samples[-1][0]
        counts = [0] * _BINS
        for (_, before), (at, total) in zip(self._samples, list(self._samples)[1:], strict=False):
            age = min(_MINUTE - 0.001, end - at)
            counts[_BINS - 1 - int(age / _MINUTE * _BINS)] += total - before
        highest = max(1, *counts)
        return "".join(_BARS[round(n / highest * (len(_BARS) - 1))] for n in counts)


@dataclass(frozen=True, slots=True)
class Card:
    """What a marketer sees of one connection. `profiles` are those at Klaviyo that are as at the
    platform, of `people`; `members` those of its lists, None without one."""

    title: str
    received: int
    accepted: int
    waiting: int
    profiles: int
    people: int
    members: int | None
    pulse: str

    def render(self) -> Panel:
        grid = Table.grid(padding=(0, 1), expand=True)
        grid.add_column()
        grid.add_column(justify="right")
        rows = [
            ("events in", f"{self.received:,}"),
            ("accepted", f"{self.accepted:,}"),
            ("waiting", f"{self.waiting:,}"),
            ("profiles", f"{self.profiles:,}/{self.people:,} right"),
            *([("on lists", f"{self.members:,}")] if self.members is not None else []),
        ]
        for name, value in rows:
            grid.add_row(name, Text(value, style="bold"))
        return Panel(Group(grid, Text(self.pulse, style="green")), title=self.title)


def screen(
    cards: Sequence[Card],
    *,
    elapsed: float,
    events: int,
    profiles: int,
    quota: Sequence[QuotaStatus],
    failed: Request | None,
) -> RenderableType:
    """`failed` is the last request that failed."""
    row = Table.grid(expand=True)
    for _ in cards:
        row.add_column(ratio=1)
    row.add_row(*(card.render() for card in cards))
    lines = Table.grid(padding=(0, 2))
    busiest = max(quota, key=lambda use: use.used / max(1, use.allowed), default=None)
    for name, value in (
        ("Klaviyo", f"{counted(events, 'event')} recorded, {counted(profiles, 'profile')}"),
        ("quota", busiest.text if busiest else "nothing sent yet"),
        ("last problem", _problem(failed)),
        ("running", f"{elapsed:.0f} s, stop with Ctrl-C"),
    ):
        lines.add_row(Text(name, style="bold"), value)
    return Group(row, lines)


def _problem(failed: Request | None) -> str:
    if failed is None or failed.problem is None:
        return "none"
    problem = failed.problem
    return f"{problem} {problem.meaning} → {problem.remedy}"
