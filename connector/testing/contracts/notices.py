"""What every store must remember of notifications."""

from __future__ import annotations

from connector.domain.lanes import (
    Millis,
)
from connector.ports import Store

_NOW = Millis(1_790_000_000_000)


class NoticesContract:
    """Mix it into a store's contract."""

    async def test_what_a_target_was_told_is_kept_until_it_is_over(self, store: Store) -> None:
        notices = store.notices
        assert await notices.told("one") == {}
        await notices.tell("one", {"lane a": "broken", "dead a": "3 dead"}, over=[], now=_NOW)
        await notices.tell("two", {"lane a": "broken"}, over=[], now=_NOW)
        await notices.tell("one", {"lane b": "broken"}, over=["lane a"], now=_NOW)
        assert await notices.told("one") == {"dead a": "3 dead", "lane b": "broken"}
        assert await notices.told("two") == {"lane a": "broken"}

    async def test_telling_again_keeps_the_newest_text(self, store: Store) -> None:
        await store.notices.tell("one", {"lane a": "K401"}, over=[], now=_NOW)
        await store.notices.tell("one", {"lane a": "K403"}, over=["lane a"], now=_NOW)
        assert await store.notices.told("one") == {"lane a": "K403"}
