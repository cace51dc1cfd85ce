"""Texts of a platform that a database refuses never change what became of an action."""

from __future__ import annotations

from typing import Any

import pytest

from connector.domain.errors import Problem
from connector.domain.lanes import DeliveryMode, Millis
from connector.domain.outcomes import (
    Accepted,
    Ambiguous,
    Dead,
    Delivery,
    Held,
    Outcome,
    Request,
    Retry,
)
from connector.domain.records import Claim
from connector.pipeline.outcome_writer import OutcomeWriter, StoreOutage
from connector.ports import RetryPolicy, Store
from connector.runtime import log
from connector.testing.contracts.actions import ActionHarness, make_harness, make_request
from connector.testing.contracts.store import NOW
from connector.testing.fakes.clock import FakeClock

BAD = "a\0b"


async def write(harness: ActionHarness, claim: Claim, outcome: Outcome) -> None:
    """Store an outcome as a lane does."""
    logger: Any = log.get("test")
    writer = OutcomeWriter(
        harness.queue,
        FakeClock(),
        StoreOutage(logger),
        logger,
        policy=RetryPolicy(1_000_000, (0, 60_000)),
        ready_again=lambda due: None,
    )
    request = Request("r1", "POST /adjust", NOW, 200, 1)
    await writer.write(claim, Delivery([outcome], [request]), now=NOW, paused=0)


@pytest.mark.parametrize(
    ("outcome", "state"),
    [
        (Accepted(1, "r1", BAD), "applied"),
        (Ambiguous(1, Problem.TIMED_OUT, 0.0, BAD, "r1"), "uncertain"),
        (Retry(1, Problem.PLATFORM_THROTTLED, 1.0, BAD), "waiting"),
        (Dead(1, Problem.PLATFORM_REFUSED, BAD, "r1"), "refused"),
        (Held(1, Problem.ACTION_PERSON, BAD), "held"),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_the_outcome_of_a_send_is_kept(
    store: Store, outcome: Any, state: str, silenced_logs: None
) -> None:
    harness = await make_harness(store)
    await harness.add(make_request())
    claim = await harness.must_claim()
    values = {name: getattr(outcome, name) for name in outcome.__slots__}
    await write(harness, claim, type(outcome)(**values | {"seq": claim.entries[0].seq}))
    assert (await harness.one()).state == state


@pytest.mark.parametrize("kind", [Retry, Held])
async def test_a_look_up_never_becomes_a_refusal(
    store: Store, kind: Any, silenced_logs: None
) -> None:
    harness = await make_harness(store)
    await harness.add(make_request())
    claim = await harness.must_claim()
    seq = claim.entries[0].seq
    await harness.settle(claim, Ambiguous(seq, Problem.TIMED_OUT))
    look = await harness.must_claim(Millis(NOW), mode=DeliveryMode.SINGLE)
    bad = Retry(seq, Problem.PLATFORM_UNAVAILABLE, 1.0, BAD)
    await write(harness, look, bad if kind is Retry else Held(seq, Problem.ACTION_UNCERTAIN, BAD))
    assert (await harness.one()).state == "uncertain"


async def test_an_outcome_that_cannot_be_stored_at_all_leaves_the_decision_to_a_person(
    store: Store, silenced_logs: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = await make_harness(store)
    await harness.add(make_request())
    claim = await harness.must_claim()
    settle = harness.queue.settle

    async def refusing(claim: Claim, outcomes: Any, **how: Any) -> int:
        if any(isinstance(o, Accepted) for o in outcomes):
            raise OverflowError("by a test")
        return await settle(claim, outcomes, **how)

    monkeypatch.setattr(harness.queue, "settle", refusing)
    await write(harness, claim, Accepted(claim.entries[0].seq, "r1", "ref"))
    assert [(a.state, a.problem) for a in await harness.all_actions()] == [("uncertain", "A10")]
