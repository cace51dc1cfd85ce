"""The import of past events, a slice of people at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from connector.domain.errors import AmbiguousError, Problem
from connector.domain.lanes import Millis
from connector.domain.records import Appended, Record
from connector.ports import BackfillPage, PersonKey, PersonRef
from connector.sync.backfill.history_import import SLICE_SIZE, HistoryImport, SlicedSource


class People:
    """A backfill source of two pages; the first has a row without a person."""

    def __init__(self) -> None:
        self.requested: list[str | None] = []

    async def total(self) -> int | None:
        return 56

    async def page(self, cursor: str | None) -> BackfillPage:
        self.requested.append(cursor)
        first = [PersonKey(None, f"p{n}@example.com") for n in range(50)]
        if cursor is None:
            return BackfillPage(
                "50", True, keys=first, counts={"rows": 51, "invalid_rows": 1}, notes=["!"]
            )
        rest = [PersonKey(None, f"q{n}@example.com") for n in range(5)]
        return BackfillPage("55", False, keys=rest, counts={"rows": 5})


class FakeHistory:
    """connector.ports.History: one event a day for each person."""

    def __init__(self) -> None:
        self.requested: list[str | None] = []
        self.broken = False

    async def events(self, ref: PersonRef, since: Millis | None) -> Sequence[Record]:
        assert ref.backfill
        if self.broken:
            raise AmbiguousError(Problem.TIMED_OUT)
        self.requested.append(ref.email)
        return [
            Record(f"{ref.email} {day}", f"x:{ref.email} {day}", "Past", Millis(day), b"{}")
            for day in range(since or 0, 10)
        ]


class FakeOutbox:
    """Recognises records by their keys, as an outbox does."""

    def __init__(self) -> None:
        self.keys: set[str] = set()

    async def __call__(self, records: Sequence[Record]) -> Appended:
        new = {record.key for record in records} - self.keys
        self.keys |= new
        return Appended(len(new), len(records) - len(new))


ARGS: dict[str, Any] = {"since": 2, "until": 7, "dry_run": False}


async def walk(slices: SlicedSource, cursor: str | None = None) -> list[BackfillPage]:
    found = []
    while True:
        page = await slices.page(cursor)
        found.append(page)
        if not page.more:
            return found
        cursor = page.cursor


async def test_slices_contain_every_person_once_and_every_row_once() -> None:
    source = People()
    pages = await walk(SlicedSource(source))
    emails = [key.email for page in pages for key in page.keys]
    assert len(emails) == len(set(emails)) == 55
    assert max(len(page.keys) for page in pages) == SLICE_SIZE
    assert sum(page.counts.get("rows", 0) for page in pages) == 56
    assert [note for page in pages for note in page.notes] == ["!"]
    assert source.requested == [None, "50"]


async def test_slices_resume_within_a_page() -> None:
    pages = await walk(SlicedSource(People()))
    for number, page in enumerate(pages[:-1]):
        rest = await walk(SlicedSource(People()), page.cursor)
        assert [p.keys for p in rest] == [p.keys for p in pages[number + 1 :]]


async def test_only_events_in_the_range_are_sent_and_a_second_run_sends_none() -> None:
    fake_history, outbox = FakeHistory(), FakeOutbox()
    history_import = HistoryImport(fake_history, outbox)
    page = BackfillPage("x", True, keys=[PersonKey("1", "ana@example.com")], counts={"rows": 1})
    result = await history_import.import_page(page, ARGS)
    assert (result.cursor, result.more, list(result.keys)) == ("x", True, [])
    assert result.counts == {"rows": 1, "imported": 5, "already_known": 0}
    assert outbox.keys == {f"ana@example.com {day}" for day in range(2, 7)}
    again = await history_import.import_page(page, ARGS)
    assert again.counts == {"rows": 1, "imported": 0, "already_known": 5}


async def test_a_dry_run_stores_nothing() -> None:
    outbox = FakeOutbox()
    page = BackfillPage("x", True, keys=[PersonKey("1", "ana@example.com")])
    result = await HistoryImport(FakeHistory(), outbox).import_page(page, {**ARGS, "dry_run": True})
    assert result.counts == {"would_import": 5}
    assert not outbox.keys


async def test_an_unreachable_platform_ends_the_slice() -> None:
    fake_history = FakeHistory()
    fake_history.broken = True
    with pytest.raises(AmbiguousError):
        await HistoryImport(fake_history, FakeOutbox()).import_page(
            BackfillPage("x", True, keys=[PersonKey("1", None)]), ARGS
        )
