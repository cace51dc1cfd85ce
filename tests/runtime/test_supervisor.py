"""A loop that fails continues, is counted, and needs attention when it keeps failing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from connector.domain.attention import AttentionItem
from connector.domain.errors import Problem, StoreError
from connector.runtime.metrics import Metrics
from connector.runtime.supervisor import Periodic, SupervisedWorker
from connector.testing.fakes.clock import START, FakeClock


class ScriptedLoop:
    """Passes that do what `script` says: raise it, or return it as the delay."""

    def __init__(self, *script: BaseException | float | None) -> None:
        self.wakeup = asyncio.Event()
        self.script = list(script)
        self.passes: list[float] = []
        self.clock = FakeClock()

    async def run_once(self) -> float | None:
        self.passes.append((self.clock.now() - START) / 1000)
        step = self.script.pop(0) if self.script else None
        if isinstance(step, BaseException):
            raise step
        return step

    async def idle(self) -> bool:
        return not self.script

    async def attention(self) -> Sequence[AttentionItem]:
        return [AttentionItem("own", "of the loop itself")]


def supervise(loop: ScriptedLoop, metrics: Metrics) -> SupervisedWorker:
    return SupervisedWorker("poll", loop, subject="acme", clock=loop.clock, metrics=metrics)


def restarts(metrics: Metrics) -> float:
    [family] = metrics.worker_restarts.collect()
    return sum(s.value for s in family.samples if s.labels == {"worker": "poll"})


async def test_a_pass_starts_after_the_delay_it_returned_or_when_woken() -> None:
    loop = ScriptedLoop(5.0, None, None)
    worker = supervise(loop, Metrics("test"))
    worker.start()
    await loop.clock.advance(4.9)
    assert loop.passes == [0.0]
    await loop.clock.advance(0.2)
    assert len(loop.passes) == 2
    await loop.clock.advance(3600.0)
    assert len(loop.passes) == 2
    loop.wakeup.set()
    await loop.clock.advance(0.0)
    assert len(loop.passes) == 3
    assert await worker.idle(60.0)
    await worker.stop(1.0)


def test_the_counter_of_a_worker_exists_before_its_first_failure() -> None:
    """`increase()` does not see the first value of a series."""
    metrics = Metrics("test")
    supervise(ScriptedLoop(), metrics)
    assert b'connector_worker_restarts_total{worker="poll"} 0.0' in metrics.render()


async def test_a_failed_pass_is_counted_and_retried_with_backoff() -> None:
    loop, metrics = ScriptedLoop(*[KeyError("x")] * 8, None), Metrics("test")
    worker = supervise(loop, metrics)
    worker.start()
    await loop.clock.advance(1 + 2 + 4 + 8 + 16 + 32 + 60 + 60)
    assert loop.passes == [0.0, 1.0, 3.0, 7.0, 15.0, 31.0, 63.0, 123.0, 183.0]
    assert restarts(metrics) == 8
    await worker.stop(1.0)


async def test_a_store_that_was_away_for_long_is_used_again_within_5_s() -> None:
    """/livez needs a heartbeat every 60 s, and /readyz follows the last one."""
    loop, metrics = ScriptedLoop(*[StoreError(Problem.STORE_UNAVAILABLE)] * 30, None), Metrics("t")
    worker = supervise(loop, metrics)
    worker.start()
    await loop.clock.advance(120.0)
    assert loop.passes[:5] == [0.0, 1.0, 3.0, 7.0, 12.0]
    gaps = [after - before for before, after in zip(loop.passes, loop.passes[1:], strict=False)]
    assert max(gaps) == 5.0
    assert restarts(metrics) == len(loop.passes)
    await worker.stop(1.0)


async def test_an_event_set_before_the_start_starts_a_periodic_pass() -> None:
    """The lease may be lost while connections are still built, before its worker runs."""
    lost, clock = asyncio.Event(), FakeClock()
    passes: list[float] = []

    async def reacquire() -> None:
        passes.append(clock.monotonic())

    worker = SupervisedWorker(
        "lease", Periodic(lost, reacquire), subject="daemon", clock=clock, metrics=Metrics("test")
    )
    lost.set()
    worker.start()
    await clock.advance(1.0)
    assert len(passes) == 1
    await worker.stop(1.0)


async def test_a_worker_that_keeps_failing_needs_attention_until_a_pass_succeeds() -> None:
    loop = ScriptedLoop(*[KeyError("ada@example.com")] * 4, None)
    worker = supervise(loop, Metrics("test"))
    worker.start()
    await loop.clock.advance(2.0)
    assert [item.key for item in await worker.attention()] == ["own"]
    await loop.clock.advance(5.0)
    _, down = await worker.attention()
    assert down.key == "worker poll acme"
    assert down.line.startswith("R10 acme: ")
    assert "KeyError" in down.text
    assert "ada@" not in down.text
    await loop.clock.advance(100.0)
    assert [item.key for item in await worker.attention()] == ["own"]
    await worker.stop(1.0)


async def test_a_store_that_does_not_answer_is_not_a_fault_of_the_worker() -> None:
    loop = ScriptedLoop(*[StoreError(Problem.STORE_UNAVAILABLE)] * 6, None)
    worker = supervise(loop, Metrics("test"))
    worker.start()
    await loop.clock.advance(20.0)
    assert [item.key for item in await worker.attention()] == ["own"]
    await worker.stop(1.0)


async def test_a_cancelled_call_within_a_pass_does_not_end_the_worker() -> None:
    loop = ScriptedLoop(asyncio.CancelledError(), 5.0)
    worker = supervise(loop, Metrics("test"))
    worker.start()
    await loop.clock.advance(2.0)
    assert loop.passes == [0.0, 1.0]
    await worker.stop(1.0)


async def test_stop_ends_a_pass_that_does_not_return(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = ScriptedLoop()

    async def forever() -> float | None:
        await asyncio.Event().wait()
        return None

    monkeypatch.setattr(loop, "run_once", forever)
    worker = supervise(loop, Metrics("test"))
    worker.start()
    await loop.clock.advance(0.0)
    await worker.stop(1.0)
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "poll acme"]
