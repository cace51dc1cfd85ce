"""Contract of the throughput in connector.ports.Facts."""

from __future__ import annotations

from connector.domain.lanes import LaneId, MinuteCount
from connector.ports import Store

_MINUTE = 29_833_333


def _of(lane: int, minutes_ago: int, count: int) -> MinuteCount:
    return MinuteCount(LaneId(lane), _MINUTE - minutes_ago, count)


class ThroughputContract:
    """Subclass it beside a fixture `store` that yields an empty store."""

    async def test_counts_of_one_minute_add_up(self, store: Store) -> None:
        facts = store.facts
        await facts.add_throughput([_of(1, 0, 3), _of(2, 0, 1), _of(1, 2, 7)])
        await facts.add_throughput([_of(1, 0, 4)])
        assert sorted(await facts.throughput(since_minute=_MINUTE - 1)) == [
            _of(1, 0, 7),
            _of(2, 0, 1),
        ]
        assert len(await facts.throughput(since_minute=_MINUTE - 2)) == 3

    async def test_a_day_is_kept(self, store: Store) -> None:
        facts = store.facts
        await facts.add_throughput([_of(1, 1_440, 1), _of(1, 1_439, 1)])
        await facts.add_throughput([_of(1, 0, 1)])
        assert sorted(await facts.throughput(since_minute=0)) == [_of(1, 1_439, 1), _of(1, 0, 1)]
