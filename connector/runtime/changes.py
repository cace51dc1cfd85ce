"""What has changed, for pages that are open: topics, never data."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Literal, get_args

from connector.ports import Clock

Topic = Literal["status", "dead-letters", "actions", "approvals", "backfills", "connections"]
TOPICS: tuple[Topic, ...] = get_args(Topic)

_COLLECT = 1.5
"""Seconds for which changes are collected before a subscriber gets them: no less than a status may
be given out (connector.service.latest_status), and less than the two seconds within which an open
page follows a change."""
_KEEP_ALIVE = 15.0


class Subscription:
    """Topics that changed since they were last given out. At most one of each, so that a slow
    subscriber costs no memory."""

    def __init__(self) -> None:
        self.topics: set[Topic] = set()
        self.changed = asyncio.Event()

    def add(self, topics: tuple[Topic, ...]) -> None:
        self.topics.update(topics)
        self.changed.set()

    def take(self) -> list[Topic]:
        found = sorted(self.topics)
        self.topics.clear()
        self.changed.clear()
        return found


class ChangeFeed:
    """Subscribers receive what has changed in this process."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._subscriptions: set[Subscription] = set()
        self._closed = asyncio.Event()

    def publish(self, *topics: Topic) -> None:
        for subscription in self._subscriptions:
            subscription.add(topics)

    def close(self) -> None:
        """End every subscription: the process stops."""
        self._closed.set()
        self.publish()

    @property
    def watched(self) -> bool:
        """Whether anybody would learn of a change."""
        return bool(self._subscriptions)

    async def changes(self) -> AsyncIterator[list[Topic]]:
        """The topics that changed; an empty list every 15 s in which nothing did. Ends with
        `close`. The first are all topics: they may have changed since the subscriber's page was
        made, or while it was not connected."""
        with self._subscribe() as subscription:
            subscription.add(TOPICS)
            while not self._closed.is_set():
                if not await self._clock.wait(subscription.changed, _KEEP_ALIVE):
                    yield []
                    continue
                await self._clock.wait(self._closed, _COLLECT)
                if topics := subscription.take():
                    yield topics

    @contextlib.contextmanager
    def _subscribe(self) -> Iterator[Subscription]:
        subscription = Subscription()
        self._subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)
