"""Who is told when something needs a person: once, again after a failure, never after a restart."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest
from pydantic import SecretStr

from connector.config import Notify
from connector.domain.errors import Blocked, Problem, StoreError, Wait
from connector.service.notify import LOOK_EVERY, SETTLES, Notifier, Target, targets
from connector.testing.fakes.clock import FakeClock
from connector.testing.fakes.store import MemoryNotices

HOOK = "https://hooks.example/T0/s3cr3t"
BROKEN = {"lane acme → klaviyo events": "K401 acme → klaviyo events: blocked"}


class Lease:
    def __init__(self) -> None:
        self.held = True

    def valid(self) -> bool:
        return self.held


@dataclass
class Rig:
    """A notifier, what needs a person, and what was posted where."""

    clock: FakeClock = field(default_factory=FakeClock)
    lease: Lease = field(default_factory=Lease)
    notices: MemoryNotices = field(default_factory=MemoryNotices)
    needs: dict[str, str] = field(default_factory=dict)
    posts: list[tuple[str, Any]] = field(default_factory=list)
    answer: Callable[[str], None] = lambda url: None
    under_way: dict[str, int] = field(default_factory=dict)
    most: int = 0
    running: list[asyncio.Task[None]] = field(default_factory=list)

    def start(self, *urls: str, form: Any = "json") -> None:
        found = [Target(i, url, form) for i, url in enumerate(urls or (HOOK,), 1)]
        notifier = Notifier(
            found, self._needs, self.notices, self.lease, self.clock, self._post, source="here"
        )
        self.running.append(asyncio.create_task(notifier.run()))

    async def restart(self) -> None:
        await self.stop()
        self.start()

    async def stop(self) -> None:
        for task in self.running:
            task.cancel()
        await asyncio.gather(*self.running, return_exceptions=True)
        self.running.clear()

    async def _needs(self) -> dict[str, str]:
        return dict(self.needs)

    async def _post(self, url: str, body: bytes) -> int:
        self.under_way[url] = self.under_way.get(url, 0) + 1
        self.most = max(self.most, self.under_way[url])
        try:
            said = self.answer(url)
            if asyncio.iscoroutine(said):
                await said
            self.posts.append((url, orjson.loads(body)))
            return 200
        finally:
            self.under_way[url] -= 1

    async def looks(self, count: int) -> None:
        await self.clock.advance(LOOK_EVERY * count)

    def said(self) -> list[tuple[list[str], list[str]]]:
        """(keys that were news, keys that were over), POST by POST."""
        return [
            ([x["key"] for x in body["news"]], [x["key"] for x in body["over"]])
            for _, body in self.posts
        ]


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    made = Rig()
    yield made
    await made.stop()


async def test_a_break_and_its_end_are_told_once_each(rig: Rig) -> None:
    rig.start()
    await rig.looks(20)
    assert rig.posts == []
    rig.needs = dict(BROKEN)
    await rig.looks(20)
    rig.needs = {}
    await rig.looks(20)
    assert rig.said() == [(list(BROKEN), []), ([], list(BROKEN))]


async def test_a_restart_neither_repeats_nor_forgets(rig: Rig) -> None:
    rig.needs = {**BROKEN, "dead acme": "1 dead letter"}
    rig.start()
    await rig.looks(3)
    await rig.restart()
    await rig.looks(20)
    assert len(rig.posts) == 1
    await rig.stop()
    del rig.needs["dead acme"]
    rig.start()
    await rig.looks(20)
    assert rig.said()[1:] == [([], ["dead acme"])]


async def test_what_only_the_process_knew_is_not_called_over_right_after_a_start(rig: Rig) -> None:
    rig.needs = dict(BROKEN)
    rig.start()
    await rig.looks(3)
    rig.needs = {}
    await rig.restart()
    await rig.clock.advance(SETTLES - LOOK_EVERY)
    rig.needs = dict(BROKEN)
    await rig.looks(20)
    assert len(rig.posts) == 1


async def test_what_comes_and_goes_between_two_looks_is_no_news(rig: Rig) -> None:
    rig.start()
    await rig.clock.advance(SETTLES)
    for _ in range(5):
        rig.needs = dict(BROKEN)
        await rig.looks(1)
        rig.needs = {}
        await rig.looks(1)
    assert rig.posts == []


async def test_a_growing_number_of_dead_letters_is_told_of_once(rig: Rig) -> None:
    rig.start()
    for count in range(1, 10):
        rig.needs = {"dead acme": f"{count} dead letters"}
        await rig.looks(2)
    assert rig.said() == [(["dead acme"], [])]


async def test_only_the_holder_of_the_lease_tells(rig: Rig) -> None:
    rig.lease.held = False
    rig.needs = dict(BROKEN)
    rig.start()
    await rig.looks(20)
    assert rig.posts == []
    rig.lease.held = True
    await rig.looks(3)
    assert len(rig.posts) == 1


async def test_a_target_that_fails_is_tried_again_and_holds_up_nobody(rig: Rig) -> None:
    gone = "https://gone.example/x"

    def answer(url: str) -> None:
        if url == gone:
            raise Wait(Problem.NOT_CONNECTED, "no connection")

    rig.answer = answer
    rig.needs = dict(BROKEN)
    rig.start(gone, HOOK)
    await rig.looks(10)
    assert [url for url, _ in rig.posts] == [HOOK]
    rig.answer = lambda url: None
    await rig.clock.advance(300)
    assert [url for url, _ in rig.posts] == [HOOK, gone]


async def test_never_two_posts_to_one_target_and_nobody_waits_for_a_slow_one(rig: Rig) -> None:
    slow = "https://slow.example/x"

    def answer(url: str) -> Any:
        return rig.clock.sleep(120) if url == slow else None

    rig.answer = answer
    rig.needs = dict(BROKEN)
    rig.start(slow, HOOK)
    await rig.looks(3)
    rig.needs["dead acme"] = "1 dead letter"
    await rig.looks(3)
    assert [url for url, _ in rig.posts] == [HOOK, HOOK]
    await rig.clock.advance(400)
    assert [url for url, _ in rig.posts].count(slow) == 2
    assert rig.most == 1


async def test_a_store_that_is_away_ends_nothing(rig: Rig) -> None:
    class Away(MemoryNotices):
        away = True

        async def told(self, target: str) -> Any:
            if self.away:
                raise StoreError(Problem.STORE_UNAVAILABLE)
            return await super().told(target)

    rig.notices = away = Away()
    rig.needs = dict(BROKEN)
    rig.start()
    await rig.looks(5)
    away.away = False
    await rig.clock.advance(300)
    assert len(rig.posts) == 1


async def test_addresses_are_masked_in_what_is_told(rig: Rig) -> None:
    rig.needs = {"approval 1": "acme: ada@example.com waits"}
    rig.start()
    await rig.looks(3)
    assert "ada@" not in orjson.dumps(rig.posts[0][1]).decode()


async def test_slack_gets_one_text_with_its_marks_escaped(rig: Rig) -> None:
    rig.needs = {"lane": "a <b> & c"}
    rig.start(form="slack")
    await rig.looks(3)
    [(_, body)] = rig.posts
    assert body == {"text": "connector here\nneeds you: a &lt;b&gt; &amp; c"}


async def test_the_address_is_in_no_log_and_no_repr(
    rig: Rig, capsys: pytest.CaptureFixture[str]
) -> None:
    def answer(url: str) -> None:
        raise Blocked(Problem.PLATFORM_TARGET, "HTTP 404", scope="target", status=404)

    rig.answer = answer
    rig.needs = dict(BROKEN)
    rig.start()
    await rig.looks(10)
    said = capsys.readouterr()
    assert "was not told" in said.out + said.err
    assert "s3cr3t" not in said.out + said.err + repr(Target(1, HOOK, "json"))


def test_a_target_without_an_address_is_off() -> None:
    configured = [Notify(), Notify(url=SecretStr(HOOK), format="slack")]
    assert [(t.number, t.url, t.format) for t in targets(configured)] == [(2, HOOK, "slack")]
