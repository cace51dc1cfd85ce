"""The sink of a platform's tags reports one outcome per entry."""

from __future__ import annotations

import pytest

from connector.domain.errors import AmbiguousError, Blocked, DeliveryError, Problem, Rejected
from connector.domain.lanes import DeliveryMode, Millis
from connector.domain.memberships import MembershipWrite
from connector.domain.outcomes import Accepted, Ambiguous, Dead, Delivery, Unsent
from connector.domain.records import Entry
from connector.net.rate_limit import RateLimiter
from connector.ports import Outgoing
from connector.sync.memberships.platform_sink import PlatformMembershipSink
from connector.testing.fakes.clock import FakeClock

from . import toy

BLOCKED = Blocked(Problem.PLATFORM_SCOPE, "", scope="lane", status=403)
REJECTED = Rejected(Problem.PLATFORM_REFUSED, "one of them")


@pytest.fixture
def state() -> toy.ToyState:
    toy.STATE = toy.ToyState()
    return toy.STATE


async def _deliver(count: int, permits: int = 1) -> list[Delivery]:
    """Deliver the entries 1 to `count`, in calls of at most two."""
    clock = FakeClock()
    client = toy.ToyClient(RateLimiter("toy", toy.LIMIT, clock=clock, share=1.0))
    client.size = 2

    async def check() -> list[object]:
        return []

    async def record_usage(usage: object) -> None: ...

    sink = PlatformMembershipSink(client, check, clock, record_usage)
    batch = [Outgoing(_entry(seq), _write(seq)) for seq in range(1, count + 1)]
    return [found async for found in sink.deliver(batch, bulk=True, permits=permits)]


def _entry(seq: int) -> Entry:
    now = Millis(0)
    return Entry(
        seq, f"u{seq}", "join", now, now, None, None, b"", 1, DeliveryMode.BATCH, None, False
    )


def _write(seq: int) -> MembershipWrite:
    return MembershipWrite("tag", joins=True, email=f"p{seq}@example.com")


def _outcomes(deliveries: list[Delivery]) -> dict[int, type]:
    return {outcome.seq: type(outcome) for each in deliveries for outcome in each.outcomes}


async def test_entries_beyond_the_permits_are_unsent(state: toy.ToyState) -> None:
    assert _outcomes(await _deliver(3)) == {1: Accepted, 2: Accepted, 3: Unsent}


@pytest.mark.parametrize(
    ("failures", "expected"),
    [
        ([REJECTED], {1: Accepted, 2: Accepted}),
        ([REJECTED, REJECTED], {1: Dead, 2: Accepted}),
        ([AmbiguousError(Problem.TIMED_OUT)], {1: Ambiguous, 2: Ambiguous}),
        ([BLOCKED], {1: Unsent, 2: Unsent}),
        ([REJECTED, BLOCKED], {1: Unsent, 2: Unsent}),
    ],
)
async def test_a_failed_call_settles_its_entries(
    state: toy.ToyState, failures: list[DeliveryError], expected: dict[int, type]
) -> None:
    state.failures = failures
    assert _outcomes(await _deliver(2)) == expected


async def test_a_stop_leaves_the_rest_unsent(state: toy.ToyState) -> None:
    state.failures = [BLOCKED]
    deliveries = await _deliver(4, permits=2)
    assert _outcomes(deliveries) == {1: Unsent, 2: Unsent, 3: Unsent, 4: Unsent}
    assert [each.stop is not None for each in deliveries] == [True, False]
