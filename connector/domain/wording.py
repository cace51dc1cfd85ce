"""Numbers, durations and names in the words of a message."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

_NAMES_SHOWN = 20


def counted(count: int, one: str, many: str = "") -> str:
    """`1 webhook`, `1,204 webhooks`; `many` where the plural is irregular."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def listed(names: Sequence[str]) -> str:
    """`events`, `events and lists`, `events, profiles and lists`."""
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def low_disk(path: object, free: int, needed: int) -> str:
    """How much is free and needed, in bytes, on the disk of `path`, where it is a file's."""
    where = f"the disk of {path}" if path else "the disk"
    return (
        f"{where} has {format_size(free)} free and needs {format_size(needed)} ([store] min_free)"
    )


def format_size(size: int) -> str:
    """`312 MB`, `1.5 GB`: powers of 1,000, as disks are sold and `df -H` counts."""
    if round(size / 1e6) < 1000:
        return f"{size / 1e6:.0f} MB"
    return f"{size / 1e9:.1f} GB"


def format_age(seconds: float | None) -> str:
    """`3.2 s`, `12 min`, `4 h`, `2.0 d`; a dash for None. Never negative: clocks may differ."""
    if seconds is None:
        return "-"
    seconds = max(0.0, seconds)
    for limit, size, unit in ((60, 1, "s"), (3600, 60, "min"), (86_400, 3600, "h")):
        shown = f"{seconds / size:.1f}" if size == 1 else f"{seconds / size:.0f}"
        if float(shown) < limit / size:
            return f"{shown} {unit}"
    return f"{seconds / 86_400:.1f} d"


def closest(name: str, available: Iterable[str], most: int = 3) -> list[str]:
    """The most similar names, best first, whatever their capitals."""
    folded = {each.casefold(): each for each in available}
    found = difflib.get_close_matches(name.casefold(), folded, n=most)
    return [folded[each] for each in found]


def offered(name: str, available: Iterable[str]) -> str:
    """What follows a name that does not exist: `, did you mean 'b'?; available: a, b`."""
    names = sorted(set(available))
    close = closest(name, names, 1)
    hint = f", did you mean {close[0]!r}?" if close else ""
    shown = ", ".join(names[:_NAMES_SHOWN]) or "none"
    if len(names) > _NAMES_SHOWN:
        shown += f" and {len(names) - _NAMES_SHOWN:,} more"
    return f"{hint}; available: {shown}"
