"""A small chart of what was delivered in the last hours, as parts of an SVG and in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from connector.service.status import Throughput

WIDTH, HEIGHT = 300, 44
_MINUTES_PER_BAR = 2


@dataclass(frozen=True, slots=True)
class Chart:
    """Bars for events and a line for profiles, both per minute and on one scale. `bars` and `line`
    are the paths of an SVG of WIDTH × HEIGHT, `highest` is the top of the scale, `text` says the
    same to those who do not see it."""

    bars: str
    line: str
    bar_width: int
    highest: int
    text: str

    @property
    def empty(self) -> bool:
        return self.highest == 0


def chart(throughput: Throughput) -> Chart:
    events, profiles = _per_minute(throughput.events), _per_minute(throughput.profiles)
    highest = max(*events, *profiles)
    step = WIDTH // len(events)
    return Chart(
        bars="".join(
            f"M{place * step + step // 2} {HEIGHT}V{_y(value, highest)}"
            for place, value in enumerate(events)
            if value
        ),
        line="M"
        + " ".join(
            f"{place * step + step // 2} {_y(value, highest)}"
            for place, value in enumerate(profiles)
        )
        if any(profiles)
        else "",
        bar_width=step - 1,
        highest=round(highest),
        text=f"Last {len(throughput.events) // 60} hours, per minute. "
        f"Events: {_words(events)}. Profiles: {_words(profiles)}.",
    )


def _per_minute(counts: Sequence[int]) -> list[float]:
    """Means of neighbouring minutes, the oldest first."""
    return [
        sum(counts[at : at + _MINUTES_PER_BAR]) / _MINUTES_PER_BAR
        for at in range(0, len(counts), _MINUTES_PER_BAR)
    ]


def _y(value: float, highest: float) -> int:
    """A value that is not zero is seen."""
    if not value:
        return HEIGHT
    return min(HEIGHT - 1, round(HEIGHT * (1 - value / highest)) + 1)


def _words(values: Sequence[float]) -> str:
    if not any(values):
        return "none"
    mean = sum(values) / len(values)
    return (
        f"{mean:,.1f} on average, {max(values):,.0f} at most"
        if mean < 10
        else (f"{mean:,.0f} on average, {max(values):,.0f} at most")
    )
