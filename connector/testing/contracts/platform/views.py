"""What views and snapshots may hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from connector.mapping import VIEW_PATHS
from connector.mapping.vocabulary import OPEN_PATHS
from connector.ports import PersonSnapshot, Stream
from connector.testing.fakes.ports import READS

_ROOTS = {word.partition(".")[0] for word in VIEW_PATHS}
_GROUPS = ("tier", "next_tier", "next_reward", "event")


def check_view(view: Mapping[str, Any], *, event: bool) -> None:
    assert set(view) <= _ROOTS, f"undocumented fields: {set(view) - _ROOTS}"
    for group in _GROUPS:
        if group in view:
            assert isinstance(view[group], dict)
            known = {w.partition(".")[2] for w in VIEW_PATHS if w.startswith(f"{group}.")}
            assert set(view[group]) <= known, f"undocumented fields in {group}"
    assert event == ("event" in view)
    if event:
        assert isinstance(view["event"].get("name"), str)
    assert "raw" in view, "raw must hold the platform's own object"


def check_snapshot(snapshot: PersonSnapshot) -> None:
    for word in VIEW_PATHS:
        value: Any = snapshot.view
        for part in word.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value is not None and not word.startswith("event"):
            parts = word.split(".")
            above = {".".join(parts[: n + 1]) for n in range(len(parts))}
            if word in OPEN_PATHS and snapshot.covers >= {f"{word}.{key}" for key in value}:
                continue  # a list that leaves some keys out covers those it has
            assert above & snapshot.covers, f"the view has {word}, which the read does not cover"


async def walk(stream: Stream, cursor: str | None = None) -> list[Any]:
    pages, cursors = [], {cursor}
    while True:
        page = await stream.page(cursor, READS, backfill=True)
        pages.append(page)
        if not page.more:
            return pages
        assert page.cursor not in cursors, "a cursor is repeated"
        assert len(pages) < 1_000, "a stream does not end"
        cursor = page.cursor
        cursors.add(cursor)
