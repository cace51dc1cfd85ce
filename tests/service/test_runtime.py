"""A connection is idle only when its workers have handed everything to lanes that are idle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from connector.domain.attention import AttentionItem
from connector.ports.workers import WorkerName
from connector.service import ConnectionRuntime
from connector.testing.fakes.lease import FakeLease


class StubLane:
    """`ready` entries; idle when there are none."""

    busy = False

    def __init__(self) -> None:
        self.ready = 0

    async def idle(self, ahead: float) -> bool:
        return not self.ready


class StubWorker:
    """Each call of `idle` takes the next answer; `on_idle` happens just before it is given."""

    name: WorkerName = "poll"

    def __init__(self, *answers: bool) -> None:
        self.answers = list(answers)
        self.on_idle = lambda: None

    def start(self) -> None: ...

    def wake(self) -> None: ...

    async def stop(self, timeout: float) -> None: ...

    async def idle(self, ahead: float) -> bool:
        self.on_idle()
        return self.answers.pop(0) if self.answers else True

    async def attention(self) -> Sequence[AttentionItem]:
        return ()


def runtime(lane: StubLane, worker: StubWorker) -> ConnectionRuntime:
    return ConnectionRuntime(
        name="acme",
        title="Acme",
        enabled=True,
        mapping="v1",
        account=None,
        lease=FakeLease(),
        events=cast(Any, lane),
        workers=(worker,),
    )


async def test_a_page_stored_after_the_lane_was_looked_at_is_not_missed() -> None:
    lane, poll = StubLane(), StubWorker()

    def store_page() -> None:
        lane.ready = 1

    poll.on_idle = store_page
    assert not await runtime(lane, poll).idle(60.0)


async def test_a_worker_that_gets_work_from_a_lane_is_looked_at_again() -> None:
    import_jobs = StubWorker(True, False)
    assert not await runtime(StubLane(), import_jobs).idle(60.0)


async def test_it_is_idle_when_lanes_and_workers_are() -> None:
    assert await runtime(StubLane(), StubWorker()).idle(60.0)
