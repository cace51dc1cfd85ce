"""The lane, sentence by sentence (DESIGN 3)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import structlog.testing

from connector.domain.attention import (
    Check,
)
from connector.domain.errors import Problem, StoreError
from connector.domain.messages import (
    Fault,
    Skip,
)
from connector.domain.outcomes import (
    Accepted,
    Dead,
    Delivery,
    Held,
    Stop,
    Unsent,
)
from connector.domain.records import (
    Claim,
    State,
)
from connector.net.rate_limit import Governor, Limit
from connector.pipeline.dispatch import Policy
from connector.ports import Grant
from connector.testing.fakes.clock import FakeClock, settle_down
from connector.testing.fakes.sinks import Allowance, accept, block, die, doubt, fail, retry

from .conftest import Rig

AWAY = StoreError(Problem.STORE_UNAVAILABLE, "told by a test")


class Noting(Allowance):
    """Notes what it is asked for: (endpoint, whether for a backfill)."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, bool]] = []

    def reserve(self, endpoint: str, want: int, *, backfill: bool = False) -> Grant:
        self.asked.append((endpoint, backfill))
        return super().reserve(endpoint, want, backfill=backfill)


def errors(logs: list[Any], level: str) -> list[str]:
    return [line["event"] for line in logs if line["log_level"] == level]


# ── singly or in bulk ────────────────────────────────────────────────────────────────────────────


async def test_a_short_queue_goes_singly_each_record_with_its_own_answer(still: Rig) -> None:
    still.sink.answers(accept, die(), accept)
    await still.say("a", "b", "c")
    await still.start()
    assert [(r.ids, r.bulk) for r in still.sink.sent] == [
        (("test:a",), False),
        (("test:b",), False),
        (("test:c",), False),
    ]
    assert [still.row(k).state for k in "abc"] == [State.ACCEPTED, State.DEAD, State.ACCEPTED]


async def test_a_long_queue_goes_in_bulk(still: Rig) -> None:
    await still.say(*(f"k{i}" for i in range(6)))
    await still.start()
    [request] = still.sink.sent
    assert request.bulk
    assert len(request.ids) == 6
    assert still.states() == {State.ACCEPTED: 6}


async def test_a_batch_forms_while_a_request_is_in_flight(rig: Rig) -> None:
    rig.sink.open.clear()
    await rig.say("a", "b", "c", "d")
    await rig.say(*(f"k{i}" for i in range(10)))
    rig.sink.open.set()
    await settle_down()
    assert [len(r.ids) for r in rig.sink.sent] == [1, 1, 1, 1, 10]


async def test_no_more_requests_are_in_flight_than_the_mode_allows(make_rig: Any) -> None:
    rig: Rig = await make_rig(bulk=None)
    await rig.start()
    rig.sink.open.clear()
    await rig.say(*(f"k{i}" for i in range(10)))
    assert len(rig.sink.sent) == 4
    rig.sink.open.set()
    await settle_down()
    assert sorted(rig.sink.ids) == sorted(f"test:k{i}" for i in range(10))


async def test_live_goes_before_backfill(still: Rig) -> None:
    await still.say("old", backfill=True)
    await still.say("live")
    await still.start()
    assert still.sink.ids == ["test:live", "test:old"]


async def test_a_long_backfill_goes_in_bulk_and_live_records_go_singly_beside_it(
    rig: Rig,
) -> None:
    rig.sink.open.clear()
    await rig.say(*(f"old{i}" for i in range(150)), backfill=True)
    await rig.say("live")
    assert [(len(r.ids), r.bulk, r.entries[0].backfill) for r in rig.sink.sent] == [
        (100, True, True),
        (1, False, False),
    ]
    assert not rig.dispatcher.hurried
    rig.sink.open.set()
    await settle_down()
    assert rig.states() == {State.ACCEPTED: 151}


async def test_a_live_record_that_waits_for_room_does_not_ride_on_a_backfills_batch(
    rig: Rig,
) -> None:
    rig.sink.open.clear()
    await rig.say(*(f"live{i}" for i in range(5)))
    await rig.say(*(f"old{i}" for i in range(20)), backfill=True)
    [batch] = [r for r in rig.sink.sent if r.bulk]
    assert all(entry.backfill for entry in batch.entries)
    rig.sink.open.set()
    await settle_down()
    assert rig.states() == {State.ACCEPTED: 25}


async def test_a_backfills_batches_grow_before_they_go(rig: Rig) -> None:
    for n in range(10):
        await rig.say(*(f"old{n}-{i}" for i in range(9)), backfill=True)
    assert [len(r.ids) for r in rig.sink.sent] == [9]
    await rig.say("live")
    assert rig.sink.ids[9:] == ["test:live"]
    await rig.after(1.9)
    assert len(rig.sink.sent) == 2
    await rig.after(0.2)
    assert [len(r.ids) for r in rig.sink.sent] == [9, 1, 81]


async def test_a_full_batch_of_a_backfill_is_followed_at_once(still: Rig) -> None:
    await still.say(*(f"old{i}" for i in range(250)), backfill=True)
    await still.start()
    assert [len(r.ids) for r in still.sink.sent] == [100, 100, 50]


async def test_a_backfill_asks_for_quota_as_one(make_rig: Any) -> None:
    quota = Noting()
    rig: Rig = await make_rig(quota)
    await rig.say("old", backfill=True)
    await rig.say("live")
    await rig.start()
    assert quota.asked == [("single", False), ("single", True)]


async def test_where_live_traffic_has_no_quota_a_backfill_does_not_take_its_turn(
    make_rig: Any,
) -> None:
    clock = FakeClock()
    governor = Governor(
        "a",
        {"single": Limit(10, 10), "bulk": Limit(10, 10)},
        clock=clock,
        share=1.0,
        live_reserve=0.3,
    )
    rig: Rig = await make_rig(governor, bulk=None)
    await rig.say(*(f"old{i}" for i in range(20)), backfill=True)
    await rig.start()
    assert len(rig.sink.ids) == 7
    await rig.say(*(f"live{i}" for i in range(5)))
    assert sorted(rig.sink.ids[7:]) == [f"test:live{i}" for i in range(3)]


# ── quota ────────────────────────────────────────────────────────────────────────────────────────


async def test_nothing_is_claimed_without_a_grant_of_quota(make_rig: Any) -> None:
    quota = Allowance(0, wait=2.0)
    rig: Rig = await make_rig(quota)
    await rig.start()
    await rig.say("a")
    assert rig.sink.sent == []
    assert (rig.row("a").state, rig.row("a").attempts) == (State.READY, 0)
    quota.left = 1
    await rig.after(1.9)
    assert rig.sink.sent == []
    await rig.after(0.2)
    assert rig.row("a").state == State.ACCEPTED


async def test_no_more_is_claimed_than_was_granted(make_rig: Any) -> None:
    quota = Allowance(2)
    rig: Rig = await make_rig(quota)
    await rig.say("a", "b", "c")
    await rig.start()
    assert rig.sink.ids == ["test:a", "test:b"]
    assert rig.row("c").attempts == 0


async def test_grants_that_were_not_used_are_given_back(make_rig: Any) -> None:
    quota = Allowance(10)
    rig: Rig = await make_rig(quota)
    await rig.say(*(f"k{i}" for i in range(6)))
    rig.sink.open.clear()
    await rig.start()
    assert quota.left == 9
    rig.sink.open.set()


async def test_a_claim_that_fails_gives_its_grants_back(make_rig: Any) -> None:
    quota = Allowance(3)
    rig: Rig = await make_rig(quota)
    await rig.say("a")

    async def away(*_: Any, **__: Any) -> None:
        raise AWAY

    claim = rig.store.claim
    rig.store.claim = away  # type: ignore[method-assign, assignment]
    await rig.start()
    await rig.after(3.0)
    assert quota.left == 3
    rig.store.claim = claim  # type: ignore[method-assign]
    await rig.after(1.0)
    assert rig.row("a").state == State.ACCEPTED


# ── answers ──────────────────────────────────────────────────────────────────────────────────────


async def test_what_was_not_applied_is_tried_again_after_a_backoff(rig: Rig) -> None:
    rig.sink.answers(retry(), retry())
    await rig.say("a")
    pauses = []
    for times in (1, 2):
        assert len(rig.sink.sent) == times
        pauses.append((rig.row("a").due - rig.clock.now()) / 1000)
        await rig.after(pauses[-1] + 0.02)
    assert 0.5 <= pauses[0] <= 1.0
    assert 0.98 <= pauses[1] <= 2.0
    assert rig.row("a").state == State.ACCEPTED
    assert not rig.row("a").solo


async def test_retry_after_is_waited_for_whatever_the_backoff(rig: Rig) -> None:
    rig.sink.answers(retry(Problem.KLAVIYO_THROTTLED, after=17.0))
    await rig.say("a")
    await rig.after(16.9)
    assert len(rig.sink.sent) == 1
    await rig.after(0.2)
    assert rig.row("a").state == State.ACCEPTED


async def test_what_is_in_doubt_goes_singly_with_the_mapping_it_was_sent_with(still: Rig) -> None:
    still.sink.answers(doubt())
    await still.say(*(f"k{i}" for i in range(8)))
    await still.start()
    assert still.sink.sent[0].bulk
    assert all(row.solo for row in still.store.rows.values())
    still.renderer.version = "v2"
    await still.after(5.0)
    again = still.sink.sent[1:]
    assert [(r.bulk, len(r.ids)) for r in again] == [(False, 1)] * 8
    assert {r.messages[0][1] for r in again} == {"v1"}  # type: ignore[index]
    assert set(still.renderer.prepared) == {"v1"}
    assert still.states() == {State.ACCEPTED: 8}


async def test_a_refused_record_is_a_dead_letter_and_is_not_sent_again(rig: Rig) -> None:
    rig.sink.answers(die(Problem.KLAVIYO_REFUSED))
    await rig.say("a")
    await rig.after(600)
    assert len(rig.sink.sent) == 1
    assert (rig.row("a").state, rig.row("a").problem) == (State.DEAD, "K400")


async def test_retries_end_at_the_horizon(rig: Rig) -> None:
    rig.sink.otherwise = retry()
    await rig.say("a")
    await rig.after(300)
    assert (rig.row("a").state, rig.row("a").problem) == (State.DEAD, "L20")


async def test_one_bad_record_never_delays_the_others(rig: Rig) -> None:
    def step(entry: Any) -> Any:
        return doubt()(entry) if entry.unique_id == "test:bad" else accept(entry)

    rig.sink.otherwise = step
    await rig.say("bad")
    for i in range(20):
        await rig.say(f"k{i}")
        assert rig.row(f"k{i}").state == State.ACCEPTED
        await rig.after(1.0)


async def test_many_bad_records_in_doubt_do_not_starve_fresh_ones(still: Rig) -> None:
    def step(entry: Any) -> Any:
        return doubt()(entry) if "bad" in entry.unique_id else accept(entry)

    policy = Policy(bulk_threshold=5, horizon=86_400_000, retry_base=1.0, retry_max=2.0)
    still.sink.otherwise = step
    await still.say(*(f"bad{i}" for i in range(40)))
    await still.start(policy=policy)
    await still.after(60.0)
    await still.say("good")
    await still.after(10.0)
    assert still.row("good").state == State.ACCEPTED


async def test_failures_without_success_between_slow_the_lane_down(rig: Rig) -> None:
    rig.sink.otherwise = retry()
    with structlog.testing.capture_logs() as logs:
        await rig.say("a", "b", "c", "d")
        before = len(rig.sink.sent)
        await rig.after(30.0)
    assert len(rig.sink.sent) - before < 15
    assert errors(logs, "warning") == ["the far end fails; going slowly until it answers"]
    rig.sink.otherwise = accept
    await rig.after(60.0)
    assert rig.states() == {State.ACCEPTED: 4}
    assert rig.dispatcher.trouble is None


# ── what a far end refuses as a whole ────────────────────────────────────────────────────────────


async def test_a_refused_key_blocks_the_lane_and_costs_no_attempt(rig: Rig) -> None:
    rig.sink.otherwise = block("account", Problem.KLAVIYO_KEY)
    await rig.say("a")
    assert rig.dispatcher.state.mode == "blocked"
    assert rig.dispatcher.state.problem == Problem.KLAVIYO_KEY
    assert (rig.row("a").state, rig.row("a").attempts) == (State.READY, 0)
    [(_, stored)] = await rig.store.all()
    assert stored == rig.dispatcher.state


async def test_intake_goes_on_while_a_lane_is_blocked(rig: Rig) -> None:
    rig.sink.otherwise = block("lane", Problem.KLAVIYO_SCOPE)
    await rig.say("a")
    await rig.say("b", "c")
    assert len(rig.sink.sent) == 1
    assert rig.states() == {State.READY: 3}


async def test_a_missing_target_holds_the_lane(rig: Rig) -> None:
    rig.sink.otherwise = block("target", Problem.KLAVIYO_TARGET)
    await rig.say("a")
    assert rig.dispatcher.state.mode == "held"


async def test_a_probe_of_one_record_resumes_a_blocked_lane(rig: Rig) -> None:
    rig.sink.answers(*[block("account", Problem.KLAVIYO_KEY)] * 2)
    await rig.say("a")
    await rig.say(*(f"k{i}" for i in range(9)))
    await rig.after(29.0)
    assert len(rig.sink.sent) == 1
    await rig.after(2.0)
    assert [len(r.ids) for r in rig.sink.sent] == [1, 1]
    assert rig.dispatcher.state.mode == "blocked"
    await rig.after(30.0)
    assert rig.dispatcher.state.mode == "running"
    assert rig.states() == {State.ACCEPTED: 10}
    [(_, stored)] = await rig.store.all()
    assert stored.mode == "running"


async def test_a_blocked_lane_without_records_asks_the_sinks_own_check(rig: Rig) -> None:
    rig.sink.answers(block("account", Problem.KLAVIYO_KEY))
    await rig.say("a")
    seq = rig.row("a").seq
    rig.store.rows[seq].state = State.DISCARDED
    rig.sink.checks = [Check("key", "fault")]
    await rig.after(31.0)
    assert rig.dispatcher.state.mode == "blocked"
    rig.sink.checks = [Check("key", "ok")]
    await rig.after(31.0)
    assert rig.dispatcher.state.mode == "running"


async def test_a_check_that_raises_does_not_end_the_lane(rig: Rig) -> None:
    rig.sink.answers(block("account", Problem.KLAVIYO_KEY))
    await rig.say("a")
    rig.row("a").state = State.DISCARDED
    rig.sink.checks = IndexError("an answer without data")
    await rig.after(31.0)
    rig.sink.checks = [Check("key", "ok")]
    await rig.after(61.0)
    assert rig.dispatcher.state.mode == "running"


async def test_time_in_a_pause_does_not_count_against_the_horizon(rig: Rig) -> None:
    rig.sink.answers(retry())
    rig.sink.otherwise = block("account", Problem.KLAVIYO_KEY)
    await rig.say("a")
    since = rig.row("a").failing_since
    await rig.after(3600)
    assert rig.dispatcher.state.mode == "blocked"
    paused = rig.clock.now() - rig.dispatcher.state.since
    await rig.dispatcher.resume()
    assert since is not None
    assert rig.row("a").failing_since == since + paused
    rig.sink.otherwise = retry()
    await rig.after(30.0)
    assert rig.row("a").state == State.READY
    await rig.after(300.0)
    assert (rig.row("a").state, rig.row("a").problem) == (State.DEAD, "L20")


async def test_a_failed_probe_kills_nobody_however_long_the_pause(rig: Rig) -> None:
    rig.sink.answers(retry(), block("account", Problem.KLAVIYO_KEY))
    rig.sink.otherwise = block("account", Problem.KLAVIYO_KEY)
    await rig.say("a")
    await rig.after(3600)
    assert rig.dispatcher.state.mode == "blocked"
    rig.sink.otherwise = retry()
    await rig.after(31.0)
    assert rig.row("a").state == State.READY
    rig.sink.otherwise = accept
    await rig.after(900.0)
    assert rig.row("a").state == State.ACCEPTED


async def test_a_person_who_pauses_a_blocked_lane_takes_no_time_from_its_records(rig: Rig) -> None:
    rig.sink.answers(retry(), block("account", Problem.KLAVIYO_KEY))
    rig.sink.otherwise = block("account", Problem.KLAVIYO_KEY)
    await rig.say("a")
    await rig.after(3600)
    await rig.dispatcher.pause()
    rig.sink.otherwise = retry()
    await rig.dispatcher.resume()
    await rig.after(5.0)
    assert rig.row("a").state == State.READY


# ── paused by a person ───────────────────────────────────────────────────────────────────────────


async def test_a_paused_lane_sends_nothing_and_stays_paused_after_a_restart(rig: Rig) -> None:
    await rig.dispatcher.pause()
    await rig.say("a")
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
    await rig.say("a")
    await rig.dispatcher.pause()
    rig.sink.open.set()
    await settle_down()
    assert rig.row("a").state == State.ACCEPTED
    assert rig.dispatcher.state.mode == "paused"


# ── mass death ───────────────────────────────────────────────────────────────────────────────────


async def die_in_mass(rig: Rig, dead: int, of: int) -> None:
    rig.sink.answers(*[die()] * dead)
    for i in range(of):
        await rig.say(f"mass{i}")


async def test_more_than_half_of_a_hundred_dead_of_one_cause_hold_the_lane(rig: Rig) -> None:
    await die_in_mass(rig, 51, 100)
    assert rig.dispatcher.state.mode == "held"
    assert rig.dispatcher.state.problem == Problem.MASS_DEATH
    assert "K400" in rig.dispatcher.state.detail


async def test_half_of_a_hundred_dead_do_not_hold_the_lane(rig: Rig) -> None:
    await die_in_mass(rig, 50, 100)
    assert rig.dispatcher.state.mode == "running"


async def test_deaths_of_several_causes_do_not_hold_the_lane(rig: Rig) -> None:
    causes = (Problem.KLAVIYO_REFUSED, Problem.MAPPING_FAILED, Problem.STRING_TOO_LONG)
    rig.sink.answers(*[die(causes[i % 3]) for i in range(100)])
    for i in range(100):
        await rig.say(f"k{i}")
    assert rig.dispatcher.state.mode == "running"


async def test_a_probe_of_a_held_lane_kills_nobody(rig: Rig) -> None:
    await die_in_mass(rig, 51, 100)
    rig.sink.otherwise = die()
    await rig.say(*(f"k{i}" for i in range(10)))
    before = len(rig.sink.sent)
    await rig.after(40 * 86_400 / 100)
    assert len(rig.sink.sent) > before + 5
    assert all(rig.row(f"k{i}").state == State.READY for i in range(10))
    rig.sink.otherwise = accept
    await rig.after(400.0)
    assert rig.dispatcher.state.mode == "running"
    assert all(rig.row(f"k{i}").state == State.ACCEPTED for i in range(10))


async def test_one_bad_record_at_the_head_does_not_keep_a_lane_held(rig: Rig) -> None:
    await die_in_mass(rig, 51, 100)

    def step(entry: Any) -> Any:
        return die()(entry) if entry.unique_id == "test:bad" else accept(entry)

    rig.sink.otherwise = step
    await rig.say("bad")
    await rig.say("good")
    await rig.after(95.0)
    assert rig.dispatcher.state.mode == "running"
    assert rig.row("good").state == State.ACCEPTED
    await rig.after(60.0)
    assert rig.row("bad").state == State.DEAD


# ── the lease ────────────────────────────────────────────────────────────────────────────────────


async def test_without_the_lease_nothing_is_claimed(rig: Rig) -> None:
    rig.lease.ours = False
    await rig.say("a")
    await rig.after(60)
    assert rig.sink.sent == []
    assert rig.row("a").attempts == 0
    rig.lease.ours = True
    await rig.after(1.1)
    assert rig.row("a").state == State.ACCEPTED


async def test_a_lease_lost_after_the_claim_sends_nothing(rig: Rig) -> None:
    claim = rig.store.claim

    async def lose(*args: Any, **how: Any) -> Claim | None:
        claimed = await claim(*args, **how)
        rig.lease.ours = False
        return claimed

    rig.store.claim = lose  # type: ignore[method-assign]
    await rig.say("a")
    assert rig.sink.sent == []
    assert (rig.row("a").state, rig.row("a").attempts) == (State.READY, 0)
    assert not rig.row("a").solo


async def test_a_lease_lost_between_two_requests_of_a_batch_sends_no_more(make_rig: Any) -> None:
    from connector.ports import Mode

    rig: Rig = await make_rig(bulk=Mode("bulk", size=3, parallel=3))

    def step(entry: Any) -> Any:
        rig.lease.ours = False
        return accept(entry)

    rig.sink.otherwise = step
    rig.sink.open.clear()
    await rig.say(*(f"k{i}" for i in range(9)))
    original = rig.sink.quota.reserve
    rig.sink.quota.reserve = lambda e, w, **k: original(e, 3, **k)  # type: ignore[method-assign]
    await rig.start()
    rig.sink.open.set()
    await settle_down()
    assert [len(r.ids) for r in rig.sink.sent] == [3]
    assert rig.states() == {State.ACCEPTED: 3, State.READY: 6}


async def test_another_holders_takeover_makes_a_late_answer_change_nothing(rig: Rig) -> None:
    rig.sink.open.clear()
    await rig.say("a")
    year = 366 * 86_400
    rig.clock.move(year)
    other = await rig.store.acquire("store", "two", now=rig.clock.now(), ttl=10**9)
    await rig.store.recover(other, now=rig.clock.now())  # type: ignore[arg-type]
    rig.lease.ours = False
    rig.sink.open.set()
    await settle_down()
    assert (rig.row("a").state, rig.row("a").solo) == (State.READY, True)


# ── settling ─────────────────────────────────────────────────────────────────────────────────────


async def test_a_batch_settles_once(rig: Rig) -> None:
    class Twice:
        async def deliver(self, batch: Any, *, bulk: bool, permits: int) -> Any:
            seqs = [out.entry.seq for out in batch]
            yield Delivery([Accepted(seq, "first") for seq in seqs])
            yield Delivery([Dead(seq, Problem.KLAVIYO_REFUSED) for seq in seqs])

    rig.sink.deliver = Twice().deliver  # type: ignore[method-assign]
    await rig.say("a")
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


async def test_an_entry_that_the_sink_forgets_is_in_doubt(rig: Rig) -> None:
    async def forget(batch: Any, *, bulk: bool, permits: int) -> Any:
        yield Delivery([])

    deliver = rig.sink.deliver
    rig.sink.deliver = forget  # type: ignore[method-assign, assignment]
    await rig.say("a")
    assert (rig.row("a").state, rig.row("a").solo) == (State.READY, True)
    rig.sink.deliver = deliver  # type: ignore[method-assign]
    await rig.after(5.0)
    assert rig.row("a").state == State.ACCEPTED


async def test_a_sink_that_raises_leaves_everything_in_doubt_and_loses_nothing(still: Rig) -> None:
    still.sink.answers(fail(RuntimeError("a fault of ours")))
    await still.say(*(f"k{i}" for i in range(7)))
    with structlog.testing.capture_logs() as logs:
        await still.start()
    assert "a delivery ended unexpectedly" in errors(logs, "error")
    assert {(r.state, r.solo, r.problem) for r in still.store.rows.values()} == {
        (State.READY, True, "N70")
    }
    await still.after(10.0)
    assert still.states() == {State.ACCEPTED: 7}
    assert all(not request.bulk for request in still.sink.sent[1:])


async def test_a_stop_in_mid_batch_leaves_the_rest_unsent_without_an_attempt(still: Rig) -> None:
    await still.say(*(f"k{i}" for i in range(6)))

    async def half(batch: Any, *, bulk: bool, permits: int) -> Any:
        seqs = [out.entry.seq for out in batch]
        yield Delivery(
            [Accepted(seqs[0], "r"), *(Unsent(seq) for seq in seqs[1:])],
            stop=Stop("lane", Problem.KLAVIYO_SCOPE),
        )

    still.sink.deliver = half  # type: ignore[method-assign, assignment]
    await still.start()
    assert still.dispatcher.state.mode == "blocked"
    assert still.states() == {State.ACCEPTED: 1, State.READY: 5}
    assert {r.attempts for r in still.store.rows.values() if r.state == State.READY} == {0}


# ── the store is away ────────────────────────────────────────────────────────────────────────────


async def test_a_store_away_at_the_claim_loses_nothing_and_says_so_once(still: Rig) -> None:
    await still.say("a", "b")
    still.store.broken = AWAY
    with structlog.testing.capture_logs() as logs:
        await still.start()
        await still.after(30.0)
        assert still.sink.sent == []
        still.store.broken = None
        await still.after(2.0)
    assert still.states() == {State.ACCEPTED: 2}
    assert errors(logs, "error") == ["the store does not answer"]
    assert errors(logs, "info").count("the store answers again") == 1


async def test_a_store_that_reads_but_does_not_write_is_told_of_once(still: Rig) -> None:
    await still.say("a")

    async def away(*_: Any, **__: Any) -> None:
        raise AWAY

    claim = still.store.claim
    still.store.claim = away  # type: ignore[method-assign, assignment]
    with structlog.testing.capture_logs() as logs:
        await still.start()
        await still.after(30.0)
        still.store.claim = claim  # type: ignore[method-assign]
        await still.after(2.0)
    assert errors(logs, "error") == ["the store does not answer"]
    assert errors(logs, "info") == ["the store answers again"]
    assert still.row("a").state == State.ACCEPTED


async def test_a_store_away_at_the_settle_loses_no_answer_and_sends_nothing_twice(rig: Rig) -> None:
    rig.sink.open.clear()
    await rig.say("a", "b")
    with structlog.testing.capture_logs() as logs:
        rig.store.broken = AWAY
        rig.sink.open.set()
        await rig.after(30.0)
        assert rig.states() == {State.CLAIMED: 2}
        rig.store.broken = None
        await rig.after(2.0)
    assert rig.states() == {State.ACCEPTED: 2}
    assert sorted(rig.sink.ids) == ["test:a", "test:b"]
    assert errors(logs, "error") == ["the store does not answer"]
    assert errors(logs, "info") == ["the store answers again"]


@pytest.mark.parametrize(
    "refusal", [StoreError(Problem.STORE_REFUSED, "told by a test"), OverflowError("too large")]
)
async def test_what_the_store_will_never_take_dies_alone(rig: Rig, refusal: Exception) -> None:
    settle = rig.store.settle

    async def picky(claim: Any, outcomes: Any, **how: Any) -> int:
        poisoned = rig.row("b").seq
        if any(o.seq == poisoned and isinstance(o, Accepted) for o in outcomes):
            raise refusal
        return int(await settle(claim, outcomes, **how))

    rig.store.settle = picky  # type: ignore[method-assign]
    await rig.say(*"abcdefgh")  # more than the threshold: they are settled together
    await rig.after(60.0)
    assert rig.states() == {State.ACCEPTED: 7, State.DEAD: 1}
    assert (rig.row("b").state, rig.row("b").problem) == (State.DEAD, "S60")
    assert sorted(rig.sink.ids) == [f"test:{key}" for key in "abcdefgh"]
    await rig.say("later")
    await rig.after(1.0)
    assert rig.row("later").state == State.ACCEPTED


async def test_what_cannot_even_die_is_left_in_doubt_and_holds_up_nobody(rig: Rig) -> None:
    settle = rig.store.settle

    async def picky(claim: Any, outcomes: Any, **how: Any) -> int:
        if any(o.seq == rig.row("a").seq for o in outcomes):
            raise StoreError(Problem.STORE_REFUSED, "told by a test")
        return int(await settle(claim, outcomes, **how))

    rig.store.settle = picky  # type: ignore[method-assign]
    await rig.say("a", "b")
    await rig.after(60.0)
    assert (rig.row("a").state, rig.row("b").state) == (State.CLAIMED, State.ACCEPTED)


async def test_a_store_away_while_a_lane_is_blocked_or_resumed_loses_nothing(rig: Rig) -> None:
    rig.sink.answers(retry(), block("account", Problem.KLAVIYO_KEY))
    await rig.say("a")
    await rig.after(2.0)
    assert rig.dispatcher.state.mode == "blocked"

    async def away(*_: Any, **__: Any) -> None:
        raise AWAY

    extend = rig.store.extend
    rig.store.extend = away  # type: ignore[method-assign, assignment]
    await rig.after(31.0)
    assert rig.row("a").state == State.ACCEPTED
    assert rig.dispatcher.state.mode == "blocked"
    rig.store.extend = extend  # type: ignore[method-assign]
    await rig.say("b")
    await rig.after(31.0)
    assert rig.dispatcher.state.mode == "running"
    assert rig.row("b").state == State.ACCEPTED


async def test_a_mapping_that_cannot_be_fetched_delays_and_loses_nothing(rig: Rig) -> None:
    rig.sink.answers(doubt())
    await rig.say("a")
    rig.renderer.broken = AWAY
    await rig.after(30.0)
    assert (rig.row("a").state, rig.row("a").attempts) == (State.READY, 1)
    rig.renderer.broken = None
    await rig.after(5.0)
    assert rig.row("a").state == State.ACCEPTED


# ── rendering ────────────────────────────────────────────────────────────────────────────────────


async def test_a_renderers_fault_kills_only_its_record(still: Rig) -> None:
    still.renderer.instead["test:b"] = Fault(Problem.MAPPING_FAILED, "no such path")
    await still.say("a", "b", "c")
    await still.start()
    assert [still.row(k).state for k in "abc"] == [State.ACCEPTED, State.DEAD, State.ACCEPTED]
    assert (still.row("b").problem, still.row("b").detail) == ("M10", "no such path")


async def test_a_renderer_that_raises_kills_only_its_record(still: Rig) -> None:
    still.renderer.instead["test:k3"] = ZeroDivisionError()
    await still.say(*(f"k{i}" for i in range(7)))
    await still.start()
    assert still.states() == {State.ACCEPTED: 6, State.DEAD: 1}
    assert "ZeroDivisionError" in still.row("k3").detail


async def test_a_record_without_a_usable_address_is_held_not_dead(rig: Rig) -> None:
    rig.renderer.instead["test:a"] = Fault(Problem.NO_IDENTITY, "")
    rig.renderer.instead["test:b"] = Fault(Problem.BAD_ADDRESS, "")
    await rig.say("a", "b")
    assert rig.states() == {State.HELD: 2}
    assert rig.sink.sent == []


async def test_a_record_without_an_address_never_reaches_the_sink(rig: Rig) -> None:
    await rig.say("a", email=None)
    await rig.after(60.0)
    assert rig.states() == {State.HELD: 1}
    assert rig.sink.sent == []


async def test_what_the_mapping_skips_is_settled_and_not_sent(rig: Rig) -> None:
    rig.renderer.instead["test:a"] = Skip("disabled")
    await rig.say("a")
    assert (rig.row("a").state, rig.row("a").detail) == (State.SKIPPED, "disabled")
    assert rig.sink.sent == []


async def test_a_held_outcome_waits_for_a_person(rig: Rig) -> None:
    rig.sink.answers(lambda entry: Held(entry.seq, Problem.BAD_ADDRESS))
    await rig.say("a")
    await rig.after(3600)
    assert rig.states() == {State.HELD: 1}
    assert len(rig.sink.sent) == 1


# ── stopping ─────────────────────────────────────────────────────────────────────────────────────


async def test_stop_finishes_what_is_in_flight(rig: Rig) -> None:
    rig.sink.open.clear()
    await rig.say("a")
    stopping = asyncio.create_task(rig.dispatcher.stop(20.0))
    await settle_down()
    assert not stopping.done()
    await rig.say("later")
    rig.sink.open.set()
    await settle_down()
    assert stopping.done()
    assert rig.row("a").state == State.ACCEPTED
    assert rig.row("later").attempts == 0


async def test_stop_cuts_off_after_its_time_and_leaves_doubt(rig: Rig) -> None:
    rig.sink.open.clear()
    await rig.say("a")
    await rig.stop(20.0)
    assert (rig.row("a").state, rig.row("a").solo, rig.row("a").problem) == (
        State.READY,
        True,
        "N70",
    )


async def test_stop_ends_even_while_the_store_is_away(rig: Rig) -> None:
    rig.sink.open.clear()
    await rig.say("a")
    rig.store.broken = AWAY
    await rig.stop(20.0)
    assert rig.row("a").state == State.CLAIMED  # in doubt at the next start
    assert rig.dispatcher.idle


async def test_stop_waits_for_a_claim_that_is_under_way(rig: Rig) -> None:
    claim, gate = rig.store.claim, asyncio.Event()

    async def slowly(*args: Any, **how: Any) -> Claim | None:
        await gate.wait()
        return await claim(*args, **how)

    rig.store.claim = slowly  # type: ignore[method-assign]
    await rig.say("a")
    stopping = asyncio.create_task(rig.dispatcher.stop(20.0))
    await settle_down()
    assert not stopping.done()
    gate.set()
    await settle_down()
    assert stopping.done()
    assert rig.dispatcher.idle
    assert rig.row("a").state == State.ACCEPTED


async def test_what_a_dead_process_had_claimed_goes_singly(still: Rig) -> None:
    await still.say(*(f"k{i}" for i in range(8)))
    await still.store.claim(
        still.lane,
        still.lease.fence,
        now=still.clock.now(),
        limit=100,
        solo=False,
        mapping="v0",
    )
    await still.store.recover(still.lease.fence, now=still.clock.now())
    await still.start()
    assert [r.bulk for r in still.sink.sent] == [False] * 8
    assert {r.messages[0][1] for r in still.sink.sent} == {"v0"}  # type: ignore[index]
