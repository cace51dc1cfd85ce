"""A claim that is cut off: what was not sent is not taken for sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from connector.domain.lanes import DeliveryMode, Lane, LaneId
from connector.domain.outcomes import Accepted, Delivery, Outcome, Unsent
from connector.domain.records import Claim, Entry
from connector.pipeline.delivery import ClaimDelivery
from connector.ports import BatchMode
from connector.runtime.metrics import Metrics
from connector.testing.fakes.lease import FakeLease
from connector.testing.fakes.sinks import ScriptedSink
from tests.klaviyo.conftest import make_entry

from .conftest import PlainRenderer

LANE = Lane(LaneId(1), "acme", "klaviyo", "profile")


async def test_requests_that_a_lost_lease_keeps_back_were_not_sent() -> None:
    mode = BatchMode("jobs", size=2, parallel=1, creates_jobs=frozenset({DeliveryMode.BATCH}))
    sink: ScriptedSink[Any] = ScriptedSink(bulk=mode)
    lease, settled = FakeLease(), list[Outcome]()

    async def settle(claim: Claim, delivery: Delivery, entries: Mapping[int, Entry]) -> None:
        settled.extend(delivery.outcomes)
        lease.held = False

    delivery = ClaimDelivery(
        LANE,
        sink=sink,
        renderer=PlainRenderer(),
        lease=lease,
        metrics=Metrics("test"),
        settle=settle,
    )
    entries = [make_entry(seq, email="a@example.com", data=b"{}", attempts=0) for seq in range(4)]
    await delivery.run(Claim(1, LANE, entries), mode, 2)
    assert [type(outcome) for outcome in settled] == [Accepted, Accepted, Unsent, Unsent]
