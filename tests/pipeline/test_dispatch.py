"""A lane: what is sent when, and what every answer and every outage comes to."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import structlog.testing

from connector.domain.attention import Check
from connector.domain.errors import Problem, StoreError
from connector.domain.lanes import DeliveryMode, Millis
from connector.domain.messages import Fault, Skip
from connector.domain.outcomes import Accepted, Dead, Delivery, Held, Outcome, Stop, Unsent
from connector.domain.records import Entry, State
from connector.net.rate_limit import Limit, RateLimiter
from connector.pipeline.breaker import OPEN_AFTER
from connector.pipeline.dispatch import Dispatcher, Policy
from connector.ports import BatchMode, Grant
from connector.runtime import concurrency
from connector.testing.fakes.clock import FakeClock, run_pending
from connector.testing.fakes.sinks import (
    FakeQuota,
    accept,
    ambiguous,
    block,
    dead_letter,
    fail,
    retry,
)

from .conftest import Rig

UNAVAILABLE = StoreError(Problem.STORE_UNAVAILABLE, "by a test")


async def raise_unavailable() -> None:
    raise UNAVAILABLE


async def do_nothing() -> None: ...


class RecordingQuota(FakeQuota):
    """Notes what it is asked for: (endpoint, whether for a backfill)."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, bool]] = []

    def reserve(self, endpoint: str, want: int, *, backfill: bool = False) -> Grant:
        self.asked.append((endpoint, backfill))
        return super().reserve(endpoint, want, backfill=backfill)


def errors(logs: list[Any], level: str) -> list[str]:
    return [line["event"] for line in logs if line["log_level"] == level]


# ── idle ─────────────────────────────────────────────────────────────────────────────────────────


async def test_a_lane_whose_claim_is_being_committed_is_not_idle(rig: Rig) -> None:
    committing, committed = asyncio.Event(), asyncio.Event()

    async def wait_for_commit() -> None:
        committing.set()
        await committed.wait()

    rig.queue.after_claim = wait_for_commit
    await rig.append_records("a")
    assert committing.is_set()
    assert not rig.dispatcher.busy
    assert not await rig.dispatcher.idle(0.0)
    committed.set()
    await run_pending()
    assert await rig.dispatcher.idle(0.0)


# ── wake-ups ─────────────────────────────────────────────────────────────────────────────────────


async def test_a_lane_looks_once_for_a_record_and_not_again_after_its_delivery(rig: Rig) -> None:
    looked = rig.queue.looked
    await rig.append_records("a")
    await run_pending()
    assert rig.row("a").state == State.ACCEPTED
    assert rig.queue.looked == looked + 1


async def test_a_lane_is_woken_when_something_is_due_unless_it_has_looked_since(rig: Rig) -> None:
    looked = rig.queue.looked
    rig.dispatcher.wake_at(Millis(rig.clock.now() + 500))
    rig.dispatcher.wake_at(Millis(rig.clock.now() + 900))
    await rig.clock.advance(0.4)
    assert rig.queue.looked == looked
    await rig.clock.advance(0.6)
    assert rig.queue.looked == looked + 1
    rig.dispatcher.wake_at(Millis(rig.clock.now() + 500))
    rig.dispatcher.wake_at(rig.clock.now())
    await rig.clock.advance(1.0)
    assert rig.queue.looked == looked + 2


async def test_a_retry_is_sent_when_it_is_due_without_another_look_before(rig: Rig) -> None:
    rig.sink.respond_with(retry(after=5.0), accept)
    await rig.append_records("a")
    await run_pending()
    looked = rig.queue.looked
    await rig.clock.advance(4.0)
    assert (rig.queue.looked, rig.row("a").state) == (looked, State.READY)
    await rig.clock.advance(1.5)
    assert rig.row("a").state == State.ACCEPTED


async def test_records_of_a_cooldown_are_claimed_together_and_the_first_at_once(
    stopped_rig: Rig,
) -> None:
    rig = stopped_rig
    await rig.start(policy=replace(rig.policy, claim_cooldown=0.05))
    await rig.clock.advance(1.0)
    looked = rig.queue.looked
    await rig.append_records("a")
    assert rig.row("a").state == State.ACCEPTED
    await rig.append_records("b")
    await rig.append_records("c")
    await rig.clock.advance(0.04)
    assert (rig.queue.looked, rig.row("b").state) == (looked + 1, State.READY)
    await rig.clock.advance(0.02)
    assert rig.states() == {State.ACCEPTED: 3}
    await rig.clock.advance(1.0)
    assert rig.queue.looked == looked + 2


# ── singly or in bulk ────────────────────────────────────────────────────────────────────────────


async def test_what_is_ready_elsewhere_runs_while_a_batch_is_rendered(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(concurrency, "TURN", 10)
    turns: list[int] = []
    rendered = 0
    render = rig.renderer.render

    def counting(entry: Entry) -> Any:
        nonlocal rendered
        rendered += 1
        asyncio.get_running_loop().call_soon(lambda: turns.append(rendered))
        return render(entry)

    monkeypatch.setattr(rig.renderer, "render", counting)
    await rig.append_records(*(f"r{n}" for n in range(60)))
    await run_pending()
    assert rendered == 60
    assert set(turns) == {10, 20, 30, 40, 50, 60}


async def test_a_short_queue_is_sent_in_single_requests_with_one_outcome_each(
    stopped_rig: Rig,
) -> None:
    stopped_rig.sink.respond_with(accept, dead_letter(), accept)
    await stopped_rig.append_records("a", "b", "c")
    await stopped_rig.start()
    assert [(r.ids, r.bulk) for r in stopped_rig.sink.sent] == [
        (("test:a",), False),
        (("test:b",), False),
        (("test:c",), False),
    ]
    assert [stopped_rig.row(k).state for k in "abc"] == [State.ACCEPTED, State.DEAD, State.ACCEPTED]


async def test_a_long_queue_is_sent_in_bulk(stopped_rig: Rig) -> None:
    await stopped_rig.append_records(*(f"k{i}" for i in range(6)))
    await stopped_rig.start()
    [request] = stopped_rig.sink.sent
    assert request.bulk
    assert len(request.ids) == 6
    assert stopped_rig.states() == {State.ACCEPTED: 6}


async def test_a_batch_forms_while_a_request_is_in_flight(rig: Rig) -> None:
    rig.sink.open.clear()
    await rig.append_records("a", "b", "c", "d")
    await rig.append_records(*(f"k{i}" for i in range(10)))
    rig.sink.open.set()
    await run_pending()
    assert [len(r.ids) for r in rig.sink.sent] == [1, 1, 1, 1, 10]


async def test_no_more_requests_are_in_flight_than_the_mode_allows(make_rig: Any) -> None:
    rig: Rig = await make_rig(bulk=None)
    await rig.start()
    rig.sink.open.clear()
    await rig.append_records(*(f"k{i}" for i in range(10)))
    assert len(rig.sink.sent) == 4
    rig.sink.open.set()
    await run_pending()
    assert sorted(rig.sink.ids) == sorted(f"test:k{i}" for i in range(10))


async def test_live_goes_before_backfill(stopped_rig: Rig) -> None:
    await stopped_rig.append_records("old", backfill=True)
    await stopped_rig.append_records("live")
    await stopped_rig.start()
    assert stopped_rig.sink.ids == ["test:live", "test:old"]


async def test_a_long_backfill_is_sent_in_bulk_beside_single_live_requests(
    rig: Rig,
) -> None:
    rig.sink.open.clear()
    await rig.append_records(*(f"old{i}" for i in range(150)), backfill=True)
    await rig.append_records("live")
    assert [(len(r.ids), r.bulk, r.entries[0].backfill) for r in rig.sink.sent] == [
        (100, True, True),
        (1, False, False),
    ]
    assert not rig.dispatcher.backlogged
    rig.sink.open.set()
    await run_pending()
    assert rig.states() == {State.ACCEPTED: 151}


async def test_a_live_record_waiting_for_capacity_does_not_join_a_backfill_batch(
    rig: Rig,
) -> None:
    rig.sink.open.clear()
    await rig.append_records(*(f"live{i}" for i in range(5)))
    await rig.append_records(*(f"old{i}" for i in range(20)), backfill=True)
    [batch] = [r for r in rig.sink.sent if r.bulk]
    assert all(entry.backfill for entry in batch.entries)
    rig.sink.open.set()
    await run_pending()
    assert rig.states() == {State.ACCEPTED: 25}


async def test_backfill_batches_fill_up_before_they_are_sent(rig: Rig) -> None:
    for n in range(10):
        await rig.append_records(*(f"old{n}-{i}" for i in range(9)), backfill=True)
    assert [len(r.ids) for r in rig.sink.sent] == [9]
    await rig.append_records("live")
    assert rig.sink.ids[9:] == ["test:live"]
    await rig.after(1.9)
    assert len(rig.sink.sent) == 2
    await rig.after(0.2)
    assert [len(r.ids) for r in rig.sink.sent] == [9, 1, 81]


async def test_a_full_backfill_batch_is_followed_by_the_next_at_once(stopped_rig: Rig) -> None:
    await stopped_rig.append_records(*(f"old{i}" for i in range(250)), backfill=True)
    await stopped_rig.start()
    assert [len(r.ids) for r in stopped_rig.sink.sent] == [100, 100, 50]


async def test_a_backfill_reserves_quota_as_backfill(make_rig: Any) -> None:
    quota = RecordingQuota()
    rig: Rig = await make_rig(quota)
    await rig.append_records("old", backfill=True)
    await rig.append_records("live")
    await rig.start()
    assert quota.asked == [("single", False), ("single", True)]


async def test_a_backfill_takes_no_quota_while_live_traffic_waits_for_it(
    make_rig: Any,
) -> None:
    clock = FakeClock()
    limiter = RateLimiter(
        "a",
        {"single": Limit(10, 10), "bulk": Limit(10, 10)},
        clock=clock,
        share=1.0,
        live_reserve=0.3,
    )
    rig: Rig = await make_rig(limiter, bulk=None)
    await rig.append_records(*(f"old{i}" for i in range(20)), backfill=True)
    await rig.start()
    assert len(rig.sink.ids) == 7
    await rig.append_records(*(f"live{i}" for i in range(5)))
    assert sorted(rig.sink.ids[7:]) == [f"test:live{i}" for i in range(3)]


# ── quota ────────────────────────────────────────────────────────────────────────────────────────


async def test_nothing_is_claimed_without_a_quota_grant(make_rig: Any) -> None:
    quota = FakeQuota(0, wait=2.0)
    rig: Rig = await make_rig(quota)
    await rig.start()
    await rig.append_records("a")
    assert rig.sink.sent == []
    assert (rig.row("a").state, rig.row("a").attempts) == (State.READY, 0)
    quota.left = 1
    await rig.after(1.9)
    assert rig.sink.sent == []
    await rig.after(0.2)
    assert rig.row("a").state == State.ACCEPTED


async def test_no_more_is_claimed_than_was_granted(make_rig: Any) -> None:
    quota = FakeQuota(2)
    rig: Rig = await make_rig(quota)
    await rig.append_records("a", "b", "c")
    await rig.start()
    assert rig.sink.ids == ["test:a", "test:b"]
    assert rig.row("c").attempts == 0


async def test_unused_grants_are_released(make_rig: Any) -> None:
    quota = FakeQuota(10)
    rig: Rig = await make_rig(quota)
    await rig.append_records(*(f"k{i}" for i in range(6)))
    rig.sink.open.clear()
    await rig.start()
    assert quota.left == 9
    rig.sink.open.set()


async def test_a_failed_claim_releases_its_grants(make_rig: Any) -> None:
    quota = FakeQuota(3)
    rig: Rig = await make_rig(quota)
    await rig.append_records("a")

    rig.queue.before_claim = raise_unavailable
    await rig.start()
    await rig.after(3.0)
    assert quota.left == 3
    rig.queue.before_claim = do_nothing
    await rig.after(1.0)
    assert rig.row("a").state == State.ACCEPTED


# ── answers ──────────────────────────────────────────────────────────────────────────────────────


async def test_a_record_not_applied_is_retried_after_a_backoff(rig: Rig) -> None:
    rig.sink.respond_with(retry(), retry())
    await rig.append_records("a")
    pauses = []
    for times in (1, 2):
        assert len(rig.sink.sent) == times
        pauses.append((rig.row("a").due - rig.clock.now()) / 1000)
        await rig.after(pauses[-1] + 0.02)
    assert 0.5 <= pauses[0] <= 1.0
    assert 0.98 <= pauses[1] <= 2.0
    assert rig.row("a").state == State.ACCEPTED
    assert rig.row("a").delivery_mode == DeliveryMode.BATCH


async def test_retry_after_overrides_the_backoff(rig: Rig) -> None:
    rig.sink.respond_with(retry(Problem.KLAVIYO_THROTTLED, after=17.0))
    await rig.append_records("a")
    await rig.after(16.9)
    assert len(rig.sink.sent) == 1
    await rig.after(0.2)
    assert rig.row("a").state == State.ACCEPTED


async def test_ambiguous_records_are_resent_singly_with_their_original_mapping(
    stopped_rig: Rig,
) -> None:
    stopped_rig.sink.respond_with(ambiguous())
    await stopped_rig.append_records(*(f"k{i}" for i in range(8)))
    await stopped_rig.start()
    assert stopped_rig.sink.sent[0].bulk
    assert {row.delivery_mode for row in stopped_rig.rows()} == {DeliveryMode.SINGLE}
    stopped_rig.renderer.version = "v2"
    await stopped_rig.after(5.0)
    again = stopped_rig.sink.sent[1:]
    assert [(r.bulk, len(r.ids)) for r in again] == [(False, 1)] * 8
    assert {r.messages[0][1] for r in again} == {"v1"}  # type: ignore[index]
    assert set(stopped_rig.renderer.prepared) == {"v1"}
    assert stopped_rig.states() == {State.ACCEPTED: 8}


async def test_a_refused_record_is_a_dead_letter_and_is_not_sent_again(rig: Rig) -> None:
    rig.sink.respond_with(dead_letter(Problem.KLAVIYO_REFUSED))
    await rig.append_records("a")
    await rig.after(600)
    assert len(rig.sink.sent) == 1
    assert (rig.row("a").state, rig.row("a").problem) == (State.DEAD, "K400")


async def test_retries_end_at_the_horizon(rig: Rig) -> None:
    rig.sink.default_step = retry()
    await rig.append_records("a")
    await rig.after(300)
    assert (rig.row("a").state, rig.row("a").problem) == (State.DEAD, "L20")


async def test_one_bad_record_never_delays_the_others(rig: Rig) -> None:
    def step(entry: Any) -> Any:
        return ambiguous()(entry) if entry.unique_id == "test:bad" else accept(entry)

    rig.sink.default_step = step
    await rig.append_records("bad")
    for i in range(20):
        await rig.append_records(f"k{i}")
        assert rig.row(f"k{i}").state == State.ACCEPTED
        await rig.after(1.0)


async def test_many_ambiguous_records_do_not_starve_fresh_ones(stopped_rig: Rig) -> None:
    def step(entry: Any) -> Any:
        return ambiguous()(entry) if "bad" in entry.unique_id else accept(entry)

    policy = Policy(bulk_threshold=5, horizon=86_400_000, retry_base=1.0, retry_max=2.0)
    stopped_rig.sink.default_step = step
    await stopped_rig.append_records(*(f"bad{i}" for i in range(40)))
    await stopped_rig.start(policy=policy)
    await stopped_rig.after(60.0)
    await stopped_rig.append_records("good")
    await stopped_rig.after(10.0)
    assert stopped_rig.row("good").state == State.ACCEPTED


async def test_consecutive_failures_slow_the_lane_down(rig: Rig) -> None:
    rig.sink.default_step = retry()
    with structlog.testing.capture_logs() as logs:
        await rig.append_records("a", "b", "c", "d")
        before = len(rig.sink.sent)
        await rig.after(30.0)
    assert len(rig.sink.sent) - before < 15
    assert errors(logs, "warning") == ["destination_failed"]
    [item] = await rig.dispatcher.attention()
    assert (item.problem, item.remote) == (Problem.KLAVIYO_UNAVAILABLE, "klaviyo")
    assert item.text.startswith("acme events → klaviyo: Klaviyo is unavailable")
    assert item.waits
    assert item.since is not None
    assert item.retry_in is not None
    assert not item.needs_person(Millis(item.since + 599_000), 600.0)
    assert item.needs_person(Millis(item.since + 600_000), 600.0)
    rig.sink.default_step = accept
    await rig.after(60.0)
    assert rig.states() == {State.ACCEPTED: 4}
    assert await rig.dispatcher.attention() == []


# ── what a destination refuses as a whole ──────────────────


async def test_a_refused_key_blocks_the_lane_and_costs_no_attempt(rig: Rig) -> None:
    rig.sink.default_step = block("account", Problem.KLAVIYO_KEY)
    await rig.append_records("a")
    assert rig.dispatcher.state.mode == "blocked"
    assert rig.dispatcher.state.problem == Problem.KLAVIYO_KEY
    assert (rig.row("a").state, rig.row("a").attempts) == (State.READY, 0)
    [(_, stored)] = await rig.store.lanes.all()
    assert stored == rig.dispatcher.state


async def test_intake_continues_while_a_lane_is_blocked(rig: Rig) -> None:
    rig.sink.default_step = block("lane", Problem.KLAVIYO_SCOPE)
    await rig.append_records("a")
    await rig.append_records("b", "c")
    assert len(rig.sink.sent) == 1
    assert rig.states() == {State.READY: 3}


async def test_a_missing_target_holds_the_lane(rig: Rig) -> None:
    rig.sink.default_step = block("target", Problem.KLAVIYO_TARGET)
    await rig.append_records("a")
    assert rig.dispatcher.state.mode == "held"


async def test_a_probe_of_one_record_resumes_a_blocked_lane(rig: Rig) -> None:
    rig.sink.respond_with(*[block("account", Problem.KLAVIYO_KEY)] * 2)
    await rig.append_records("a")
    await rig.append_records(*(f"k{i}" for i in range(9)))
    await rig.after(29.0)
    assert len(rig.sink.sent) == 1
    await rig.after(2.0)
    assert [len(r.ids) for r in rig.sink.sent] == [1, 1]
    assert rig.dispatcher.state.mode == "blocked"
    with structlog.testing.capture_logs() as logs:
        await rig.after(30.0)
    assert errors(logs, "info") == ["lane_resumed"]
    assert rig.dispatcher.state.mode == "running"
    assert rig.states() == {State.ACCEPTED: 10}
    [(_, stored)] = await rig.store.lanes.all()
    assert stored.mode == "running"


async def test_a_person_who_resumes_a_failing_lane_need_not_wait_for_its_next_attempt(
    stopped_rig: Rig,
) -> None:
    """The network was repaired, and the next attempt is minutes away."""
    rig = stopped_rig
    await rig.start(policy=Policy(horizon=86_400_000, retry_base=300.0, retry_max=300.0))
    rig.sink.default_step = retry()
    await rig.append_records("a")
    await rig.after(1500.0)
    sent = len(rig.sink.sent)
    assert sent > OPEN_AFTER
    while len(rig.sink.sent) == sent:
        await rig.after(10.0)
    rig.sink.default_step = accept
    await rig.dispatcher.resume()
    await rig.after(1.0)
    assert rig.states() == {State.ACCEPTED: 1}
    assert await rig.dispatcher.attention() == []


async def pause_and_resume(dispatcher: Dispatcher[Any]) -> None:
    await dispatcher.pause()
    await dispatcher.resume()


async def retry_dead_letters(dispatcher: Dispatcher[Any]) -> None:
    """What it does to every lane."""
    dispatcher.probe_now()


@pytest.mark.parametrize("hasten", [Dispatcher.resume, pause_and_resume, retry_dead_letters])
@pytest.mark.parametrize("before", [[], 3 * [Problem.KLAVIYO_UNAVAILABLE]])
async def test_no_person_shortens_what_the_remote_side_has_asked_for(
    rig: Rig, before: list[Problem], hasten: Callable[[Dispatcher[Any]], Awaitable[None]]
) -> None:
    rig.sink.respond_with(*map(retry, before))
    rig.sink.default_step = retry(Problem.PLATFORM_THROTTLED, after=300.0)
    await rig.append_records("a", "b", "c", "d")
    await rig.after(60.0)
    sent = len(rig.sink.sent)
    assert sent > len(before)
    await rig.append_records("e")
    await hasten(rig.dispatcher)
    await rig.after(1.0)
    assert len(rig.sink.sent) == sent
    [item] = await rig.dispatcher.attention()
    assert item.problem is Problem.PLATFORM_THROTTLED
    await rig.after(300.0)
    assert len(rig.sink.sent) > sent


async def test_a_person_who_resumes_hastens_what_fails_otherwise_since_it_was_limited(
    stopped_rig: Rig,
) -> None:
    rig = stopped_rig
    await rig.start(policy=Policy(horizon=86_400_000, retry_base=300.0, retry_max=300.0))
    rig.sink.default_step = retry(Problem.KLAVIYO_THROTTLED)
    await rig.append_records("a")
    await rig.after(1500.0)
    rig.sink.default_step = retry(Problem.KLAVIYO_UNAVAILABLE)
    await rig.after(900.0)
    [item] = await rig.dispatcher.attention()
    assert item.problem is Problem.KLAVIYO_UNAVAILABLE
    rig.sink.default_step = accept
    await rig.dispatcher.resume()
    await rig.after(1.0)
    assert rig.states() == {State.ACCEPTED: 1}


async def test_a_blocked_lane_without_records_probes_with_the_sinks_check(rig: Rig) -> None:
    rig.sink.respond_with(block("account", Problem.KLAVIYO_KEY))
    await rig.append_records("a")
    rig.set_state("a", State.DISCARDED)
    rig.sink.checks = [Check("key", "fault")]
    await rig.after(31.0)
    assert rig.dispatcher.state.mode == "blocked"
    rig.sink.checks = [Check("key", "ok")]
    await rig.after(31.0)
    assert rig.dispatcher.state.mode == "running"


async def test_a_check_that_raises_does_not_end_the_lane(rig: Rig) -> None:
    rig.sink.respond_with(block("account", Problem.KLAVIYO_KEY))
    await rig.append_records("a")
    rig.set_state("a", State.DISCARDED)
    rig.sink.checks = IndexError("an answer without data")
    await rig.after(31.0)
    rig.sink.checks = [Check("key", "ok")]
    await rig.after(61.0)
    assert rig.dispatcher.state.mode == "running"


async def test_time_in_a_pause_does_not_count_against_the_horizon(rig: Rig) -> None:
    rig.sink.respond_with(retry())
    rig.sink.default_step = block("account", Problem.KLAVIYO_KEY)
    await rig.append_records("a")
    since = rig.row("a").failing_since
    await rig.after(3600)
    assert rig.dispatcher.state.mode == "blocked"
    paused = rig.clock.now() - rig.dispatcher.state.since
    await rig.dispatcher.resume()
    assert since is not None
    assert rig.row("a").failing_since == since + paused
    rig.sink.default_step = retry()
    await rig.after(30.0)
    assert rig.row("a").state == State.READY
    await rig.after(300.0)
    assert (rig.row("a").state, rig.row("a").problem) == (State.DEAD, "L20")


async def test_a_failed_probe_dead_letters_nothing_however_long_the_pause(rig: Rig) -> None:
    rig.sink.respond_with(retry(), block("account", Problem.KLAVIYO_KEY))
    rig.sink.default_step = block("account", Problem.KLAVIYO_KEY)
    await rig.append_records("a")
    await rig.after(3600)
    assert rig.dispatcher.state.mode == "blocked"
    rig.sink.default_step = retry()
    await rig.after(31.0)
    assert rig.row("a").state == State.READY
    rig.sink.default_step = accept
    await rig.after(1500.0)
    assert rig.row("a").state == State.ACCEPTED


async def test_a_manual_pause_of_a_blocked_lane_does_not_use_up_the_horizon(rig: Rig) -> None:
    rig.sink.respond_with(retry(), block("account", Problem.KLAVIYO_KEY))
    rig.sink.default_step = block("account", Problem.KLAVIYO_KEY)
    await rig.append_records("a")
    await rig.after(3600)
    await rig.dispatcher.pause()
    rig.sink.default_step = retry()
    await rig.dispatcher.resume()
    await rig.after(5.0)
    assert rig.row("a").state == State.READY


# ── paused by a person ───────────────────────────────────────────────────────────────────────────


async def test_a_paused_lane_sends_nothing_and_stays_paused_after_a_restart(rig: Rig) -> None:
    await rig.dispatcher.pause()
    await rig.append_records("a")
    await rig.after(3600)
    assert rig.sink.sent == []
    await rig.stop()
    await rig.start()
    rig.dispatcher.probe_now()
    await rig.after(3600)
    assert rig.sink.sent == []
    assert rig.dispatcher.state.mode == "paused"
    await rig.dispatcher.resume()
    await rig.after(0.1)
    assert rig.row("a").state == State.ACCEPTED


async def test_a_pause_settles_what_is_in_flight(rig: Rig) -> None:
    rig.sink.open.clear()
    await rig.append_records("a")
    await rig.dispatcher.pause()
    rig.sink.open.set()
    await run_pending()
    assert rig.row("a").state == State.ACCEPTED
    assert rig.dispatcher.state.mode == "paused"


# ── mass death ───────────────────────────────────────────────────────────────────────────────────


async def dead_letter_many(rig: Rig, dead: int, of: int) -> None:
    rig.sink.respond_with(*[dead_letter()] * dead)
    for i in range(of):
        await rig.append_records(f"mass{i}")


async def test_more_than_half_of_a_hundred_dead_for_one_cause_hold_the_lane(rig: Rig) -> None:
    await dead_letter_many(rig, 51, 100)
    assert rig.dispatcher.state.mode == "held"
    assert rig.dispatcher.state.problem == Problem.HIGH_DEAD_RATE
    assert "K400" in rig.dispatcher.state.detail


async def test_half_of_a_hundred_dead_do_not_hold_the_lane(rig: Rig) -> None:
    await dead_letter_many(rig, 50, 100)
    assert rig.dispatcher.state.mode == "running"


async def test_dead_letters_of_several_causes_do_not_hold_the_lane(rig: Rig) -> None:
    causes = (Problem.KLAVIYO_REFUSED, Problem.MAPPING_FAILED, Problem.STRING_TOO_LONG)
    rig.sink.respond_with(*[dead_letter(causes[i % 3]) for i in range(100)])
    for i in range(100):
        await rig.append_records(f"k{i}")
    assert rig.dispatcher.state.mode == "running"


async def test_a_probe_of_a_held_lane_dead_letters_nothing(rig: Rig) -> None:
    await dead_letter_many(rig, 51, 100)
    rig.sink.default_step = dead_letter()
    await rig.append_records(*(f"k{i}" for i in range(10)))
    before = len(rig.sink.sent)
    await rig.after(40 * rig.policy.horizon / 1000)
    assert len(rig.sink.sent) > before + 5 * 10
    assert all(rig.row(f"k{i}").state == State.READY for i in range(10))
    rig.sink.default_step = accept
    await rig.after(400.0)
    assert rig.dispatcher.state.mode == "running"
    assert all(rig.row(f"k{i}").state == State.ACCEPTED for i in range(10))


async def test_one_bad_record_at_the_head_does_not_keep_a_lane_held(rig: Rig) -> None:
    await dead_letter_many(rig, 51, 100)

    def step(entry: Any) -> Any:
        return dead_letter()(entry) if entry.unique_id == "test:bad" else accept(entry)

    rig.sink.default_step = step
    await rig.append_records("bad")
    await rig.append_records("good")
    await rig.after(95.0)
    assert rig.dispatcher.state.mode == "running"
    assert rig.row("good").state == State.ACCEPTED
    await rig.after(60.0)
    assert rig.row("bad").state == State.DEAD


# ── the lease ────────────────────────────────────────────────────────────────────────────────────


async def test_without_the_lease_nothing_is_claimed(rig: Rig) -> None:
    rig.lease.held = False
    await rig.append_records("a")
    await rig.after(60)
    assert rig.sink.sent == []
    assert rig.row("a").attempts == 0
    rig.lease.held = True
    rig.dispatcher.wake()  # as whoever makes the lease valid does
    await rig.after(1.1)
    assert rig.row("a").state == State.ACCEPTED


async def test_a_lease_lost_before_the_claim_claims_nothing(rig: Rig) -> None:
    """As at each hand-over to another replica: it is no failure of the store."""
    claims = 0

    async def lose() -> None:
        rig.lease.held = False

    async def count() -> None:
        nonlocal claims
        claims += 1

    rig.queue.after_ready, rig.queue.before_claim = lose, count
    await rig.append_records("a")
    assert claims == 0
    rig.queue.after_ready = count
    rig.lease.held = True
    rig.dispatcher.wake()
    await rig.after(1.1)
    assert rig.row("a").state == State.ACCEPTED


async def test_a_lease_lost_after_the_claim_sends_nothing(rig: Rig) -> None:
    async def lose() -> None:
        rig.lease.held = False

    rig.queue.after_claim = lose
    await rig.append_records("a")
    assert rig.sink.sent == []
    assert (rig.row("a").state, rig.row("a").attempts) == (State.READY, 0)
    assert rig.row("a").delivery_mode == DeliveryMode.BATCH


async def test_a_lease_lost_between_two_requests_of_a_batch_sends_no_more(make_rig: Any) -> None:
    class Generous(FakeQuota):
        def reserve(self, endpoint: str, want: int, *, backfill: bool = False) -> Grant:
            return super().reserve(endpoint, 3, backfill=backfill)

    rig: Rig = await make_rig(Generous(), bulk=BatchMode("bulk", size=3, parallel=3))

    def step(entry: Any) -> Any:
        rig.lease.held = False
        return accept(entry)

    rig.sink.default_step = step
    rig.sink.open.clear()
    await rig.append_records(*(f"k{i}" for i in range(9)))
    await rig.start()
    rig.sink.open.set()
    await run_pending()
    assert [len(r.ids) for r in rig.sink.sent] == [3]
    assert rig.states() == {State.ACCEPTED: 3, State.READY: 6}


async def test_a_late_response_after_a_takeover_changes_nothing(rig: Rig) -> None:
    rig.sink.open.clear()
    await rig.append_records("a")
    year = 366 * 86_400
    rig.clock.move(year)
    other = await rig.store.leases.acquire("store", "two", now=rig.clock.now(), ttl=10**9)
    await rig.store.outbox.recover(other, now=rig.clock.now())  # type: ignore[arg-type]
    rig.lease.held = False
    rig.sink.open.set()
    await run_pending()
    assert (rig.row("a").state, rig.row("a").delivery_mode) == (
        State.READY,
        DeliveryMode.SINGLE,
    )


# ── settling ─────────────────────────────────────────────────────────────────────────────────────


async def test_a_batch_settles_once(rig: Rig) -> None:
    async def twice(entries: Sequence[Entry]) -> AsyncIterator[Delivery]:
        yield Delivery([Accepted(entry.seq, "first") for entry in entries])
        yield Delivery([Dead(entry.seq, Problem.KLAVIYO_REFUSED) for entry in entries])

    rig.sink.override = twice
    await rig.append_records("a")
    await rig.after(1.0)
    assert rig.row("a").state == State.ACCEPTED
    assert (
        rig.metrics.registry.get_sample_value(
            "connector_deliveries_total",
            {
                "connection": "acme",
                "destination": "klaviyo",
                "kind": "event",
                "outcome": "accepted",
            },
        )
        == 1.0
    )


async def test_an_entry_without_an_outcome_from_the_sink_is_ambiguous(rig: Rig) -> None:
    async def forget(entries: Sequence[Entry]) -> AsyncIterator[Delivery]:
        yield Delivery([])

    rig.sink.override = forget
    await rig.append_records("a")
    row = rig.row("a")
    assert (row.state, row.delivery_mode) == (State.READY, DeliveryMode.SINGLE)
    rig.sink.override = None
    await rig.after(5.0)
    assert rig.row("a").state == State.ACCEPTED


async def test_a_sink_that_raises_leaves_all_entries_ambiguous_and_loses_none(
    stopped_rig: Rig,
) -> None:
    stopped_rig.sink.respond_with(fail(RuntimeError("a fault of ours")))
    await stopped_rig.append_records(*(f"k{i}" for i in range(7)))
    with structlog.testing.capture_logs() as logs:
        await stopped_rig.start()
    assert "delivery_crashed" in errors(logs, "error")
    assert {(r.state, r.delivery_mode, r.problem) for r in stopped_rig.rows()} == {
        (State.READY, DeliveryMode.SINGLE, "N70")
    }
    await stopped_rig.after(10.0)
    assert stopped_rig.states() == {State.ACCEPTED: 7}
    assert all(not request.bulk for request in stopped_rig.sink.sent[1:])


async def test_a_stop_in_mid_batch_leaves_the_rest_unsent_without_an_attempt(
    stopped_rig: Rig,
) -> None:
    await stopped_rig.append_records(*(f"k{i}" for i in range(6)))

    async def half(entries: Sequence[Entry]) -> AsyncIterator[Delivery]:
        seqs = [entry.seq for entry in entries]
        yield Delivery(
            [Accepted(seqs[0], "r"), *(Unsent(seq) for seq in seqs[1:])],
            stop=Stop("lane", Problem.KLAVIYO_SCOPE),
        )

    stopped_rig.sink.override = half
    await stopped_rig.start()
    assert stopped_rig.dispatcher.state.mode == "blocked"
    assert stopped_rig.states() == {State.ACCEPTED: 1, State.READY: 5}
    assert {r.attempts for r in stopped_rig.rows() if r.state == State.READY} == {0}


# ── the store is away ────────────────────────────────────────────────────────────────────────────


async def test_a_store_unavailable_at_the_claim_loses_nothing_and_is_logged_once(
    stopped_rig: Rig,
) -> None:
    await stopped_rig.append_records("a", "b")
    with structlog.testing.capture_logs() as logs:
        await stopped_rig.start(broken=UNAVAILABLE)
        await stopped_rig.after(30.0)
        assert stopped_rig.sink.sent == []
        stopped_rig.database.error = None
        await stopped_rig.after(2.0)
    assert stopped_rig.states() == {State.ACCEPTED: 2}
    assert errors(logs, "error") == ["store_failed"]
    assert errors(logs, "info").count("store_recovered") == 1


@pytest.mark.parametrize("paused", [False, True])
async def test_a_claim_whose_commit_was_not_answered_is_given_back_and_sent_once(
    stopped_rig: Rig, paused: bool
) -> None:
    await stopped_rig.append_records("a")
    stopped_rig.queue.after_claim = raise_unavailable
    await stopped_rig.start()
    assert stopped_rig.states() == {State.CLAIMED: 1}
    stopped_rig.queue.after_claim = do_nothing
    if paused:
        await stopped_rig.dispatcher.pause()
        await stopped_rig.after(2.0)
        assert stopped_rig.states() == {State.READY: 1}
        await stopped_rig.dispatcher.resume()
    await stopped_rig.after(2.0)
    assert stopped_rig.states() == {State.ACCEPTED: 1}
    assert stopped_rig.row("a").attempts == 1
    assert [entry.mode for entry in stopped_rig.sink.sent[0].entries] == [DeliveryMode.BATCH]
    assert len(stopped_rig.sink.sent) == 1


async def test_a_read_only_store_is_logged_once(stopped_rig: Rig) -> None:
    await stopped_rig.append_records("a")

    stopped_rig.queue.before_claim = raise_unavailable
    with structlog.testing.capture_logs() as logs:
        await stopped_rig.start()
        await stopped_rig.after(30.0)
        stopped_rig.queue.before_claim = do_nothing
        await stopped_rig.after(2.0)
    assert errors(logs, "error") == ["store_failed"]
    assert errors(logs, "info") == ["store_recovered"]
    assert stopped_rig.row("a").state == State.ACCEPTED


async def test_a_damaged_store_is_logged_once_though_some_statements_succeed(
    stopped_rig: Rig,
) -> None:
    await stopped_rig.append_records("a")
    calls = itertools.count()

    async def damaged() -> None:
        if next(calls) % 2 == 0:
            raise StoreError(Problem.STORE_DAMAGED, "raised by a test")

    stopped_rig.queue.before_claim = damaged
    with structlog.testing.capture_logs() as logs:
        await stopped_rig.start()
        for key in "bcd":
            await stopped_rig.after(3.0)
            await stopped_rig.append_records(key)
            stopped_rig.dispatcher.wake()
    assert errors(logs, "error") == ["store_failed"]
    assert errors(logs, "info") == []


async def test_a_store_unavailable_at_the_settle_loses_no_outcome_and_sends_nothing_twice(
    rig: Rig,
) -> None:
    rig.sink.open.clear()
    await rig.append_records("a", "b")
    with structlog.testing.capture_logs() as logs:
        rig.database.error = UNAVAILABLE
        rig.sink.open.set()
        await rig.after(30.0)
        assert rig.states() == {State.CLAIMED: 2}
        rig.database.error = None
        await rig.after(2.0)
    assert rig.states() == {State.ACCEPTED: 2}
    assert sorted(rig.sink.ids) == ["test:a", "test:b"]
    assert errors(logs, "error") == ["store_failed"]
    assert errors(logs, "info") == ["store_recovered"]


@pytest.mark.parametrize(
    "refusal", [StoreError(Problem.STORE_REFUSED, "raised by a test"), OverflowError("too large")]
)
async def test_an_outcome_the_store_can_never_save_is_dead_lettered_alone(
    rig: Rig, refusal: Exception
) -> None:
    def refuses(outcomes: Sequence[Outcome]) -> Exception | None:
        poisoned = rig.row("b").seq
        found = any(o.seq == poisoned and isinstance(o, Accepted) for o in outcomes)
        return refusal if found else None

    rig.queue.refuses = refuses
    await rig.append_records(*"abcdefgh")  # more than the threshold: they are settled together
    await rig.after(60.0)
    assert rig.states() == {State.ACCEPTED: 7, State.DEAD: 1}
    assert (rig.row("b").state, rig.row("b").problem) == (State.DEAD, "S60")
    assert sorted(rig.sink.ids) == [f"test:{key}" for key in "abcdefgh"]
    await rig.append_records("later")
    await rig.after(1.0)
    assert rig.row("later").state == State.ACCEPTED


async def test_an_entry_that_cannot_be_dead_lettered_stays_ambiguous_and_blocks_no_other(
    rig: Rig,
) -> None:
    def refuses(outcomes: Sequence[Outcome]) -> Exception | None:
        found = any(o.seq == rig.row("a").seq for o in outcomes)
        return StoreError(Problem.STORE_REFUSED, "by a test") if found else None

    rig.queue.refuses = refuses
    await rig.append_records("a", "b")
    await rig.after(60.0)
    assert (rig.row("a").state, rig.row("b").state) == (State.CLAIMED, State.ACCEPTED)


async def test_a_store_unavailable_while_a_lane_is_blocked_or_resumed_loses_nothing(
    rig: Rig,
) -> None:
    rig.sink.respond_with(retry(), block("account", Problem.KLAVIYO_KEY))
    await rig.append_records("a")
    await rig.after(2.0)
    assert rig.dispatcher.state.mode == "blocked"

    rig.queue.before_extend = raise_unavailable
    await rig.after(31.0)
    assert rig.row("a").state == State.ACCEPTED
    assert rig.dispatcher.state.mode == "blocked"
    rig.queue.before_extend = do_nothing
    await rig.append_records("b")
    await rig.after(31.0)
    assert rig.dispatcher.state.mode == "running"
    assert rig.row("b").state == State.ACCEPTED


async def test_a_mapping_that_cannot_be_fetched_delays_and_loses_nothing(rig: Rig) -> None:
    rig.sink.respond_with(ambiguous())
    await rig.append_records("a")
    rig.renderer.broken = UNAVAILABLE
    await rig.after(30.0)
    assert (rig.row("a").state, rig.row("a").attempts) == (State.READY, 1)
    rig.renderer.broken = None
    await rig.after(5.0)
    assert rig.row("a").state == State.ACCEPTED


# ── rendering ────────────────────────────────────────────────────────────────────────────────────


async def test_a_render_fault_dead_letters_only_its_record(stopped_rig: Rig) -> None:
    stopped_rig.renderer.overrides["test:b"] = Fault(Problem.MAPPING_FAILED, "no such path")
    await stopped_rig.append_records("a", "b", "c")
    await stopped_rig.start()
    assert [stopped_rig.row(k).state for k in "abc"] == [State.ACCEPTED, State.DEAD, State.ACCEPTED]
    assert (stopped_rig.row("b").problem, stopped_rig.row("b").detail) == ("M10", "no such path")


async def test_a_renderer_that_raises_dead_letters_only_its_record(stopped_rig: Rig) -> None:
    stopped_rig.renderer.overrides["test:k3"] = ZeroDivisionError()
    await stopped_rig.append_records(*(f"k{i}" for i in range(7)))
    await stopped_rig.start()
    assert stopped_rig.states() == {State.ACCEPTED: 6, State.DEAD: 1}
    assert "ZeroDivisionError" in stopped_rig.row("k3").detail


async def test_a_record_without_a_usable_address_is_held_not_dead(rig: Rig) -> None:
    rig.renderer.overrides["test:a"] = Fault(Problem.NO_IDENTITY, "")
    rig.renderer.overrides["test:b"] = Fault(Problem.BAD_ADDRESS, "")
    await rig.append_records("a", "b")
    assert rig.states() == {State.HELD: 2}
    assert rig.sink.sent == []


async def test_a_record_without_an_address_never_reaches_the_sink(rig: Rig) -> None:
    await rig.append_records("a", email=None)
    await rig.after(60.0)
    assert rig.states() == {State.HELD: 1}
    assert rig.sink.sent == []


async def test_a_record_skipped_by_the_mapping_is_settled_and_not_sent(rig: Rig) -> None:
    rig.renderer.overrides["test:a"] = Skip("disabled")
    await rig.append_records("a")
    assert (rig.row("a").state, rig.row("a").detail) == (State.SKIPPED, "disabled")
    assert rig.sink.sent == []


async def test_a_held_outcome_waits_for_an_operator(rig: Rig) -> None:
    rig.sink.respond_with(lambda entry: Held(entry.seq, Problem.BAD_ADDRESS))
    await rig.append_records("a")
    await rig.after(3600)
    assert rig.states() == {State.HELD: 1}
    assert len(rig.sink.sent) == 1


# ── stopping ─────────────────────────────────────────────────────────────────────────────────────


async def test_stop_finishes_what_is_in_flight(rig: Rig) -> None:
    rig.sink.open.clear()
    await rig.append_records("a")
    stopping = asyncio.create_task(rig.dispatcher.stop(20.0))
    await run_pending()
    assert not stopping.done()
    await rig.append_records("later")
    rig.sink.open.set()
    await run_pending()
    assert stopping.done()
    assert rig.row("a").state == State.ACCEPTED
    assert rig.row("later").attempts == 0


async def test_stop_cancels_after_its_timeout_and_leaves_entries_ambiguous(rig: Rig) -> None:
    rig.sink.open.clear()
    await rig.append_records("a")
    await rig.stop(20.0)
    assert (rig.row("a").state, rig.row("a").delivery_mode, rig.row("a").problem) == (
        State.READY,
        DeliveryMode.SINGLE,
        "N70",
    )


async def test_stop_ends_even_while_the_store_is_unavailable(rig: Rig) -> None:
    rig.sink.open.clear()
    await rig.append_records("a")
    rig.database.error = UNAVAILABLE
    await rig.stop(20.0)
    assert rig.row("a").state == State.CLAIMED  # ambiguous at the next start
    assert not rig.dispatcher.busy


async def test_stop_waits_for_a_claim_in_progress(rig: Rig) -> None:
    gate = asyncio.Event()

    async def wait() -> None:
        await gate.wait()

    rig.queue.before_claim = wait
    await rig.append_records("a")
    stopping = asyncio.create_task(rig.dispatcher.stop(20.0))
    await run_pending()
    assert not stopping.done()
    gate.set()
    await run_pending()
    assert stopping.done()
    assert not rig.dispatcher.busy
    assert rig.row("a").state == State.ACCEPTED


async def test_entries_claimed_by_a_dead_process_are_sent_singly(stopped_rig: Rig) -> None:
    await stopped_rig.append_records(*(f"k{i}" for i in range(8)))
    await stopped_rig.store.outbox.claim(
        stopped_rig.lane,
        stopped_rig.lease.fence,
        now=stopped_rig.clock.now(),
        limit=100,
        mode=DeliveryMode.BATCH,
        mapping="v0",
    )
    await stopped_rig.store.outbox.recover(stopped_rig.lease.fence, now=stopped_rig.clock.now())
    await stopped_rig.start()
    assert [r.bulk for r in stopped_rig.sink.sent] == [False] * 8
    assert {r.messages[0][1] for r in stopped_rig.sink.sent} == {"v0"}  # type: ignore[index]
