"""What every store must remember of notifications."""

from __future__ import annotations

from connector.domain.lanes import Millis
from connector.ports import Store

_NOW = Millis(1_790_000_000_000)


class NoticesContract:
    """Mix it into a store's contract."""

    async def test_a_sent_notice_is_kept_until_it_is_resolved(self, store: Store) -> None:
        notices = store.notifications
        assert await notices.sent("one") == {}
        await notices.record("one", {"lane a": "broken", "dead a": "3 dead"}, resolved=[], now=_NOW)
        await notices.record("two", {"lane a": "broken"}, resolved=[], now=_NOW)
        await notices.record("one", {"lane b": "broken"}, resolved=["lane a"], now=_NOW)
        assert await notices.sent("one") == {"dead a": "3 dead", "lane b": "broken"}
        assert await notices.sent("two") == {"lane a": "broken"}

    async def test_sending_a_notice_again_keeps_the_newest_text(self, store: Store) -> None:
        await store.notifications.record("one", {"lane a": "K401"}, resolved=[], now=_NOW)
        await store.notifications.record("one", {"lane a": "K403"}, resolved=["lane a"], now=_NOW)
        assert await store.notifications.sent("one") == {"lane a": "K403"}
