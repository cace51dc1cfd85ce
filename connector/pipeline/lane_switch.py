"""A lane's state, as stored: running, paused, held or blocked."""

from __future__ import annotations

from structlog.typing import FilteringBoundLogger

from connector.domain.errors import Problem
from connector.domain.lanes import Lane, LaneMode, LaneState
from connector.ports import Clock, Fence, Lanes, Queue
from connector.runtime.metrics import Metrics


class LaneSwitch:
    """Stops a lane and lets it run again. Time that it did not run does not count against the retry
    horizon of its records. `stop` and `run` raise StoreError. What a delivery says is stored with
    the `fence` of its lease: an answer that comes after the lease was lost must not undo what
    another process, or a person there, has decided. What a person here says needs none."""

    def __init__(
        self,
        lane: Lane,
        state: LaneState,
        *,
        lanes: Lanes,
        queue: Queue,
        clock: Clock,
        metrics: Metrics,
        log: FilteringBoundLogger,
    ) -> None:
        self.state = state
        self._lane = lane
        self._lanes = lanes
        self._queue = queue
        self._clock = clock
        self._metrics = metrics
        self._log = log
        metrics.set_lane_state(lane, state.mode)

    @property
    def stopped_for(self) -> int:
        """ms since it stopped; 0 while it runs."""
        return 0 if self.state.mode == "running" else self._clock.now() - self.state.since

    def load(self, state: LaneState) -> None:
        """The state that another process has stored."""
        self.state = state
        self._metrics.set_lane_state(self._lane, state.mode)

    async def stop(
        self, mode: LaneMode, problem: Problem, detail: str = "", *, fence: Fence | None = None
    ) -> None:
        """Logged as an error, except a pause that a person asked for."""
        if stopped := self.stopped_for:
            await self._queue.extend_horizon(self._lane.id, stopped)
        self.state = LaneState(mode, problem, detail, self._clock.now())
        self._metrics.record_lane_state(self._lane, mode)
        await self._lanes.set_state(self._lane.id, self.state, fence)
        log = self._log.info if problem is Problem.PAUSED else self._log.error
        log(f"lane_{mode}", problem=problem.value, meaning=problem.meaning, detail=detail)

    async def run(self, *, fence: Fence | None = None) -> None:
        """The lane counts as stopped until the store knows that it runs."""
        before, stopped = self.state, self.stopped_for
        state = LaneState("running", None, "", self._clock.now())
        await self._queue.extend_horizon(self._lane.id, stopped)
        await self._lanes.set_state(self._lane.id, state, fence)
        self.state = state
        self._metrics.record_lane_state(self._lane, "running")
        problem = before.problem.value if before.problem else None
        seconds = round(stopped / 1000)
        self._log.info("lane_resumed", was=before.mode, problem=problem, seconds=seconds)
