"""Where a page of people with something that failed begins, as text in a URL: `profiles:12`."""

from __future__ import annotations

from typing import cast, get_args

from connector.ports import StuckPosition, StuckQueue
from connector.web.storable import read_id


def read_position(text: str) -> StuckPosition:
    """Raises ValueError for what `write_position` has not made."""
    queue, _, id = text.partition(":")
    if queue not in get_args(StuckQueue):
        raise ValueError(f"{queue!r} is no queue of people")
    return StuckPosition(cast(StuckQueue, queue), read_id(id))


def write_position(position: StuckPosition) -> str:
    return f"{position.queue}:{position.id}"
