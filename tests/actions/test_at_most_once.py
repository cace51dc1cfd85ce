"""Guarantee 4: an adjustment is applied at most once, with any answer of the platform or none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import update

from connector.domain.actions import Action, ActionRequest, Caps, Step
from connector.domain.errors import (
    AmbiguousError,
    Blocked,
    DeliveryError,
    Problem,
    Rejected,
    RetryLater,
    StoreOutage,
)
from connector.domain.records import Page, Record
from connector.ports import Fence
from connector.store.tables import actions

from .conftest import Platform, Rig


def status(kind: type[DeliveryError], code: int | None, **how: Any) -> DeliveryError:
    return kind(Problem.PLATFORM_REFUSED, status=code, **how)


# ── the table of answers ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "fault",
    [
        RetryLater(Problem.NOT_CONNECTED),
        RetryLater(Problem.CHALLENGED, status=403),
        *(status(RetryLater, code) for code in (423, 429, 503)),
        status(Rejected, 423),
        status(AmbiguousError, 503),
    ],
    ids=repr,
)
async def test_an_action_known_not_applied_is_sent_again(rig: Rig, fault: DeliveryError) -> None:
    rig.platform.faults.append(fault)
    await rig.send("k")
    assert await rig.states() == ["waiting"]
    await rig.after(5.0)
    assert await rig.states() == ["applied"]
    assert len(rig.platform.sent) == 2
    assert not rig.platform.lookups


@pytest.mark.parametrize(
    "fault",
    [
        *(status(Rejected, code) for code in (400, 405, 409, 413, 415, 422)),
        status(Blocked, 404, scope="target"),
    ],
    ids=repr,
)
async def test_a_refused_action_is_never_sent_again(rig: Rig, fault: DeliveryError) -> None:
    rig.platform.faults.append(fault)
    await rig.send("k")
    await rig.after(601.0)
    assert await rig.states() == ["refused"]
    assert len(rig.platform.sent) == 1


@pytest.mark.parametrize(
    "fault",
    [
        *(status(AmbiguousError, code) for code in (200, 500, 502, 504)),
        *(status(Blocked, code, scope="lane") for code in (301, 302, 304, 307, 308)),
        AmbiguousError(Problem.TIMED_OUT),
        AmbiguousError(Problem.CONNECTION_LOST),
    ],
    ids=repr,
)
async def test_an_ambiguous_action_is_looked_up_and_never_blindly_resent(
    rig: Rig, fault: DeliveryError
) -> None:
    rig.platform.faults.append(fault)
    await rig.send("k")
    await rig.after(599.0)
    assert await rig.states() == ["uncertain"]
    assert len(rig.platform.sent) == 1
    assert len(rig.platform.lookups) == 2


async def test_an_adapter_exception_is_ambiguous_and_affects_no_other_action(rig: Rig) -> None:
    class Broken(DeliveryError): ...

    rig.platform.faults.append(Broken(Problem.PLATFORM_REFUSED))
    await rig.send("k")
    await rig.send("l", email="bo@example.com")
    assert await rig.states() == ["uncertain", "applied"]


@pytest.mark.parametrize(
    "fault",
    [
        Blocked(Problem.PLATFORM_KEY, scope="account", status=401),
        status(Blocked, 403, scope="lane"),
    ],
    ids=repr,
)
async def test_a_rejected_credential_blocks_the_lane_and_the_action_is_sent_later(
    rig: Rig, fault: DeliveryError
) -> None:
    rig.platform.faults.append(fault)
    await rig.send("k")
    assert rig.dispatcher.state.mode == "blocked"
    [action] = await rig.all_actions()
    assert (action.state, action.sent_at) == ("waiting", None)
    await rig.after(31.0)
    assert await rig.states() == ["applied"]


# ── look-ups ──────────────────────────────────────────────────────────────────────────────────────


async def test_an_action_is_looked_up_at_once_after_one_and_after_ten_minutes(rig: Rig) -> None:
    rig.platform.faults.append("before")
    start = rig.clock.now()
    await rig.send("k")
    await rig.after(601.0)
    assert [at - start for _, at in rig.platform.lookups] == [0, 60_000, 600_000]
    assert await rig.states() == ["applied"]
    [first, second] = rig.platform.sent
    assert first.ref == second.ref
    assert rig.platform.ledger == {first.ref: 1}


async def test_an_action_found_by_a_lookup_is_applied_and_not_sent_again(rig: Rig) -> None:
    rig.platform.faults.append("after")
    await rig.send("k")
    await rig.after(601.0)
    assert await rig.states() == ["applied"]
    assert len(rig.platform.sent) == 1


@pytest.mark.parametrize(
    "fault", [AmbiguousError(Problem.TIMED_OUT), RetryLater(Problem.NOT_CONNECTED)], ids=repr
)
async def test_a_lookup_without_a_response_does_not_count(rig: Rig, fault: DeliveryError) -> None:
    rig.platform.faults.append("after")
    rig.platform.lookup_faults.extend([fault] * 4)
    await rig.send("k")
    await rig.after(601.0)
    assert await rig.states() == ["applied"]
    assert (len(rig.platform.sent), len(rig.platform.lookups)) == (1, 5)
    assert [action.lookups for action in await rig.all_actions()] == [0]


async def test_a_refused_lookup_parks_the_action(rig: Rig) -> None:
    rig.platform.faults.append("before")
    rig.platform.lookup_faults.append(status(Rejected, 400))
    await rig.send("k")
    await rig.after(601.0)
    assert [(d.state, d.problem) for d in await rig.all_actions()] == [("uncertain", "A10")]
    assert len(rig.platform.sent) == 1


async def test_an_action_ambiguous_twice_is_parked(rig: Rig) -> None:
    rig.platform.faults.extend(["before", "before"])
    await rig.send("k")
    await rig.after(1_300.0)
    [action] = await rig.all_actions()
    assert (action.state, action.problem, action.resent) == ("uncertain", "A10", True)
    assert len(rig.platform.sent) == 2
    assert len(rig.platform.lookups) == 6


async def test_without_lookup_support_an_ambiguous_action_is_parked_at_once(
    make_rig: Callable[..., Rig],
) -> None:
    rig = make_rig(Platform(supports_lookup=False))
    await rig.start()
    rig.platform.faults.append("after")
    await rig.send("k")
    [action] = await rig.all_actions()
    assert (action.state, action.problem) == ("uncertain", "A10")
    await rig.after(601.0)
    assert len(rig.platform.sent) == 1


@pytest.mark.parametrize(("fault", "state"), [("after", "applied"), ("before", "uncertain")])
async def test_an_action_that_was_sent_with_other_settings_is_never_absent(
    make_rig: Callable[..., Rig], fault: str, state: str
) -> None:
    rig = make_rig(settings="one", look_ups=(1_000, 60_000))
    await rig.start()
    rig.platform.faults.append(fault)
    await rig.send("k")
    await rig.kill()
    rig.how["settings"] = "two"
    await rig.start()
    await rig.after(601.0)
    assert await rig.states() == [state]
    assert len(rig.platform.sent) == 1


async def test_an_action_of_a_backup_is_sent_once_no_look_up_finds_it(
    make_rig: Callable[..., Rig],
) -> None:
    """It waited when the backup was made, so this store does not know which settings sent it."""
    rig = make_rig(settings="one")
    await rig.start()
    rig.lease.held = False
    await rig.send("k")
    restored = update(actions).values(step=Step.LOOK_UP, sent_at=rig.clock.now())
    rig.database.execute(lambda c: c.execute(restored))
    rig.lease.held = True
    rig.dispatcher.wake()
    await rig.after(601.0)
    assert await rig.states() == ["applied"]
    assert len(rig.platform.sent) == 1


async def test_with_lookups_disabled_an_ambiguous_action_is_parked(
    make_rig: Callable[..., Rig],
) -> None:
    rig = make_rig(look_ups=())
    await rig.start()
    rig.platform.faults.append("before")
    await rig.send("k")
    await rig.after(601.0)
    assert [(d.state, d.problem) for d in await rig.all_actions()] == [("uncertain", "A10")]
    assert not rig.platform.lookups


async def test_an_operator_resolves_a_parked_action(rig: Rig) -> None:
    rig.platform.faults.extend(["before", "before"])
    await rig.send("k")
    await rig.after(1_300.0)
    [action] = await rig.all_actions()
    await rig.store.action_decisions.decide(action.id, "again", by="ana", now=rig.clock.now())
    rig.dispatcher.wake()
    await rig.after(1.0)
    assert await rig.states() == ["applied"]
    assert sum(rig.platform.ledger.values()) == 1


# ── order ─────────────────────────────────────────────────────────────────────────────────────────


async def test_a_persons_actions_start_in_order_and_an_ambiguous_one_blocks_nothing(
    rig: Rig,
) -> None:
    rig.platform.faults.extend(["wait", "before"])
    await rig.send("1", "2", "3")
    await rig.after(10.0)
    refs = [action.ref for action in await rig.all_actions()]
    assert [a.ref for a in rig.platform.sent] == [refs[0], refs[0], refs[1], refs[2]]
    assert await rig.states() == ["uncertain", "applied", "applied"]


# ── leases and ends ───────────────────────────────────────────────────────────────────────────────


async def test_a_lease_lost_between_claim_and_send_sends_nothing(
    make_rig: Callable[..., Rig],
) -> None:
    rig = make_rig()

    async def lose(point: str) -> None:
        if point == "claimed":
            rig.lease.held = False

    await rig.start(lose)
    await rig.send("k")
    await rig.after(5.0)
    assert not rig.platform.sent
    [action] = await rig.all_actions()
    assert (action.state, action.sent_at) == ("waiting", None)


async def test_a_lease_lost_during_the_person_lookup_sends_nothing(rig: Rig) -> None:
    def lose() -> None:
        rig.lease.held = False

    rig.addresses[KLAVIYO_ID] = "ana@example.com"
    rig.on_address_lookup = lose
    await _push(rig, KLAVIYO_ID)
    await rig.after(1.0)
    assert not rig.platform.sent
    assert [(d.state, d.sent_at) for d in await rig.all_actions()] == [("waiting", None)]


async def test_an_action_whose_person_cannot_be_saved_is_sent_later_and_never_uncertain(
    make_rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = make_rig(Platform(supports_lookup=False))
    await rig.start()
    rig.addresses[KLAVIYO_ID] = "ana@example.com"

    async def fail(*_: Any) -> None:
        raise StoreOutage(Problem.STORE_UNAVAILABLE, "away")

    with monkeypatch.context() as away:
        away.setattr(rig.queue, "identify", fail)
        await _push(rig, KLAVIYO_ID)
        await rig.after(0.5)
        assert not rig.platform.sent
    await rig.after(60.0)
    assert await rig.states() == ["applied"]


async def test_a_late_response_of_a_frozen_holder_settles_nothing_and_is_kept(
    make_rig: Callable[..., Rig],
) -> None:
    rig = make_rig()
    frozen = asyncio.Event()

    async def freeze(point: str) -> None:
        if point == "applied":
            await frozen.wait()

    await rig.start(freeze)
    await rig.send("k")
    assert await rig.states() == ["sending"]
    late, rig.platform.at_point = rig.dispatcher, rig.platform.at_point
    rig.lease.held = False
    other = await rig.store.leases.acquire(
        "store", "another", now=rig.clock.now(), ttl=10**9, dead_holder=f"us{rig.starts}"
    )
    assert isinstance(other, Fence)
    await rig.store.actions.recover(other, now=rig.clock.now())
    assert await rig.states() == ["uncertain"]
    frozen.set()
    await rig.after(1.0)
    assert not late.busy
    [action] = await rig.all_actions()
    assert action.state == "uncertain"
    assert action.evidence
    assert "accepted" in action.evidence


async def test_a_stop_finishes_what_is_in_flight(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig()
    slow = asyncio.Event()

    async def wait(point: str) -> None:
        if point == "applied":
            await slow.wait()

    await rig.start(wait)
    await rig.send("k")
    await rig.send("l")
    stopping = asyncio.create_task(rig.dispatcher.stop(20.0))
    await rig.after(1.0)
    slow.set()
    await rig.after(1.0)
    assert stopping.done()
    assert await rig.states() == ["applied", "waiting"]


async def test_an_action_cut_off_by_a_stop_is_looked_up(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig()

    async def hang(point: str) -> None:
        if point == "applied":
            await asyncio.Event().wait()

    await rig.start(hang)
    await rig.send("k")
    stopping = asyncio.create_task(rig.dispatcher.stop(1.0))
    await rig.after(10.0)
    await stopping
    assert await rig.states() == ["uncertain"]
    await rig.kill()
    await rig.start()
    await rig.after(1.0)
    assert await rig.states() == ["applied"]
    assert sum(rig.platform.ledger.values()) == 1


# ── the person of an action ───────────────────────────────────────────────────────────────────────

KLAVIYO_ID = "01HZZZZZZZZZZZZZZZZZZZZZZZ"


async def _push(rig: Rig, customer: str) -> None:
    action = Action("push", customer=customer, message="Hi")
    await rig.endpoint.submit("flow", [ActionRequest(action, "push", customer)])
    await rig.after(0.0)


async def test_a_klaviyo_id_is_resolved_to_an_address(rig: Rig) -> None:
    rig.addresses[KLAVIYO_ID] = "ana@example.com"
    await _push(rig, KLAVIYO_ID)
    [sent] = rig.platform.sent
    assert (sent.email, sent.customer) == ("ana@example.com", None)


async def test_an_id_that_klaviyo_does_not_have_is_left_to_the_platform(rig: Rig) -> None:
    """Ids of other systems have the same form."""
    await _push(rig, KLAVIYO_ID)
    assert [(a.email, a.customer) for a in rig.platform.sent] == [(None, KLAVIYO_ID)]


async def test_an_id_of_the_platform_is_not_asked_for_at_klaviyo(rig: Rig) -> None:
    asked: list[str] = []
    rig.on_address_lookup = lambda: asked.append("")
    events = await rig.store.lanes.ensure("acme", "klaviyo", "event")
    record = Record("k", "x:k", "Added", rig.clock.now(), b"{}", person=KLAVIYO_ID)
    await rig.store.outbox.append([Page(events, "webhook", [record], rig.clock.now())])
    await _push(rig, KLAVIYO_ID)
    assert [a.person for a in rig.platform.sent] == [KLAVIYO_ID]
    assert not asked


async def test_an_uncertain_push_is_looked_up_whatever_klaviyo_says_of_its_person(rig: Rig) -> None:
    rig.addresses[KLAVIYO_ID] = "ana@example.com"
    rig.platform.faults.append("after")
    rig.platform.lookup_faults.append(RetryLater(Problem.NOT_CONNECTED))
    await _push(rig, KLAVIYO_ID)
    assert await rig.states() == ["uncertain"]
    del rig.addresses[KLAVIYO_ID]
    await rig.after(5.0)
    assert await rig.states() == ["applied"]
    assert len(rig.platform.sent) == 1


async def test_calls_by_klaviyos_id_and_by_address_share_order_and_caps(
    make_rig: Callable[..., Rig],
) -> None:
    rig = make_rig(caps=Caps(per_person=2))
    await rig.start()
    rig.addresses[KLAVIYO_ID] = "ana@example.com"

    async def adjust(key: str) -> None:
        action = Action("adjust", customer=KLAVIYO_ID, amount=5, reason="r")
        await rig.endpoint.submit("flow", [ActionRequest(action, "r", key)])
        await rig.after(0.0)

    await adjust("1")
    await rig.send("2")
    await adjust("3")
    assert await rig.states() == ["applied", "applied", "held"]
    assert [a.email for a in rig.platform.sent] == ["ana@example.com"] * 2


async def test_a_call_by_klaviyos_id_waits_for_an_earlier_one_of_the_person(rig: Rig) -> None:
    rig.addresses[KLAVIYO_ID] = "ana@example.com"
    rig.platform.faults.extend(["wait", ""])
    await rig.send("1")
    await _push(rig, KLAVIYO_ID)
    assert await rig.states() == ["waiting", "waiting"]
    await rig.after(5.0)
    assert await rig.states() == ["applied", "applied"]
    assert [a.name for a in rig.platform.sent] == ["increase", "increase", "push"]


async def test_a_profile_without_an_address_is_held_with_its_reason(rig: Rig) -> None:
    rig.addresses[KLAVIYO_ID] = ""
    await _push(rig, KLAVIYO_ID)
    assert not rig.platform.sent
    [action] = await rig.all_actions()
    assert (action.state, action.problem, action.sent_at) == ("held", "A40", None)


async def test_the_platforms_own_id_is_passed_through(rig: Rig) -> None:
    await _push(rig, "c7")
    assert [a.customer for a in rig.platform.sent] == ["c7"]


async def test_an_action_for_an_unresolvable_person_is_held(rig: Rig) -> None:
    rig.platform.faults.append(Rejected(Problem.NO_IDENTITY, "by address only"))
    await _push(rig, "c7")
    assert [(d.state, d.problem, d.detail) for d in await rig.all_actions()] == [
        ("held", "A40", "by address only")
    ]


UNKNOWN = Rejected(Problem.PLATFORM_TARGET, "no such customer", status=404)
TOO_FEW_POINTS = Rejected(Problem.PLATFORM_REFUSED, "too few points", status=422)
_GRACE = 900_000


async def test_an_action_for_a_person_the_platform_learns_of_in_time_is_applied(
    make_rig: Callable[..., Rig],
) -> None:
    rig = make_rig(grace=_GRACE)
    await rig.start()
    rig.platform.faults.extend([UNKNOWN] * 3)
    await rig.send("k")
    [action] = await rig.all_actions()
    assert (action.state, action.problem, action.sent_at) == ("waiting", "A50", None)
    await rig.after(60.0)
    assert await rig.states() == ["applied"]
    assert len(rig.platform.sent) == 4


async def test_an_action_for_an_unknown_person_is_refused_when_the_grace_ends(
    make_rig: Callable[..., Rig],
) -> None:
    rig = make_rig(grace=_GRACE)
    await rig.start()
    rig.platform.default_fault = lambda: UNKNOWN
    await rig.send("k")
    await rig.after(899.0)
    assert await rig.states() == ["waiting"]
    await rig.after(2.0)
    [action] = await rig.all_actions()
    assert (action.state, action.problem) == ("refused", "A50")
    assert action.detail == "no such customer"


async def test_the_grace_begins_with_the_first_answer_that_the_person_is_unknown(
    make_rig: Callable[..., Rig],
) -> None:
    rig = make_rig(grace=90_000)
    await rig.start()
    rig.platform.default_fault = lambda: "wait"
    await rig.send("k")
    await rig.after(100.0)
    rig.platform.default_fault = lambda: UNKNOWN
    await rig.after(60.0)
    assert await rig.states() == ["waiting"]
    rig.platform.default_fault = lambda: ""
    await rig.after(60.0)
    assert await rig.states() == ["applied"]


@pytest.mark.parametrize("refusal", [UNKNOWN, TOO_FEW_POINTS], ids=["unknown", "too few points"])
async def test_refusals_about_people_hold_up_no_other(
    make_rig: Callable[..., Rig], refusal: Rejected
) -> None:
    rig = make_rig(grace=90_000)
    await rig.start()
    rig.platform.default_fault = lambda: refusal
    for number in range(120):
        await rig.send("k", email=f"p{number}@example.com")
    assert not await rig.dispatcher.attention()
    rig.platform.default_fault = lambda: ""
    await rig.send("k", email="known@example.com")
    assert (await rig.states())[-1] == "applied"
    rig.platform.default_fault = lambda: refusal
    await rig.after(100.0)
    assert await rig.states() == ["refused"] * 120 + ["applied"]
    assert rig.dispatcher.state.mode == "running"


# ── caps ──────────────────────────────────────────────────────────────────────────────────────────


async def test_approving_a_cap_releases_what_it_held(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(caps=Caps(per_person=1))
    await rig.start()
    await rig.send("1", "2", "3")
    assert await rig.states() == ["applied", "held", "held"]
    [question] = await rig.store.approvals.find()
    answer = await rig.store.approvals.decide(
        question.id, approved=True, by="ana", now=rig.clock.now()
    )
    assert answer
    rig.held_worker.wakeup.set()
    await rig.after(1.0)
    assert await rig.states() == ["applied", "applied", "applied"]
    assert not await rig.store.approvals.find(pending=False)
