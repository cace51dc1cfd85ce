"""Telling people what needs them: `[[notify]]`.

One look for all targets, and one worker for each, so that a target that does not answer holds up
nobody else and never gets two POSTs at once. What a target was told is kept in the store, so a
restart neither repeats nor forgets; a POST whose answer is lost may come twice.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import orjson

from connector.config import Notify
from connector.domain.errors import DeliveryError, StoreError
from connector.net.retry import Backoff, retry_read
from connector.ports import Clock, Lease, Notifications
from connector.runtime import log

CHECK_INTERVAL = 5.0
STARTUP_GRACE = 60.0
"""Seconds after a start before anything is called over: what only the process knows, such as a
platform that fails, must first have had the time to show again."""

AttentionSource = Callable[[], Awaitable[Mapping[str, str]]]
"""key → text of everything that a person must look at now."""

Post = Callable[[str, bytes], Awaitable[int]]
"""POSTs a JSON body to an address and returns the status. Raises DeliveryError without quoting the
address, which is a credential."""


@dataclass(frozen=True, slots=True)
class Target:
    """One `[[notify]]`, by its place in the file."""

    number: int
    url: str = field(repr=False)
    format: Literal["json", "slack"]

    @property
    def id(self) -> str:
        """Stands for the address in the store."""
        return hashlib.sha256(self.url.encode()).hexdigest()[:16]

    def __str__(self) -> str:
        return f"notify {self.number} ({self.format})"


@dataclass(frozen=True, slots=True)
class Notice:
    """What one POST says: key → text of what is new and of what is over."""

    raised: Mapping[str, str]
    resolved: Mapping[str, str]

    def body(self, target: Target, source: str, now: int) -> bytes:
        """`source` is where the connector is reached, for whoever runs several."""
        if target.format == "slack":
            return orjson.dumps({"text": self._text(source)})
        at = datetime.fromtimestamp(now / 1000, UTC).isoformat(timespec="seconds")
        return orjson.dumps(
            {
                "connector": source,
                "at": at,
                "news": _as_items(self.raised),
                "over": _as_items(self.resolved),
            }
        )

    def _text(self, source: str) -> str:
        lines = [f"needs you: {text}" for text in self.raised.values()]
        lines += [f"over: {text}" for text in self.resolved.values()]
        return _escape_slack("\n".join([f"connector {source}", *lines]))


def _as_items(found: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "text": text} for key, text in found.items()]


def _escape_slack(text: str) -> str:
    """The three characters that mean something in a Slack message."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def targets(configured: Sequence[Notify]) -> list[Target]:
    """Those that are switched on; an empty address is off."""
    found = [(n.url.get_secret_value(), n.format) for n in configured]
    return [Target(i, url, form) for i, (url, form) in enumerate(found, 1) if url]


class Notifier:
    """Looks at what needs a person and tells every target what is new and what is over.

    Whatever comes and goes between two looks is not told. Only the holder of the lease tells.
    """

    def __init__(
        self,
        targets: Sequence[Target],
        attention: AttentionSource,
        notices: Notifications,
        lease: Lease,
        clock: Clock,
        post: Post,
        *,
        source: str,
    ) -> None:
        self._targets = targets
        self._attention = attention
        self._notices = notices
        self._lease = lease
        self._clock = clock
        self._post = post
        self._source = source
        self._backoff = Backoff(CHECK_INTERVAL, 300.0)
        self._wakeups = {target.number: asyncio.Event() for target in targets}
        self._previous: Mapping[str, str] | None = None
        self._confirmed: Mapping[str, str] = {}
        self._recent_keys: set[str] = set()
        self._started_at = clock.monotonic()
        self._log = log.get("notify")

    async def run(self) -> None:
        """For ever."""
        await asyncio.gather(
            self._watch(), *(self._deliver_loop(target) for target in self._targets)
        )

    async def _watch(self) -> None:
        while True:
            if self._lease.valid():
                try:
                    await self._check()
                except StoreError:
                    pass  # said by whoever needs the store more than we do
                except Exception:
                    # Telling must not end because of one look.
                    self._log.exception("what needs a person could not be looked up")
            else:
                self._previous, self._started_at = None, self._clock.monotonic()
            await self._clock.sleep(CHECK_INTERVAL)

    async def _check(self) -> None:
        now = {key: log.redact(text) for key, text in (await self._attention()).items()}
        before, self._previous = self._previous, now
        if before is None:
            return
        self._confirmed = {key: text for key, text in now.items() if key in before}
        self._recent_keys = now.keys() | before.keys()
        for wakeup in self._wakeups.values():
            wakeup.set()

    async def _deliver_loop(self, target: Target) -> None:
        wakeup, failures = self._wakeups[target.number], 0
        while True:
            await wakeup.wait()
            wakeup.clear()
            if await self._deliver(target, failures):
                failures = 0
            else:
                failures += 1
                await self._clock.sleep(self._backoff(failures))

    async def _deliver(self, target: Target, failures: int) -> bool:
        """Whether the target knows now all that there is to tell."""
        try:
            notice = self._pending_notice(await self._notices.sent(target.id))
            if not notice.raised and not notice.resolved:
                return True
            now = self._clock.now()
            body = notice.body(target, self._source, now)
            await retry_read(lambda: self._post(target.url, body), clock=self._clock)
            await self._notices.record(
                target.id, notice.raised, resolved=list(notice.resolved), now=now
            )
        except (DeliveryError, StoreError) as error:
            if not failures:
                problem = error.problem.value
                self._log.error(f"{target} was not told", problem=problem, detail=error.detail)
            return False
        except Exception as error:
            self._log.error(f"{target} was not told", error=type(error).__name__)
            return False
        if failures:
            self._log.info(f"{target} is told again")
        return True

    def _pending_notice(self, sent: Mapping[str, str]) -> Notice:
        settled = self._clock.monotonic() - self._started_at >= STARTUP_GRACE
        return Notice(
            {key: text for key, text in self._confirmed.items() if key not in sent},
            {key: text for key, text in sent.items() if settled and key not in self._recent_keys},
        )


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
