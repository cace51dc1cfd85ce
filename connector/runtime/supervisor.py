"""The one runner of loops: a pass that fails is logged and counted, and the loop continues."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from connector.domain.attention import AttentionItem
from connector.domain.errors import Problem, StoreError
from connector.ports import Clock
from connector.ports.workers import Loop, WorkerName
from connector.runtime import log
from connector.runtime.failures import FailureStreak
from connector.runtime.metrics import Metrics

_FIRST_DELAY = 1.0
_MAX_DELAY = 60.0
_MAX_STORE_DELAY = 5.0
"""Every worker waits for a store that is away, and /livez and /readyz follow the heartbeat."""
_DOWN_AFTER = 3
"""Failed passes in a row after which a person should know."""


class SupervisedWorker:
    """connector.ports.workers.Worker that runs a Loop.

    An exception in a pass never ends the loop: the next pass starts after 1 s, doubled with every
    further failure up to 60 s. After 3 failures in a row the worker needs attention. A store that
    does not answer is tried again within 5 s, and is reported by the store's own problem, not by
    the worker. `subject` says whose worker it is, usually a connection. No pass starts while
    `may_run` is False: whoever makes it True wakes the worker.
    """

    def __init__(
        self,
        name: WorkerName,
        loop: Loop,
        *,
        subject: str,
        clock: Clock,
        metrics: Metrics,
        may_run: Callable[[], bool] = lambda: True,
    ) -> None:
        self.name: WorkerName = name
        self._loop = loop
        self._subject = subject
        self._clock = clock
        self._may_run = may_run
        self._restarts = metrics.worker_restarts.labels(name)
        self._task: asyncio.Task[None] | None = None
        self._between_passes = asyncio.Event()
        self._between_passes.set()
        self._crashes = 0
        logger = log.get("workers").bind(worker=name, subject=subject)
        self._failures = FailureStreak(logger, "worker_failed", "worker_recovered")

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name=f"{self.name} {self._subject}")

    async def stop(self, timeout: float) -> None:
        """Cancels the pass that runs: what it had not stored is done again after the next start."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.wait([self._task], timeout=timeout)

    def wake(self) -> None:
        self._loop.wakeup.set()

    async def until_quiet(self, timeout: float) -> bool:
        """Wait until no pass runs; whether that was in time."""
        return await self._clock.wait(self._between_passes, timeout)

    async def idle(self, ahead: float) -> bool:
        return await self._loop.idle()

    async def attention(self) -> Sequence[AttentionItem]:
        found = list(await self._loop.attention())
        if self._crashes >= _DOWN_AFTER:
            text = (
                f"{self._subject}: worker {self.name} failed {self._crashes} times in a row "
                f"({self._failures.last}); it is retried every {_MAX_DELAY:.0f} s at the latest, "
                "see the log"
            )
            key = f"worker {self.name} {self._subject}"
            found.append(AttentionItem(key, text, Problem.WORKER_DOWN))
        return found

    async def _run(self) -> None:
        while True:
            if not self._may_run():
                await self._clock.wait(self._loop.wakeup, None)
                self._loop.wakeup.clear()
                continue
            self._between_passes.clear()
            try:
                delay = await self._run_pass()
            except StoreError as error:
                self._failed(error.detail, problem=error.problem)
                await self._clock.sleep(self._delay(_MAX_STORE_DELAY))
            except (Exception, asyncio.CancelledError) as error:
                task = asyncio.current_task()
                if isinstance(error, asyncio.CancelledError) and task and task.cancelling():
                    raise  # it is this worker that is stopped, not something that it waits for
                self._crashes += 1
                self._failed(type(error).__name__, problem=Problem.WORKER_DOWN, trace=True)
                await self._clock.sleep(self._delay(_MAX_DELAY))
            else:
                self._crashes = 0
                self._failures.clear()
                await self._clock.wait(self._loop.wakeup, delay)
            # Not before the first pass: what was set before the start counts.
            self._loop.wakeup.clear()

    async def _run_pass(self) -> float | None:
        try:
            return await self._loop.run_once()
        finally:
            self._between_passes.set()

    def _delay(self, maximum: float) -> float:
        return min(maximum, _FIRST_DELAY * 2.0 ** min(self._failures.count - 1, 10))

    def _failed(self, error: str, *, problem: Problem, trace: bool = False) -> None:
        self._restarts.inc()
        self._failures.record(error, problem=problem.value, exc_info=trace)


class Periodic:
    """A Loop whose passes are started from outside: by a scheduler's event, or by a signal. The
    first pass waits for that as well."""

    def __init__(self, wakeup: asyncio.Event, work: Callable[[], Awaitable[None]]) -> None:
        self.wakeup = wakeup
        self._work = work
        self._started = False

    async def run_once(self) -> None:
        if self._started:
            await self._work()
        self._started = True

    async def idle(self) -> bool:
        return True

    async def attention(self) -> Sequence[AttentionItem]:
        return ()
