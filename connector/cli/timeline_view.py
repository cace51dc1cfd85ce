"""What `connector explain` shows of one person."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from connector.cli.format import format_time
from connector.runtime.printable import one_line


def timeline(found: Mapping[str, Any]) -> RenderableType:
    """A person's timeline and fields (connector.service.views.timeline_view). What does not fit
    into the terminal continues below its own column."""
    email = one_line(found["email"] or "no address")
    parts: list[RenderableType] = [
        Text(f"{email}  (platform id {one_line(found['platform_id'] or 'unknown')})"),
        _table(map(_entry, found["timeline"]), indent=2, last=4),
    ]
    if found["read"]["unknown_since"]:
        since = format_time(found["read"]["unknown_since"])
        parts.append(Text(f"  unknown to the platform since {since}"))
    if found["fields"]:
        read_at = format_time(found["read"]["at"])
        parts.append(Text(f"  as read {read_at}, writes {found['write']['state']}:"))
        parts.append(_table(map(_field, sorted(found["fields"].items())), indent=4, last=2))
    return Group(*parts)


def _entry(entry: Mapping[str, Any]) -> tuple[str, ...]:
    request = entry["request"]
    answer = f"{request['endpoint']} → {request['status'] or 'no response'}" if request else ""
    problem = f"{entry['problem']} {one_line(entry['detail'])}" if entry["problem"] else ""
    return (
        format_time(entry["at"], "milliseconds"),
        entry["what"],
        one_line(entry["name"]),
        entry["state"],
        "  ".join(text for text in (answer, problem) if text),
    )


def _field(field: tuple[str, Mapping[str, Any]]) -> tuple[str, ...]:
    name, found = field
    mark = "confirmed" if found["confirmed"] else "not confirmed"
    return name, mark, "unset" if found["value"] is None else json.dumps(found["value"])


def _table(rows: Iterable[tuple[str, ...]], *, indent: int, last: int) -> RenderableType:
    """Columns of which only the names and the `last` one are wrapped."""
    table = Table.grid(padding=(0, 2, 0, 0))
    for column in range(last + 1):
        wraps = column in (last - 2, last) and last > 2
        table.add_column(overflow="fold", no_wrap=not wraps and column != last)
    for row in rows:
        table.add_row(*map(Text, row))
    return Padding(table, (0, 0, 0, indent))
