"""Which of the store's queues a lane claims its entries from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from connector.domain.lanes import LaneKind, QueueName
from connector.ports import Queue, Store

_QUEUES: Mapping[QueueName, Callable[[Store], Queue]] = {
    "outbox": lambda store: store.outbox,
    "reads": lambda store: store.reads,
    "profiles": lambda store: store.profiles,
    "memberships": lambda store: store.memberships,
    "actions": lambda store: store.actions,
}


def queue_of(kind: LaneKind, store: Store) -> Queue:
    return _QUEUES[kind.queue](store)


def all_queues(store: Store) -> Sequence[Queue]:
    return [queue(store) for queue in _QUEUES.values()]
