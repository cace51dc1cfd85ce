"""Live traffic: members of the JeriCommerce sandbox do things, and webhooks tell of them.

Delivery as the platform documents it: one POST an event, signed over the raw body (hex or base64:
not stated), up to 10 retries with exponential backoff on anything but 2xx.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import random
import uuid
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from connector.http import client
from connector.sandbox.jericommerce import JeriCommerceSandbox
from connector.sandbox.jericommerce_people import EVENTS, WEB, iso
from connector.sandbox.jericommerce_writes import Said

Post = Callable[..., Awaitable[Any]]
_CAMPAIGNS = ("spring", "summer", "autumn", "winter")
_BROWSERS = ("Safari 19", "Chrome 142", "Firefox 145")


@dataclass(frozen=True, slots=True)
class Webhook:
    """A webhook ready to be posted. `id` is the event's own, `customer` the person's."""

    id: str
    customer: str
    headers: dict[str, str]
    body: bytes


class Traffic:
    """Posts events to `url`, `rate` a second.

    `redelivered` is the share of posts that repeat an acknowledged event, `older` the share of
    events told in the older body, without `email`, of a person who was already told with it.
    `backoff` is the first pause before a retry in seconds; it doubles `retries` times.

    `sent` counts distinct events that were posted, `posts` every post, `redeliveries` the repeats
    on purpose. `acknowledged` holds the ids that were answered 2xx, `failed` those given up.
    """

    def __init__(
        self,
        jericommerce: JeriCommerceSandbox,
        url: str,
        *,
        rate: float = 20.0,
        seed: int = 1,
        signature: Literal["hex", "base64"] = "hex",
        backoff: float = 0.2,
        retries: int = 10,
        redelivered: float = 0.02,
        older: float = 0.02,
        concurrency: int = 16,
    ) -> None:
        self.sent = 0
        self.posts = 0
        self.redeliveries = 0
        self.acknowledged: set[str] = set()
        self.failed: set[str] = set()
        self._platform = jericommerce
        self._url = url
        self._rate = rate
        self._random = random.Random(seed)
        self._signature = signature
        self._backoff = backoff
        self._retries = retries
        self._redelivered = redelivered
        self._older = older
        self._concurrency = concurrency
        self._people = jericommerce.people
        self._told: set[str] = set()
        self._delivered: deque[Webhook] = deque(maxlen=200)
        # Every name comes once before chance decides, so that even a short show has all 18.
        self._first = list(EVENTS)
        self._random.shuffle(self._first)

    def make_event(self) -> tuple[dict[str, str], bytes]:
        """The headers and body of the next event; it has happened to its person."""
        made = self._next()
        return made.headers, made.body

    async def burst(self, n: int) -> None:
        """Post `n` new events as fast as they are taken; returns when each is settled."""
        await self._post_all(n, None)

    async def run(self, stop: asyncio.Event) -> None:
        """Post `rate` events a second until `stop`. An event that waits for a retry then is
        dropped and stands in neither `acknowledged` nor `failed`."""
        await self._post_all(None, stop)

    # ── making ───────────────────────────────────────────────────────────────────────────────────

    def _next(self) -> Webhook:
        if self._platform.waiting:
            return self._tell(self._platform.waiting.popleft())
        pick = self._random
        if self._first:
            name = self._first.pop()
        else:
            (name,) = pick.choices(list(EVENTS), [weight for weight, _ in EVENTS.values()])
        person = pick.choice(self._people)
        return self._tell(Said(name, person, self._platform.happen(name, person, pick)))

    def _tell(self, said: Said) -> Webhook:
        pick, person = self._random, said.person
        id = str(uuid.UUID(int=pick.getrandbits(128), version=4))
        body: dict[str, Any] = {"email": person.email, "id": id, "customerId": person.id}
        if person.id in self._told and pick.random() < self._older:
            del body["email"]
        if said.name == "Campaign assigned":
            body["campaignId"] = str(uuid.uuid5(uuid.NAMESPACE_DNS, pick.choice(_CAMPAIGNS)))
        if said.name in WEB:
            body["url"] = f"https://jeri.link/{self._platform.program}/loyalty/rewards"
            body["browser"] = pick.choice(_BROWSERS)
        body["createdAt"] = iso(self._platform.moment())
        body["properties"] = said.properties
        raw = orjson.dumps(body)
        return Webhook(id, person.id, self._headers(said.name, raw), raw)

    def _headers(self, name: str, raw: bytes) -> dict[str, str]:
        digest = hmac.digest(self._platform.webhook_secret.encode(), raw, hashlib.sha256)
        signed = digest.hex() if self._signature == "hex" else base64.b64encode(digest).decode()
        return {
            "content-type": "application/json",
            "x-jericommerce-event-type": name,
            "x-jericommerce-hmac-sha256": signed,
        }

    # ── posting ──────────────────────────────────────────────────────────────────────────────────

    async def _post_all(self, total: int | None, stop: asyncio.Event | None) -> None:
        stopped = stop or asyncio.Event()
        room = asyncio.Semaphore(self._concurrency)
        loop = asyncio.get_running_loop()
        due = loop.time()
        made = 0
        async with (
            client(timeout=10.0, max_connections=self._concurrency) as http,
            asyncio.TaskGroup() as group,
        ):
            while not stopped.is_set() and (total is None or made < total):
                await room.acquire()
                group.create_task(self._deliver(http.post, self._next(), stopped, room))
                made += 1
                if self._delivered and self._random.random() < self._redelivered:
                    self.redeliveries += 1
                    again = self._random.choice(self._delivered)
                    await room.acquire()
                    group.create_task(self._deliver(http.post, again, stopped, room, again=True))
                if total is None:
                    # A receiver that was away is not flooded with the time that was lost.
                    due = max(due + 1 / self._rate, loop.time() - 1.0)
                    await _until(stopped, due - loop.time())

    async def _deliver(
        self,
        post: Post,
        webhook: Webhook,
        stopped: asyncio.Event,
        room: asyncio.Semaphore,
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
                        self.acknowledged.add(webhook.id)
                        self._delivered.append(webhook)
                        if b'"email"' in webhook.body:
                            self._told.add(webhook.customer)
                    return
            if not again:
                self.failed.add(webhook.id)
        finally:
            room.release()

    async def _post(self, post: Post, webhook: Webhook) -> bool:
        self.posts += 1
        try:
            answer = await post(self._url, content=webhook.body, headers=webhook.headers)
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
