"""Contract of connector.ports.Approvals (guarantees 6 and 9)."""

from __future__ import annotations

from connector.domain.lanes import Millis
from connector.ports import Store

_NOW = Millis(1_000_000)


class ApprovalsContract:
    """Subclass it beside a fixture `store` that yields an empty store."""

    async def test_an_approval_is_requested_once_and_keeps_its_newest_detail(
        self, store: Store
    ) -> None:
        first = await store.approvals.request("acme", "backfill", "people", {"people": 1}, now=_NOW)
        later = Millis(_NOW + 5)
        again = await store.approvals.request(
            "acme", "backfill", "people", {"people": 2}, now=later
        )
        assert (again.id, again.requested_at, again.state) == (first.id, _NOW, "pending")
        assert [a.detail for a in await store.approvals.find()] == [{"people": 2}]

    async def test_a_decision_is_valid_until_the_approval_is_closed(self, store: Store) -> None:
        requested = await store.approvals.request("acme", "backfill", "people", {}, now=_NOW)
        await store.approvals.request("acme", "backfill", "list", {}, now=_NOW)
        decided = await store.approvals.decide(requested.id, approved=True, by="ana", now=_NOW)
        assert decided
        assert (decided.state, decided.decided_by) == ("approved", "ana")
        assert await store.approvals.decide(requested.id, approved=False, by="bo", now=_NOW) is None
        again = await store.approvals.request("acme", "backfill", "people", {"x": 1}, now=_NOW)
        assert (again.id, again.state, again.detail) == (requested.id, "approved", {})
        assert [a.subject for a in await store.approvals.find()] == ["list"]
        assert len(await store.approvals.find(pending=False)) == 2
        assert [a.subject for a in await store.approvals.about("acme", "backfill")] == [
            "people",
            "list",
        ]
        assert await store.approvals.about("acme", "cap") == []
        assert await store.approvals.about("other", "backfill") == []
        await store.approvals.close("acme", "backfill", "people")
        reopened = await store.approvals.request("acme", "backfill", "people", {}, now=_NOW)
        assert reopened.state == "pending"
        assert reopened.id != requested.id

    async def test_an_unknown_approval_cannot_be_decided(self, store: Store) -> None:
        assert await store.approvals.decide(7, approved=True, by="ana", now=_NOW) is None
