"""Notifications are sent once, again after a failure, and not again after a restart."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import orjson
import pytest
from pydantic import SecretStr

from connector.config import Notify
from connector.domain.attention import AttentionItem
from connector.domain.errors import Blocked, Problem, RetryLater, StoreError
from connector.runtime.metrics import Metrics
from connector.runtime.supervisor import SupervisedWorker
from connector.service.notify import (
    CHECK_INTERVAL,
    STARTUP_GRACE,
    NoticeDelivery,
    Notifier,
    Sent,
    Target,
    record_damage,
    targets,
)
from connector.testing.fakes.clock import FakeClock
from connector.testing.fakes.lease import FakeLease
from connector.testing.fakes.store import InlineDatabase, memory_store

HOOK = "https://hooks.example/T0/s3cr3t"
UNAVAILABLE = StoreError(Problem.STORE_UNAVAILABLE, "by a test")
BROKEN = {"lane acme events → klaviyo": "K401 acme events → klaviyo: blocked"}


@dataclass
class Rig:
    """A notifier, what needs a person, and what was posted where."""

    clock: FakeClock = field(default_factory=FakeClock)
    lease: FakeLease = field(default_factory=FakeLease)
    database: InlineDatabase = field(default_factory=InlineDatabase)
    attention: dict[str, str] = field(default_factory=dict)
    away: list[AttentionItem] = field(default_factory=list)
    posts: list[tuple[str, Any]] = field(default_factory=list)
    answer: Callable[[str], None] = lambda url: None
    in_flight: dict[str, int] = field(default_factory=dict)
    max_in_flight: int = 0
    running: list[SupervisedWorker] = field(default_factory=list)
    reads_fail: bool = True
    sent: dict[str, Sent] = field(default_factory=dict)
    deliveries: list[NoticeDelivery] = field(default_factory=list)

    def start(
        self, *urls: str, form: Any = "json", patience: Callable[[int], float] = lambda number: 0.0
    ) -> None:
        found = targets(
            [
                Notify(url=SecretStr(url), format=form, patience=patience(i))
                for i, url in enumerate(urls or (HOOK,), 1)
            ]
        )
        notifier = Notifier(
            found,
            self._attention,
            memory_store(self.database).notifications,
            self.lease.valid,
            self.clock,
            self._post,
            source="here",
            sent=self.sent,
        )
        self.deliveries = notifier.deliveries
        for loop in (notifier, *notifier.deliveries):
            worker = SupervisedWorker(
                "notifications", loop, subject="test", clock=self.clock, metrics=Metrics("test")
            )
            worker.start()
            self.running.append(worker)

    async def restart(self) -> None:
        """As another process."""
        await self.stop()
        self.sent = {}
        self.start()

    async def reload(self) -> None:
        await self.stop()
        self.start()

    async def stop(self) -> None:
        await asyncio.gather(*(worker.stop(1.0) for worker in self.running))
        self.running.clear()

    async def _attention(self, patience: float) -> list[AttentionItem]:
        if self.database.error and self.reads_fail:
            raise self.database.error
        items = [AttentionItem(key, text) for key, text in self.attention.items()]
        return [*items, *(x for x in self.away if x.needs_person(self.clock.now(), patience))]

    async def _post(self, url: str, body: bytes) -> int:
        self.in_flight[url] = self.in_flight.get(url, 0) + 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight[url])
        try:
            sent_keys = self.answer(url)
            if asyncio.iscoroutine(sent_keys):
                await sent_keys
            self.posts.append((url, orjson.loads(body)))
            return 200
        finally:
            self.in_flight[url] -= 1

    async def polls(self, count: int) -> None:
        await self.clock.advance(CHECK_INTERVAL * count)

    def sent_keys(self) -> list[tuple[list[str], list[str]]]:
        """(keys raised, keys resolved), POST by POST."""
        return [
            ([x["key"] for x in body["raised"]], [x["key"] for x in body["resolved"]])
            for _, body in self.posts
        ]


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    made = Rig()
    yield made
    await made.stop()


async def test_a_problem_and_its_end_are_each_notified_once(rig: Rig) -> None:
    rig.start()
    await rig.polls(20)
    assert rig.posts == []
    rig.attention = dict(BROKEN)
    await rig.polls(20)
    rig.attention = {}
    await rig.polls(20)
    assert rig.sent_keys() == [(list(BROKEN), []), ([], list(BROKEN))]


async def test_the_end_of_a_damage_is_notified_by_the_daemon_on_the_restored_store(
    rig: Rig,
) -> None:
    hook = Notify(url=SecretStr(HOOK))
    notices = memory_store(rig.database).notifications
    await record_damage(notices, [hook, Notify()], now=rig.clock.now())
    rig.start()
    await rig.clock.advance(STARTUP_GRACE + 3 * CHECK_INTERVAL)
    assert rig.sent_keys() == [([], ["store"])]
    [(_, body)] = rig.posts
    assert body["resolved"][0]["text"].startswith("S50 the store was damaged, and is replaced")


async def test_two_targets_with_one_url_have_a_record_each(rig: Rig) -> None:
    patience = {1: 0.0, 2: 3600.0}
    rig.start(HOOK, HOOK, patience=patience.__getitem__)
    await rig.clock.advance(STARTUP_GRACE)
    slow = AttentionItem("slow", "K503", Problem.KLAVIYO_UNAVAILABLE, since=rig.clock.now())
    rig.away = [slow]
    await rig.polls(20)
    assert rig.sent_keys() == [(["slow"], [])]


@pytest.mark.parametrize("change", ["raised", "resolved"])
async def test_a_store_that_fails_right_after_a_notice_was_saved_repeats_none(
    rig: Rig, change: str
) -> None:
    rig.start()
    await rig.clock.advance(STARTUP_GRACE)
    if change == "resolved":
        rig.attention = dict(BROKEN)
        await rig.polls(6)
    rig.attention = dict(BROKEN) if change == "raised" else {}
    before = len(rig.posts)
    while len(rig.posts) == before:
        await rig.clock.advance(CHECK_INTERVAL / 10)
    rig.database.error = UNAVAILABLE
    await rig.polls(6)
    rig.database.error = None
    await rig.polls(20)
    sent = [key for notice in rig.sent_keys() for key in notice[change == "resolved"]]
    assert sent.count(*BROKEN) == 1


async def test_a_reload_that_changes_the_format_repeats_nothing(rig: Rig) -> None:
    rig.start()
    await rig.clock.advance(STARTUP_GRACE)
    rig.attention = dict(BROKEN)
    await rig.polls(6)
    rig.database.error, rig.reads_fail = UNAVAILABLE, False
    rig.attention = {}
    await rig.polls(6)
    sent = len(rig.posts)
    assert sent > 1, "the end was sent, and not saved"
    await rig.stop()
    rig.start(form="slack")
    rig.database.error = None
    await rig.polls(20)
    assert len(rig.posts) == sent


async def test_a_remote_side_that_is_away_is_notified_after_the_patience_of_each_target(
    rig: Rig,
) -> None:
    rig.start("https://hooks.example/1", "https://hooks.example/2", patience=lambda n: 300.0 * n)
    item = AttentionItem("slow", "Klaviyo is away", Problem.KLAVIYO_UNAVAILABLE)
    rig.away = [replace(item, since=rig.clock.now())]
    await rig.clock.advance(290.0)
    assert rig.posts == []
    await rig.clock.advance(30.0)
    assert [url for url, _ in rig.posts] == ["https://hooks.example/1"]
    await rig.clock.advance(300.0)
    assert [url for url, _ in rig.posts] == ["https://hooks.example/1", "https://hooks.example/2"]
    rig.away = []
    await rig.polls(3)
    assert rig.sent_keys()[2:] == [([], ["slow"]), ([], ["slow"])]


async def test_a_restart_repeats_and_loses_no_notice(rig: Rig) -> None:
    rig.attention = {**BROKEN, "dead acme": "1 dead letter"}
    rig.start()
    await rig.polls(3)
    await rig.restart()
    await rig.polls(20)
    assert len(rig.posts) == 1
    del rig.attention["dead acme"]
    await rig.restart()
    await rig.polls(20)
    assert rig.sent_keys()[1:] == [([], ["dead acme"])]


async def test_a_problem_known_only_in_memory_is_not_resolved_right_after_a_start(rig: Rig) -> None:
    rig.attention = dict(BROKEN)
    rig.start()
    await rig.polls(3)
    rig.attention = {}
    await rig.restart()
    await rig.clock.advance(STARTUP_GRACE - CHECK_INTERVAL)
    rig.attention = dict(BROKEN)
    await rig.polls(20)
    assert len(rig.posts) == 1


async def test_a_problem_that_ends_between_two_polls_is_not_notified(rig: Rig) -> None:
    rig.start()
    await rig.clock.advance(STARTUP_GRACE)
    for _ in range(5):
        rig.attention = dict(BROKEN)
        await rig.polls(1)
        rig.attention = {}
        await rig.polls(1)
    assert rig.posts == []


async def test_a_growing_number_of_dead_letters_is_notified_once(rig: Rig) -> None:
    rig.start()
    for count in range(1, 10):
        rig.attention = {"dead acme": f"{count} dead letters"}
        await rig.polls(2)
    assert rig.sent_keys() == [(["dead acme"], [])]


async def test_only_the_lease_holder_sends_notices(rig: Rig) -> None:
    rig.lease.held = False
    rig.attention = dict(BROKEN)
    rig.start()
    await rig.polls(20)
    assert rig.posts == []
    rig.lease.held = True
    await rig.polls(3)
    assert len(rig.posts) == 1


async def test_a_failing_target_is_retried_and_does_not_block_others(rig: Rig) -> None:
    gone = "https://gone.example/x"

    def answer(url: str) -> None:
        if url == gone:
            raise RetryLater(Problem.NOT_CONNECTED, "no connection")

    rig.answer = answer
    rig.attention = dict(BROKEN)
    rig.start(gone, HOOK)
    await rig.polls(10)
    assert [url for url, _ in rig.posts] == [HOOK]
    rig.answer = lambda url: None
    await rig.clock.advance(300)
    assert [url for url, _ in rig.posts] == [HOOK, gone]


async def test_one_post_per_target_at_a_time_and_a_slow_target_does_not_block_others(
    rig: Rig,
) -> None:
    slow = "https://slow.example/x"

    def answer(url: str) -> Any:
        return rig.clock.sleep(120) if url == slow else None

    rig.answer = answer
    rig.attention = dict(BROKEN)
    rig.start(slow, HOOK)
    await rig.polls(3)
    rig.attention["dead acme"] = "1 dead letter"
    await rig.polls(3)
    assert [url for url, _ in rig.posts] == [HOOK, HOOK]
    await rig.clock.advance(400)
    assert [url for url, _ in rig.posts].count(slow) == 2
    assert rig.max_in_flight == 1


async def test_an_unavailable_store_does_not_resolve_notices(rig: Rig) -> None:
    rig.attention = dict(BROKEN)
    rig.start()
    await rig.clock.advance(STARTUP_GRACE)
    rig.database.error = UNAVAILABLE
    await rig.clock.advance(300)
    rig.database.error = None
    await rig.clock.advance(300)
    assert rig.sent_keys() == [(list(BROKEN), []), (["store"], []), ([], ["store"])]


async def test_a_store_that_failed_from_the_start_repeats_no_notice(rig: Rig) -> None:
    rig.attention = dict(BROKEN)
    rig.start()
    await rig.polls(3)
    await rig.stop()
    rig.database.error = UNAVAILABLE
    rig.sent = {}
    rig.start()
    await rig.polls(5)
    rig.database.error = None
    await rig.clock.advance(300)
    # That the store failed may be sent too, once it is known what was sent.
    [key] = BROKEN
    assert [key in raised for raised, _ in rig.sent_keys()].count(True) == 1


@pytest.mark.parametrize("reads_fail", [True, False])
async def test_a_store_that_fails_is_notified_once_and_not_again_after_a_restart(
    rig: Rig, reads_fail: bool
) -> None:
    """What was sent cannot be saved meanwhile; of a deleted file even reads succeed."""
    rig.reads_fail = reads_fail
    rig.start()
    await rig.polls(3)
    rig.database.error = UNAVAILABLE
    rig.attention = {} if reads_fail else {"store": "S70 the file is gone"}
    await rig.clock.advance(300)
    assert rig.sent_keys() == [(["store"], [])]
    rig.database.error = None
    await rig.polls(1)
    assert not any(delivery.has_unsaved for delivery in rig.deliveries)
    await rig.restart()
    rig.attention = {}
    await rig.polls(20)
    assert rig.sent_keys() == [(["store"], []), ([], ["store"])]


async def test_a_problem_that_ends_while_nothing_can_be_saved_is_resolved_once(rig: Rig) -> None:
    rig.attention = dict(BROKEN)
    rig.start()
    await rig.clock.advance(STARTUP_GRACE)
    rig.database.error, rig.reads_fail = UNAVAILABLE, False
    rig.attention = {}
    await rig.clock.advance(300)
    rig.database.error = None
    await rig.polls(20)
    assert rig.sent_keys() == [(list(BROKEN), []), ([], list(BROKEN))]


async def test_a_reload_while_the_store_fails_repeats_no_notice(rig: Rig) -> None:
    rig.start()
    await rig.polls(3)
    rig.database.error = UNAVAILABLE
    await rig.polls(4)
    await rig.reload()
    await rig.polls(4)
    rig.database.error = None
    await rig.clock.advance(300)
    assert rig.sent_keys() == [(["store"], []), ([], ["store"])]


async def test_a_start_while_the_store_fails_resolves_nothing_that_it_could_not_see(
    rig: Rig,
) -> None:
    """What only the process knows needs a moment to show after the store is back."""
    rig.attention = dict(BROKEN)
    rig.start()
    await rig.polls(3)
    await rig.stop()
    rig.sent = {}
    rig.database.error = UNAVAILABLE
    rig.start()
    await rig.clock.advance(STARTUP_GRACE + 10)
    rig.attention = {}
    rig.database.error = None
    await rig.clock.advance(STARTUP_GRACE - 20)
    rig.attention = dict(BROKEN)
    await rig.polls(20)
    assert not any(key in BROKEN for _, resolved in rig.sent_keys() for key in resolved)


async def test_what_was_seen_once_before_the_store_failed_is_not_notified(rig: Rig) -> None:
    rig.start()
    await rig.clock.advance(STARTUP_GRACE)
    rig.attention = dict(BROKEN)
    await rig.polls(1)
    rig.attention = {}
    rig.database.error = UNAVAILABLE
    await rig.polls(3)
    rig.database.error = None
    await rig.polls(10)
    assert not any(key in BROKEN for raised, _ in rig.sent_keys() for key in raised)


async def test_what_was_sent_while_the_store_failed_is_saved_after_the_lease_was_lost(
    rig: Rig,
) -> None:
    """The next holder sends that it is over."""
    rig.start()
    await rig.polls(3)
    rig.database.error = UNAVAILABLE
    await rig.polls(3)
    rig.lease.held = False
    await rig.polls(3)
    rig.database.error = None
    await rig.polls(3)
    rig.lease.held = True
    await rig.restart()
    await rig.polls(20)
    assert rig.sent_keys() == [(["store"], []), ([], ["store"])]


async def test_addresses_are_masked_in_notices(rig: Rig) -> None:
    rig.attention = {"approval 1": "acme: ada@example.com waits"}
    rig.start()
    await rig.polls(3)
    assert "ada@" not in orjson.dumps(rig.posts[0][1]).decode()


async def test_slack_gets_one_text_with_its_marks_escaped(rig: Rig) -> None:
    rig.attention = {"lane": "a <b> & c"}
    rig.start(form="slack")
    await rig.polls(3)
    [(_, body)] = rig.posts
    assert body == {"text": "connector here\nneeds you: a &lt;b&gt; &amp; c"}


async def test_the_target_url_is_in_no_log_and_no_repr(
    rig: Rig, capsys: pytest.CaptureFixture[str]
) -> None:
    def answer(url: str) -> None:
        raise Blocked(Problem.PLATFORM_TARGET, "HTTP 404", scope="target", status=404)

    rig.answer = answer
    rig.attention = dict(BROKEN)
    rig.start()
    await rig.polls(10)
    sent_keys = capsys.readouterr()
    assert "notification_failed" in sent_keys.out + sent_keys.err
    assert "s3cr3t" not in sent_keys.out + sent_keys.err + repr(Target(1, HOOK, "json"))


def test_a_target_without_a_url_is_disabled() -> None:
    configured = [Notify(), Notify(url=SecretStr(HOOK), format="slack")]
    assert [(t.number, t.url, t.format) for t in targets(configured)] == [(2, HOOK, "slack")]
