"""Live traffic: posts the webhooks of a platform's sandbox.

A `WebhookSource` generates the events. Delivery is the same for all platforms: one POST per event,
up to 10 retries with exponential backoff on anything but 2xx, and some events are sent twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from connector.net.http import client

Post = Callable[..., Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Webhook:
    """A webhook ready to be posted. `id`: the platform's id of the event. `suffix`: appended to the
    connection's URL ("/secret"). `on_accepted`: called when it is acknowledged."""

    id: str
    headers: dict[str, str]
    body: bytes
    suffix: str = ""
    on_accepted: Callable[[], None] = lambda: None


class WebhookSource(Protocol):
    """A sandbox that generates events."""

    def next_webhook(self, rng: random.Random) -> Webhook:
        """Make the next event happen, chosen by `rng`, and return its webhook. Events caused by
        calls to the sandbox's API come first."""


class Traffic:
    """Posts the webhooks of `webhook_source` to `url`, `rate` per second.

    `redelivery_share`: the share of posts that repeat an acknowledged event. `backoff`: the first
    delay before a retry in seconds; it doubles `retries` times.

    `sent`: number of distinct events. `posts`: number of posts. `redeliveries`: deliberate repeats.
    `acknowledged`: ids (by `id_of`) of the events answered 2xx. `failed`: ids of those given up.
    """

    def __init__(
        self,
        webhook_source: WebhookSource,
        url: str,
        *,
        rate: float = 20.0,
        seed: int = 1,
        backoff: float = 0.2,
        retries: int = 10,
        redelivery_share: float = 0.02,
        concurrency: int = 16,
        id_of: Callable[[Webhook], str] = lambda webhook: webhook.id,
    ) -> None:
        self.sent = 0
        self.posts = 0
        self.redeliveries = 0
        self.acknowledged: set[str] = set()
        self.failed: set[str] = set()
        self._webhook_source = webhook_source
        self._url = url
        self._rate = rate
        self._random = random.Random(seed)
        self._backoff = backoff
        self._retries = retries
        self._redelivery_share = redelivery_share
        self._concurrency = concurrency
        self._id_of = id_of
        self._delivered: deque[Webhook] = deque(maxlen=200)

    def make_event(self) -> tuple[dict[str, str], bytes]:
        """Make the next event happen; returns the headers and body of its webhook."""
        webhook = self._webhook_source.next_webhook(self._random)
        return webhook.headers, webhook.body

    async def burst(self, n: int) -> None:
        """Post `n` new events as fast as possible; returns when each is acknowledged or failed."""
        await self._post_all(n, None)

    async def run(self, stop: asyncio.Event) -> None:
        """Post `rate` events per second until `stop`. An event that waits for a retry then is
        dropped and is neither in `acknowledged` nor in `failed`."""
        await self._post_all(None, stop)

    # ── posting ──────────────────────────────────────────────────────────────────────────────────

    async def _post_all(self, total: int | None, stop: asyncio.Event | None) -> None:
        stopped = stop or asyncio.Event()
        capacity = asyncio.Semaphore(self._concurrency)
        loop = asyncio.get_running_loop()
        due = loop.time()
        count = 0
        async with (
            client(timeout=10.0) as http,
            asyncio.TaskGroup() as group,
        ):
            while not stopped.is_set() and (total is None or count < total):
                await capacity.acquire()
                webhook = self._webhook_source.next_webhook(self._random)
                group.create_task(self._deliver(http.post, webhook, stopped, capacity))
                count += 1
                if self._delivered and self._random.random() < self._redelivery_share:
                    self.redeliveries += 1
                    again = self._random.choice(self._delivered)
                    await capacity.acquire()
                    group.create_task(
                        self._deliver(http.post, again, stopped, capacity, again=True)
                    )
                if total is None:
                    # After an outage the receiver is not flooded with the missed events.
                    due = max(due + 1 / self._rate, loop.time() - 1.0)
                    await _until(stopped, due - loop.time())

    async def _deliver(
        self,
        post: Post,
        webhook: Webhook,
        stopped: asyncio.Event,
        capacity: asyncio.Semaphore,
        *,
        again: bool = False,
    ) -> None:
        try:
            self.sent += not again
            for attempt in range(self._retries + 1):
                if attempt and await _until(stopped, self._backoff * 2 ** (attempt - 1)):
                    return
                if await self._post(post, webhook):
                    if not again:
                        self.acknowledged.add(self._id_of(webhook))
                        self._delivered.append(webhook)
                        webhook.on_accepted()
                    return
            if not again:
                self.failed.add(self._id_of(webhook))
        finally:
            capacity.release()

    async def _post(self, post: Post, webhook: Webhook) -> bool:
        self.posts += 1
        try:
            url = self._url + webhook.suffix
            answer = await post(url, content=webhook.body, headers=webhook.headers)
        except Exception:
            # A platform treats every failure as a missing response.
            return False
        return bool(answer.is_success)


async def _until(stopped: asyncio.Event, seconds: float) -> bool:
    """Wait for `seconds` or until `stopped`; returns whether it was stopped."""
    if seconds > 0:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopped.wait(), seconds)
    return stopped.is_set()
