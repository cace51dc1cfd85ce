"""Deliveries of a claim whose records are sent one by one, side by side."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Coroutine, Iterable
from contextlib import aclosing
from itertools import chain
from typing import Any

from connector.domain.outcomes import Delivery, is_success
from connector.runtime.concurrency import as_completed


async def in_single_requests(
    requests: Iterable[Coroutine[Any, Any, Delivery]],
) -> AsyncGenerator[Delivery, None]:
    """Start all of them and yield what they came to.

    Successes that ended while others were stored are one delivery, so that one transaction stores
    them. Failures come one by one: a lane counts those in a row.
    """
    ended = as_completed(requests)
    async with aclosing(ended):
        async for deliveries in ended:
            succeeded = [delivery for delivery in deliveries if _succeeded(delivery)]
            if succeeded:
                yield Delivery(
                    list(chain.from_iterable(delivery.outcomes for delivery in succeeded)),
                    list(chain.from_iterable(delivery.requests for delivery in succeeded)),
                )
            for delivery in deliveries:
                if not _succeeded(delivery):
                    yield delivery


def _succeeded(delivery: Delivery) -> bool:
    return delivery.stop is None and all(map(is_success, delivery.outcomes))
