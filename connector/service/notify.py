"""Notifications of what needs attention: `[[notify]]`.

One worker watches, and one per target sends, so that a target that does not answer delays no other
and never gets two POSTs at once. What a target was sent is kept in the store, so a restart neither
repeats nor loses a notification; a POST whose answer is lost may be sent twice. While the store
fails, which is itself notified, what was sent is kept in memory and saved afterwards.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal

import orjson

from connector.config import Notify
from connector.domain.attention import AttentionItem, store_item
from connector.domain.errors import DeliveryError, Problem, StoreError
from connector.domain.lanes import Millis
from connector.net.retry import Backoff, retry_read
from connector.ports import Clock, Notifications
from connector.runtime import log
from connector.service.process import DEFAULT_PATIENCE

CHECK_INTERVAL = 5.0
STARTUP_GRACE = 60.0
"""Seconds after a start before an item counts as resolved: what only the process knows, such as a
platform that fails, needs that time to show again."""

AttentionSource = Callable[[float], Awaitable[Sequence[AttentionItem]]]
"""What needs a person now, given the seconds that a remote side may be away before it counts."""

Post = Callable[[str, bytes], Awaitable[int]]
"""POSTs a JSON body to an address and returns the status. Raises DeliveryError without quoting the
address, which is a credential."""


@dataclass(frozen=True, slots=True)
class Target:
    """One `[[notify]]`, by its place in the file. `patience` in seconds. `same`: how many before it
    have the same URL."""

    number: int
    url: str = field(repr=False)
    format: Literal["json", "slack"]
    patience: float = DEFAULT_PATIENCE
    same: int = 0

    @property
    def id(self) -> str:
        """Identifies it in the store by its URL, without storing that."""
        text = f"{self.url} {self.same}" if self.same else self.url
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def __str__(self) -> str:
        return f"notify {self.number} ({self.format})"


@dataclass(frozen=True, slots=True)
class Notice:
    """What one POST says: key → text of what was raised and of what was resolved."""

    raised: Mapping[str, str]
    resolved: Mapping[str, str]

    def body(self, target: Target, source: str, now: int) -> bytes:
        """`source` is the public URL of this connector, for those who run several."""
        if target.format == "slack":
            return orjson.dumps({"text": self._text(source)})
        at = datetime.fromtimestamp(now / 1000, UTC).isoformat(timespec="seconds")
        return orjson.dumps(
            {
                "connector": source,
                "at": at,
                "raised": _as_items(self.raised),
                "resolved": _as_items(self.resolved),
            }
        )

    def _text(self, source: str) -> str:
        lines = [f"needs you: {text}" for text in self.raised.values()]
        lines += [f"resolved: {text}" for text in self.resolved.values()]
        return _escape_slack("\n".join([f"connector {source}", *lines]))


def _as_items(found: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "text": text} for key, text in found.items()]


def _escape_slack(text: str) -> str:
    """The three characters that mean something in a Slack message."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def targets(configured: Sequence[Notify]) -> list[Target]:
    """Those that are switched on; an empty address is off."""
    before: Counter[str] = Counter()
    found = []
    for number, notify in enumerate(configured, 1):
        if url := notify.url.get_secret_value():
            found.append(Target(number, url, notify.format, notify.patience, before[url]))
            before[url] += 1
    return found


async def record_damage(
    notices: Notifications, configured: Sequence[Notify], *, now: Millis
) -> None:
    """Record that all targets were sent the damage of the store that this one replaces. Raises
    StoreError."""
    item = store_item(StoreError(Problem.STORE_DAMAGED, "the store was damaged, and is replaced"))
    for target in targets(configured):
        await notices.record(target.id, _lines([item]), resolved=(), now=now)


class Notifier:
    """Watches what needs attention; each of its `deliveries` sends one target what changed.

    What comes and goes between two passes is not sent. `is_sender`: whether it is this process, of
    several, that sends. That it cannot renew its lease must not make it silent. `sent` is what
    earlier notifiers of this process have sent, by target.
    """

    def __init__(
        self,
        targets: Sequence[Target],
        attention: AttentionSource,
        notices: Notifications,
        is_sender: Callable[[], bool],
        clock: Clock,
        post: Post,
        *,
        source: str,
        sent: dict[str, Sent],
    ) -> None:
        self.wakeup = asyncio.Event()
        self.deliveries = [
            NoticeDelivery(
                target,
                partial(self._pending, target),
                notices,
                clock,
                post,
                source=source,
                sent=sent.setdefault(target.id, Sent()),
            )
            for target in targets
        ]
        self._attention = attention
        self._is_sender = is_sender
        self._clock = clock
        self._seen = {target.patience: _Seen() for target in targets}
        self._started_at = clock.monotonic()
        self._read = False
        """Whether it was known since then what there is."""

    async def idle(self) -> bool:
        return True

    async def attention(self) -> Sequence[AttentionItem]:
        return ()

    async def run_once(self) -> float:
        if self._is_sender():
            compared = [await self._compare(*each) for each in self._seen.items()]
            ready = self.deliveries if all(compared) else []
        else:
            self._seen = {patience: _Seen() for patience in self._seen}
            self._started_at, self._read = self._clock.monotonic(), False
            ready = [delivery for delivery in self.deliveries if delivery.has_unsaved]
        for delivery in ready:
            delivery.wakeup.set()
        return CHECK_INTERVAL

    async def _compare(self, patience: float, seen: _Seen) -> bool:
        try:
            items = await self._attention(patience)
            self._read = True
            return seen.compare(items)
        except StoreError as error:
            if not self._read:
                self._started_at = self._clock.monotonic()
            return seen.compare_unread(store_item(error))

    def _pending(self, target: Target, sent: Mapping[str, str]) -> Notice:
        seen = self._seen[target.patience]
        settled = self._clock.monotonic() - self._started_at >= STARTUP_GRACE
        return Notice(
            {key: text for key, text in seen.confirmed.items() if key not in sent},
            {key: text for key, text in sent.items() if settled and key not in seen.recent_keys},
        )


class _Seen:
    """What two passes in a row showed. `confirmed`: key → text of what both did; `recent_keys`: of
    what either did."""

    def __init__(self) -> None:
        self.confirmed: Mapping[str, str] = {}
        self.recent_keys: set[str] = set()
        self._previous: Mapping[str, str] | None = None

    def compare(self, items: Sequence[AttentionItem]) -> bool:
        """Note another pass; returns whether there was one before it."""
        return self._compare(_lines(items))

    def compare_unread(self, store: AttentionItem) -> bool:
        """Note a pass in which the store did not say what there is: all that was there may be."""
        maybe = self.recent_keys | (self._previous or {}).keys()
        compared = self._compare({**self.confirmed, **_lines([store])})
        self.recent_keys |= maybe
        return compared

    def _compare(self, now: Mapping[str, str]) -> bool:
        before, self._previous = self._previous, now
        if before is None:
            return False
        self.confirmed = {key: text for key, text in now.items() if key in before}
        self.recent_keys = now.keys() | before.keys()
        return True


def _lines(items: Sequence[AttentionItem]) -> Mapping[str, str]:
    return {item.key: log.redact(item.line) for item in items}


@dataclass(slots=True)
class Sent:
    """What one target was sent, as far as a store that fails does not have it. `saved`: key → text
    of what the store had when it was last read; `raised` and `resolved` were sent since and are not
    saved."""

    saved: Mapping[str, str] | None = None
    raised: dict[str, str] = field(default_factory=dict)
    resolved: set[str] = field(default_factory=set)

    def add(self, notice: Notice) -> None:
        self.resolved = (self.resolved | notice.resolved.keys()) - notice.raised.keys()
        raised = {**self.raised, **notice.raised}
        self.raised = {k: v for k, v in raised.items() if k not in notice.resolved}

    @property
    def open(self) -> Mapping[str, str]:
        """What was raised and not resolved."""
        saved = {k: v for k, v in (self.saved or {}).items() if k not in self.resolved}
        return {**saved, **self.raised}


class NoticeDelivery:
    """Sends one target what it has not been sent yet; retries a target that fails with backoff.
    `has_unsaved`: the store does not have all that was sent."""

    def __init__(
        self,
        target: Target,
        pending: Callable[[Mapping[str, str]], Notice],
        notices: Notifications,
        clock: Clock,
        post: Post,
        *,
        source: str,
        sent: Sent,
    ) -> None:
        self.wakeup = asyncio.Event()
        self._target = target
        self._pending = pending
        self._notices = notices
        self._clock = clock
        self._post = post
        self._source = source
        self._sent = sent
        self._backoff = Backoff(CHECK_INTERVAL, 300.0)
        self._failures = 0
        self._log = log.get("notify").bind(target=str(target))

    async def idle(self) -> bool:
        return True

    async def attention(self) -> Sequence[AttentionItem]:
        return ()

    async def run_once(self) -> float | None:
        try:
            await self._deliver()
        except (DeliveryError, StoreError) as error:
            if not self._failures:
                self._log.error(
                    "notification_failed",
                    problem=error.problem.value,
                    detail=error.detail,
                    remedy="check the url of this [[notify]] with `connector notify test`",
                )
            self._failures += 1
            await self._clock.sleep(self._backoff(self._failures))
            return 0
        if self._failures:
            self._log.info("notification_recovered")
        self._failures = 0
        return None

    @property
    def has_unsaved(self) -> bool:
        return bool(self._sent.raised or self._sent.resolved)

    async def _deliver(self) -> None:
        notice = self._pending(await self._read_sent())
        if notice.raised or notice.resolved:
            body = notice.body(self._target, self._source, self._clock.now())
            await retry_read(lambda: self._post(self._target.url, body), clock=self._clock)
            self._sent.add(notice)
        if self.has_unsaved:
            with contextlib.suppress(StoreError):
                await self._save()

    async def _read_sent(self) -> Mapping[str, str]:
        """Key → text of what was raised and not resolved. Raises StoreError where that was never
        known."""
        try:
            self._sent.saved = await self._notices.sent(self._target.id)
        except StoreError:
            if self._sent.saved is None:
                raise
        return self._sent.open

    async def _save(self) -> None:
        await self._notices.record(
            self._target.id,
            self._sent.raised,
            resolved=list(self._sent.resolved),
            now=self._clock.now(),
        )
        self._sent.saved = self._sent.open
        self._sent.raised, self._sent.resolved = {}, set()


async def test(
    targets: Sequence[Target], post: Post, *, source: str, now: int
) -> list[tuple[Target, int, str]]:
    """One POST to each, not repeated: (target, status or 0, what went wrong)."""
    notice = Notice({"test": "a test of [[notify]]: nothing is wrong"}, {})

    async def one(target: Target) -> tuple[Target, int, str]:
        try:
            return target, await post(target.url, notice.body(target, source, now)), ""
        except DeliveryError as error:
            return target, error.status or 0, error.detail

    found: list[Any] = await asyncio.gather(*(one(target) for target in targets))
    return found
