"""The past, a few people at a time: what is asked for, what is kept, what is told live instead."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from connector.domain.errors import Problem, Unknown
from connector.domain.lanes import (
    Millis,
)
from connector.domain.records import (
    Appended,
    Record,
)
from connector.ports import Fed, Named, Whom
from connector.sync.backfill.history_import import SLICE, Historian, Slices


class People:
    """A backfill source of two pages; the first has a row without a person."""

    def __init__(self) -> None:
        self.asked: list[str | None] = []

    async def total(self) -> int | None:
        return 56

    async def page(self, cursor: str | None) -> Fed:
        self.asked.append(cursor)
        first = [Named(None, f"p{n}@example.com") for n in range(50)]
        if cursor is None:
            return Fed("50", True, named=first, counts={"rows": 51, "invalid_rows": 1}, notes=["!"])
        rest = [Named(None, f"q{n}@example.com") for n in range(5)]
        return Fed("55", False, named=rest, counts={"rows": 5})


class Past:
    """connector.ports.History: an event a day for everybody."""

    def __init__(self) -> None:
        self.asked: list[str | None] = []
        self.broken = False

    async def events(self, who: Whom, since: Millis | None) -> Sequence[Record]:
        assert who.backfill
        if self.broken:
            raise Unknown(Problem.TIMED_OUT)
        self.asked.append(who.email)
        days = range(since or 0, 10)
        return [
            Record(f"{who.email} {d}", f"x:{who.email} {d}", "Past", Millis(d), b"{}") for d in days
        ]


class Kept:
    """Keeps records by their keys, as an outbox does."""

    def __init__(self) -> None:
        self.keys: set[str] = set()

    async def __call__(self, records: Sequence[Record]) -> Appended:
        new = {record.key for record in records} - self.keys
        self.keys |= new
        return Appended(len(new), len(records) - len(new))


ARGS: dict[str, Any] = {"since": 2, "until": 7, "dry_run": False}


async def walk(slices: Slices, cursor: str | None = None) -> list[Fed]:
    found = []
    while True:
        page = await slices.page(cursor)
        found.append(page)
        if not page.more:
            return found
        cursor = page.cursor


async def test_slices_hold_everybody_once_and_every_row_once() -> None:
    source = People()
    pages = await walk(Slices(source))
    names = [name.email for page in pages for name in page.named]
    assert len(names) == len(set(names)) == 55
    assert max(len(page.named) for page in pages) == SLICE
    assert sum(page.counts.get("rows", 0) for page in pages) == 56
    assert [note for page in pages for note in page.notes] == ["!"]
    assert source.asked == [None, "50"]


async def test_slices_go_on_within_a_page() -> None:
    pages = await walk(Slices(People()))
    for number, page in enumerate(pages[:-1]):
        rest = await walk(Slices(People()), page.cursor)
        assert [p.named for p in rest] == [p.named for p in pages[number + 1 :]]


async def test_only_what_lies_between_is_told_and_a_second_time_nothing() -> None:
    past, kept = Past(), Kept()
    historian = Historian(past, kept)
    page = Fed("x", True, named=[Named("1", "ana@example.com")], counts={"rows": 1})
    told = await historian.tell(page, ARGS)
    assert (told.cursor, told.more, list(told.named)) == ("x", True, [])
    assert told.counts == {"rows": 1, "told": 5, "known": 0}
    assert kept.keys == {f"ana@example.com {day}" for day in range(2, 7)}
    again = await historian.tell(page, ARGS)
    assert again.counts == {"rows": 1, "told": 0, "known": 5}


async def test_a_dry_run_keeps_nothing() -> None:
    kept = Kept()
    page = Fed("x", True, named=[Named("1", "ana@example.com")])
    told = await Historian(Past(), kept).tell(page, {**ARGS, "dry_run": True})
    assert told.counts == {"would_tell": 5}
    assert not kept.keys


async def test_a_platform_that_does_not_answer_ends_the_slice() -> None:
    past = Past()
    past.broken = True
    with pytest.raises(Unknown):
        await Historian(past, Kept()).tell(Fed("x", True, named=[Named("1", None)]), ARGS)
