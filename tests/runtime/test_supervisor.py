"""A loop that fails continues, is counted, and needs attention when it keeps failing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from connector.domain.attention import AttentionItem
from connector.domain.errors import Problem, StoreError
from connector.runtime.metrics import Metrics
from connector.runtime.supervisor import SupervisedWorker
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


@pytest.mark.parametrize("fault", [KeyError("x"), StoreError(Problem.STORE_UNAVAILABLE)])
async def test_a_failed_pass_is_counted_and_retried_with_backoff(fault: Exception) -> None:
    loop, metrics = ScriptedLoop(*[fault] * 8, None), Metrics("test")
    worker = supervise(loop, metrics)
    worker.start()
    await loop.clock.advance(1 + 2 + 4 + 8 + 16 + 32 + 60 + 60)
    assert loop.passes == [0.0, 1.0, 3.0, 7.0, 15.0, 31.0, 63.0, 123.0, 183.0]
    assert restarts(metrics) == 8
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
    assert "R10 acme" in down.text
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
