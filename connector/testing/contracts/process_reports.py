"""Contract of connector.ports.ProcessReports."""

from __future__ import annotations

from connector.domain.lanes import Millis
from connector.ports import ProcessState, Store

_NOW = Millis(1_790_000_000_000)


def _state(holder: str, after: int = 0, *offers: str, document: str = "{}") -> ProcessState:
    return ProcessState(holder, Millis(_NOW + after), frozenset(offers), document)


class ProcessReportsContract:
    """Subclass it beside a fixture `store` that yields an empty store."""

    async def test_the_last_report_of_each_process_is_kept(self, store: Store) -> None:
        reports = store.process_reports
        assert await reports.latest() is None
        await reports.save(_state("one", 0, "store"))
        await reports.save(_state("two", 1_000, "SANDBX", "store"))
        await reports.save(_state("one", 5_000, "store", document='{"a": 1}'))
        one = _state("one", 5_000, "store", document='{"a": 1}')
        two = _state("two", 1_000, "SANDBX", "store")
        assert await reports.latest() == one
        assert await reports.since(_NOW) == [one, two]
        assert await reports.since(Millis(_NOW + 1_001)) == [one]

    async def test_a_process_that_withdraws_offers_nothing(self, store: Store) -> None:
        reports = store.process_reports
        await reports.save(_state("one", 0, "store"))
        await reports.withdraw(_state("one", 1))
        assert await reports.latest() == _state("one", 1)
        await reports.take(["one"])
        await reports.withdraw(_state("one", 2))
        assert await reports.latest() is None

    async def test_old_reports_are_deleted_but_the_newest(self, store: Store) -> None:
        reports = store.process_reports
        await reports.save(_state("one"))
        await reports.save(_state("two", 1))
        assert await reports.prune(before=Millis(_NOW + 10)) == 1
        assert await reports.latest() == _state("two", 1)

    async def test_a_report_is_taken_once(self, store: Store) -> None:
        reports = store.process_reports
        await reports.save(_state("one"))
        await reports.save(_state("two", 1))
        assert await reports.take(["one", "other"]) == [_state("one")]
        assert await reports.take(["one", "other"]) == []
        assert await reports.since(_NOW) == [_state("two", 1)]
