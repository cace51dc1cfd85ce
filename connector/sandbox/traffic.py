"""Live traffic: a platform's members do things, and its webhooks tell of them.

What happens and how it is told is the double's own (`Teller`); here is what all platforms do alike:
one POST an event, up to 10 retries with exponential backoff on anything but 2xx, and now and then
an event twice.
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
    """A webhook ready to be posted. `id` is what the platform calls the event, `suffix` what
    follows the connection's address ("/secret"); `taken` is called once it was acknowledged."""

    id: str
    headers: dict[str, str]
    body: bytes
    suffix: str = ""
    on_accepted: Callable[[], None] = lambda: None


class WebhookSource(Protocol):
    """A double whose members do things."""

    def next_webhook(self, rng: random.Random) -> Webhook:
        """The next thing happens, `pick` decides which and to whom, and this tells of it. What
        callers of the double's API made happen comes first."""


class Traffic:
    """Posts what `teller` says to `url`, `rate` a second.

    `redelivered` is the share of posts that repeat an acknowledged event. `backoff` is the first
    pause before a retry in seconds; it doubles `retries` times.

    `sent` counts distinct events that were posted, `posts` every post, `redeliveries` the repeats
    on purpose. `acknowledged` holds the events that were answered 2xx, `failed` those given up, by
    what `known_as` calls them.
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
        """The headers and body of the next event; it has happened to its person."""
        made = self._webhook_source.next_webhook(self._random)
        return made.headers, made.body

    async def burst(self, n: int) -> None:
        """Post `n` new events as fast as they are taken; returns when each is settled."""
        await self._post_all(n, None)

    async def run(self, stop: asyncio.Event) -> None:
        """Post `rate` events a second until `stop`. An event that waits for a retry then is
        dropped and stands in neither `acknowledged` nor `failed`."""
        await self._post_all(None, stop)

    # ── posting ──────────────────────────────────────────────────────────────────────────────────

    async def _post_all(self, total: int | None, stop: asyncio.Event | None) -> None:
        stopped = stop or asyncio.Event()
        capacity = asyncio.Semaphore(self._concurrency)
        loop = asyncio.get_running_loop()
        due = loop.time()
        made = 0
        async with (
            client(timeout=10.0, max_connections=self._concurrency) as http,
            asyncio.TaskGroup() as group,
        ):
            while not stopped.is_set() and (total is None or made < total):
                await capacity.acquire()
                webhook = self._webhook_source.next_webhook(self._random)
                group.create_task(self._deliver(http.post, webhook, stopped, capacity))
                made += 1
                if self._delivered and self._random.random() < self._redelivery_share:
                    self.redeliveries += 1
                    again = self._random.choice(self._delivered)
                    await capacity.acquire()
                    group.create_task(
                        self._deliver(http.post, again, stopped, capacity, again=True)
                    )
                if total is None:
                    # A receiver that was away is not flooded with the time that was lost.
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
            # Whatever kept an answer from coming, the platform only knows that none came.
            return False
        return bool(answer.is_success)


async def _until(stopped: asyncio.Event, seconds: float) -> bool:
    """Wait so long, or until `stopped`, and say whether it was that."""
    if seconds > 0:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopped.wait(), seconds)
    return stopped.is_set()
