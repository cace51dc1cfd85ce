"""Announces what workers change by themselves, for open pages."""

from __future__ import annotations

from connector.ports import Store
from connector.runtime.changes import ChangeFeed, Topic


class StoreChanges:
    """Compares approvals, backfills and groups with what they were: workers request approvals,
    continue runs and scan groups, and no count says so. Costs nothing while no page is open."""

    def __init__(self, store: Store, feed: ChangeFeed) -> None:
        self._store = store
        self._feed = feed
        self._seen: dict[Topic, object] = {}

    async def compare(self) -> None:
        """Publish the topics that have changed since the last call. Raises StoreError."""
        if not self._feed.watched:
            self._seen = {}
            return
        runs = await self._store.backfills.find()
        now: dict[Topic, object] = {
            "approvals": await self._store.approvals.find(),
            "backfills": runs,
            "status": await self._store.member_groups.all(),
        }
        changed = {topic for topic, rows in now.items() if self._seen.get(topic) != rows}
        if any(run.state == "running" for run in runs):
            changed.add("backfills")  # its people are counted in the lanes, not in the run
        self._seen = now
        if changed:
            self._feed.publish(*changed)
