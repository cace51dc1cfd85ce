"""Status data as a person reads it: ages, times, lanes and links."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal

from connector.domain.lanes import find_lane_kind


def format_age(seconds: float | None) -> str:
    """`3.2 s`, `12 min`, `4 h`, `2.0 d`; a dash for None."""
    if seconds is None:
        return "-"
    for limit, size, unit in ((60, 1, "s"), (3600, 60, "min"), (86_400, 3600, "h")):
        if seconds < limit:
            return f"{seconds / size:.1f} {unit}" if size == 1 else f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86_400:.1f} d"


def format_time(
    millis: int | None, precision: Literal["seconds", "milliseconds"] = "seconds"
) -> str:
    """`2026-01-31T12:00:00Z` for milliseconds since 1970; `never` for None."""
    if millis is None:
        return "never"
    time = datetime.fromtimestamp(millis / 1000, UTC).replace(tzinfo=None)
    return time.isoformat(timespec=precision) + "Z"


def lane_label(lane: dict[str, Any]) -> str:
    """`events → klaviyo`; a lane that reads people from a platform is `people ← yotpo`."""
    return find_lane_kind(lane["kind"], lane["destination"]).title(lane["destination"])


def link_lines(link: dict[str, Any]) -> list[str]:
    """One audience or segment link in up to three lines: full sync, numbers, problem."""
    head = f"{link['connection']}  {link['source']} → {link['target']}"
    if "here" not in link:
        return [f"{head}: {link['detail']}"]
    synced = "never fully synced"
    if link["full_sync_age"] is not None:
        synced = f"{link['members']:,} members, full sync {format_age(link['full_sync_age'])} ago"
    lines = [f"{head}: {synced}" + (", scanning now" if link["scanning"] else "")]
    numbers = f"here {link['here']:,}, there {link['there']:,}, in both {link['both']:,}"
    for key in ("waiting", "unconfirmed", "foreign", "removed_by_hand", "without_address"):
        if link[key]:
            numbers += f", {key.replace('_', ' ')} {link[key]:,}"
    if link["kind"] == "audience":
        numbers += f"; list read back {format_age(link['read_back_age'])} ago"
    lines.append(f"        {numbers}")
    if link["problem"]:
        lines.append(f"        {link['problem']} {link['meaning']}: {link['detail']}")
    return lines
