"""Status data as a person reads it: ages, times and links, and the console that shows them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from connector.cli import terminal
from connector.domain.errors import Problem
from connector.domain.remedies import at_command_line
from connector.domain.wording import counted, format_age
from connector.runtime.printable import one_line

if TYPE_CHECKING:
    from rich.console import RenderableType

_PIPE_WIDTH = 10_000


def print_wide(part: Callable[[int], RenderableType]) -> None:
    """Print to stdout, as wide as the terminal, what `part` makes for that many columns. In a pipe
    no line is wrapped, cut or padded."""
    if sys.stdout.isatty():
        console = terminal.console(highlight=False)
        console.print(part(console.width))
        return
    console = terminal.console(width=_PIPE_WIDTH, highlight=False)
    with console.capture() as capture:
        console.print(part(_PIPE_WIDTH))
    for line in capture.get().splitlines():
        print(line.rstrip())


def format_ago(at: int | None, now: int) -> str:
    """`12 min ago`, `never`; both in ms since 1970."""
    return "never" if at is None else f"{format_age((now - at) / 1000)} ago"


def format_time(
    millis: int | None, precision: Literal["seconds", "milliseconds"] = "seconds"
) -> str:
    """`2026-01-31T12:00:00Z (13:00 CET)` for milliseconds since 1970; `never` for None. The local
    time is left out where it is UTC."""
    if millis is None:
        return "never"
    time = datetime.fromtimestamp(millis / 1000, UTC)
    text = time.replace(tzinfo=None).isoformat(timespec=precision) + "Z"
    local = time.astimezone()
    if not local.utcoffset():
        return text
    return f"{text} ({local:%H:%M %Z})"


def link_lines(link: dict[str, Any]) -> list[str]:
    """One audience or segment link in up to four lines: full sync, numbers, problem, remedy."""
    head = f"{link['connection']}  {link['source']} → {link['target']}"
    if "here" not in link:
        return [one_line(f"{head}: {link['detail']}")]
    synced = "never fully synced"
    if link["full_sync_age"] is not None:
        members = counted(link["members"], "member")
        synced = f"{members}, full sync {format_age(link['full_sync_age'])} ago"
    lines = [f"{head}: {synced}" + (", scanning now" if link["scanning"] else "")]
    numbers = f"here {link['here']:,}, there {link['there']:,}, in both {link['both']:,}"
    for key in ("waiting", "unconfirmed", "foreign", "removed_by_hand", "without_address"):
        if link[key]:
            numbers += f", {key.replace('_', ' ')} {link[key]:,}"
    if link["kind"] == "audience":
        age = link["read_back_age"]
        numbers += (
            "; list never read back" if age is None else (f"; list read back {format_age(age)} ago")
        )
    lines.append(f"        {numbers}")
    if link["problem"]:
        todo = at_command_line(Problem.from_code(link["problem"]).advice, link["connection"])
        lines.append(f"        {link['problem']} {link['meaning']}: {link['detail']}")
        lines.append(f"        what to do: {todo}")
    return [one_line(line) for line in lines]
