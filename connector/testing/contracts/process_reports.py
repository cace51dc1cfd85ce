"""Contract of connector.ports.ProcessReports."""

from __future__ import annotations

from connector.domain.lanes import Millis
from connector.ports import Store

_NOW = Millis(1_790_000_000_000)


class ProcessReportsContract:
    """Subclass it beside a fixture `store` that yields an empty store."""

    async def test_the_last_report_of_each_resource_is_kept(self, store: Store) -> None:
        reports = store.process_reports
        assert await reports.load("store") is None
        await reports.save("store", "{}", now=_NOW)
        await reports.save("other", "[]", now=_NOW)
        await reports.save("store", '{"a": 1}', now=Millis(_NOW + 5_000))
        assert await reports.load("store") == ('{"a": 1}', _NOW + 5_000)
        assert await reports.load("other") == ("[]", _NOW)
