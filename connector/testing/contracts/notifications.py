"""Contract of connector.ports.Notifications."""

from __future__ import annotations

from connector.domain.lanes import Millis
from connector.ports import Store

_NOW = Millis(1_790_000_000_000)


class NotificationsContract:
    """Subclass it beside a fixture `store` that yields an empty store."""

    async def test_a_sent_notification_is_kept_until_it_is_resolved(self, store: Store) -> None:
        sent = store.notifications
        assert await sent.sent("one") == {}
        await sent.record("one", {"lane a": "broken", "dead a": "3 dead"}, resolved=[], now=_NOW)
        await sent.record("two", {"lane a": "broken"}, resolved=[], now=_NOW)
        await sent.record("one", {"lane b": "broken"}, resolved=["lane a"], now=_NOW)
        assert await sent.sent("one") == {"dead a": "3 dead", "lane b": "broken"}
        assert await sent.sent("two") == {"lane a": "broken"}

    async def test_sending_a_notification_again_keeps_the_newest_text(self, store: Store) -> None:
        await store.notifications.record("one", {"lane a": "K401"}, resolved=[], now=_NOW)
        await store.notifications.record("one", {"lane a": "K403"}, resolved=["lane a"], now=_NOW)
        assert await store.notifications.sent("one") == {"lane a": "K403"}
