"""What waits because a remote side was away can be tried at once; all else keeps its time."""

from __future__ import annotations

import pytest

from connector.domain.errors import Problem
from connector.domain.outcomes import Ambiguous, Outcome, Retry
from connector.domain.records import Entry
from connector.ports import RetryPolicy, Store
from connector.testing.contracts.unanswered_claims import QUEUES, QueueWithTwo

_POLICY = RetryPolicy(horizon=3_600_000)
_AFTER = 60.0


async def _settle_both(queue: QueueWithTwo, one: Outcome, other: Outcome) -> None:
    claim = await queue.claim()
    assert claim
    await queue.queue.settle(claim, [one, other], now=queue.at, policy=_POLICY)


async def _entries(queue: QueueWithTwo) -> tuple[Entry, Entry]:
    """Both, as a claim finds them; they are ready again."""
    claim = await queue.claim(1)
    assert claim
    await queue.give_back(1)
    one, other = claim.entries
    return one, other


@pytest.mark.parametrize("name", QUEUES)
class RetryNowContract:
    """Subclass it beside a fixture `store` that yields an empty store."""

    async def test_what_a_remote_side_was_away_for_is_due_at_once(
        self, store: Store, name: str
    ) -> None:
        queue = await QUEUES[name](store)
        one, other = await _entries(queue)
        away = Retry(one.seq, Problem.KLAVIYO_UNAVAILABLE, _AFTER)
        throttled = Retry(other.seq, Problem.KLAVIYO_THROTTLED, _AFTER)
        await _settle_both(queue, away, throttled)
        assert await queue.claim() is None
        assert await queue.queue.retry_now(queue.lane.id, now=queue.at) == 1
        claim = await queue.claim()
        assert claim
        assert [entry.seq for entry in claim.entries] == [one.seq]
        assert await queue.queue.retry_now(queue.lane.id, now=queue.at) == 0

    async def test_what_may_still_be_applied_is_not_crossed(self, store: Store, name: str) -> None:
        """Where a second request could contradict the first; elsewhere it only repeats it."""
        queue = await QUEUES[name](store)
        one, other = await _entries(queue)
        lost = [Ambiguous(entry.seq, Problem.TIMED_OUT, _AFTER) for entry in (one, other)]
        await _settle_both(queue, *lost)
        repeats = name in ("events", "reads")
        found = await queue.queue.retry_now(queue.lane.id, now=queue.at)
        assert found == (2 if repeats else 0)
