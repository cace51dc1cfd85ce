"""The number of requests that profile states cost: as few as possible."""

from __future__ import annotations

from pathlib import Path

from bench import states


async def test_a_backfill_a_change_and_a_second_read_make_no_extra_request(
    tmp_path: Path,
) -> None:
    backfill, change, second = await states.measure(500, tmp_path)
    assert (backfill.wrong, change.wrong, second.wrong) == (0, 0, 0)
    assert (backfill.writes, backfill.minimum) == (1, 1)
    assert (change.changed, change.writes, change.minimum) == (5, 5, 5)
    assert second.requests == {}
