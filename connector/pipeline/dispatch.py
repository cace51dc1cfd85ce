"""Claims ready records and delivers them: one dispatcher per lane.

A short queue is sent in single requests, each record as soon as it is ready; a long one in bulk. A
claim is made only with quota in hand, and settled record by record as answers arrive.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from connector.domain.attention import Affected, AttentionItem
from connector.domain.errors import Problem, StoreError
from connector.domain.lanes import Lane, LaneMode, LaneState, Millis
from connector.domain.outcomes import Delivery, Outcome, Stop, is_success
from connector.domain.records import Claim, Entry
from connector.net.retry import Backoff
from connector.pipeline.breaker import DEAD_RATE_WINDOW, LaneBreaker
from connector.pipeline.claims import Claimer
from connector.pipeline.delivery import ClaimDelivery
from connector.pipeline.lane_switch import LaneSwitch
from connector.pipeline.outcome_writer import OutcomeWriter, StoreOutage
from connector.ports import (
    BatchMode,
    Clock,
    Fence,
    Lanes,
    Lease,
    Queue,
    Renderer,
    RetryPolicy,
    Sink,
)
from connector.ports.workers import WorkerName
from connector.runtime import log
from connector.runtime.metrics import Metrics
from connector.runtime.supervisor import SupervisedWorker

M = TypeVar("M")

_CANCEL_TIMEOUT = 5.0
"""Seconds in which deliveries that were cancelled can still store their outcomes."""
_STORE_PAUSE = 1.0


@dataclass(frozen=True, slots=True)
class Policy:
    """`[delivery]` as a lane needs it: seconds; `horizon` and `look_ups` as in RetryPolicy.

    What wakes a lane within `claim_cooldown` of its last look for ready records is claimed together
    when that is over.
    """

    bulk_threshold: int = 50
    claim_cooldown: float = 0.0
    probe_every: float = 30.0
    horizon: int = 3 * 86_400_000
    look_ups: Sequence[int] = (0,)
    retry_base: float = 1.0
    retry_max: float = 300.0


class Dispatcher(Generic[M]):
    """connector.ports.workers.Worker that runs one lane. `on_settled` gets every outcome that was
    stored."""

    name: WorkerName = "lane"

    def __init__(
        self,
        lane: Lane,
        state: LaneState,
        *,
        queue: Queue,
        lanes: Lanes,
        sink: Sink[M],
        renderer: Renderer[M],
        lease: Lease,
        clock: Clock,
        metrics: Metrics,
        policy: Policy,
        on_settled: Callable[[Sequence[Outcome]], None] = lambda outcomes: None,
    ) -> None:
        self.lane = lane
        self._queue = queue
        self._sink = sink
        self._lease = lease
        self._clock = clock
        self._metrics = metrics
        self._policy = policy
        self._on_settled = on_settled
        self._log = log.get("lanes").bind(
            connection=lane.connection, destination=lane.destination, kind=lane.kind
        )
        self._outage = StoreOutage(self._log)
        self._writer = OutcomeWriter(
            queue,
            clock,
            self._outage,
            self._log,
            policy=RetryPolicy(policy.horizon, policy.look_ups),
            ready_again=self.wake_at,
        )
        self._switch = LaneSwitch(
            lane,
            state,
            lanes=lanes,
            queue=queue,
            clock=clock,
            metrics=metrics,
            log=self._log,
        )
        self._breaker = LaneBreaker(
            Backoff(policy.retry_base, policy.retry_max), probe_every=policy.probe_every
        )
        self._delivery = ClaimDelivery(
            lane, sink=sink, renderer=renderer, lease=lease, metrics=metrics, settle=self._settle
        )
        self._claimer = Claimer(
            lane,
            queue=queue,
            sink=sink,
            lease=lease,
            clock=clock,
            breaker=self._breaker,
            outage=self._outage,
            version=lambda: renderer.version,
            in_flight=self._requests_in_flight,
            launch=self._launch,
            bulk_threshold=policy.bulk_threshold,
        )
        self._in_flight: dict[asyncio.Task[None], tuple[BatchMode, int]] = {}
        self._passes = _Passes(
            self._pass, self._update_quiet, clock=clock, cooldown=policy.claim_cooldown
        )
        self._supervisor = SupervisedWorker(
            self.name,
            self._passes,
            subject=lane.title,
            clock=clock,
            metrics=metrics,
            may_run=lease.valid,
        )
        self._alarm: tuple[Millis, asyncio.Task[None]] | None = None
        """When the next pass should be at the latest."""
        self._failing_since: Millis | None = None
        self._stopping = False
        self._quiet = asyncio.Event()
        """Set while nothing is in flight and no claim is under way."""
        self._quiet.set()

    # ── the worker ───────────────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        self._supervisor.start()

    async def stop(self, timeout: float) -> None:
        """Makes no new claims. What is cancelled after `timeout` seconds is ambiguous, and sent
        singly after the next start."""
        self._stopping = True
        self._clear_alarm()
        if not await self._clock.wait(self._quiet, timeout):
            self._claimer.abort()
            self._writer.abort()
            late = list(self._in_flight)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=_CANCEL_TIMEOUT)
        await self._supervisor.stop(_CANCEL_TIMEOUT)

    def wake(self) -> None:
        self._passes.wakeup.set()

    async def until_quiet(self, timeout: float) -> bool:
        """Wait until nothing is in flight and no claim is under way; whether that was within
        `timeout` seconds."""
        return await self._clock.wait(self._quiet, timeout)

    def wake_at(self, due: Millis) -> None:
        """Wakes the lane when something is due, unless a pass before then finds it."""
        delay = (due - self._clock.now()) / 1000
        if delay <= 0:
            self.wake()
        elif not self._stopping and (self._alarm is None or due < self._alarm[0]):
            self._clear_alarm()
            self._alarm = due, asyncio.create_task(self._wake_after(delay))

    async def _wake_after(self, delay: float) -> None:
        await self._clock.sleep(delay)
        self._alarm = None
        self.wake()

    def _clear_alarm(self) -> None:
        if self._alarm:
            self._alarm[1].cancel()
            self._alarm = None

    async def idle(self, ahead: float) -> bool:
        """Whether nothing is in flight, and nothing is ready or becomes so within `ahead` seconds.
        A lane that does not run is idle."""
        if self._claiming_or_sending:
            return False
        if self.state.mode != "running":
            return True
        now = self._clock.now()
        ready = await self._queue.ready(self.lane.id, now=now, limit=1)
        soon = ready.next_due is not None and ready.next_due <= now + ahead * 1000
        return not (ready.total > 0 or soon or self._claiming_or_sending)

    async def attention(self) -> Sequence[AttentionItem]:
        found = list(await self._supervisor.attention())
        # Of a lane that was stopped, the state says why.
        failure, problem = self._breaker.failure, self._breaker.failing_with
        if failure and problem and self.state.mode == "running":
            why = f" ({failure.detail})" if failure.detail else ""
            found.append(
                AttentionItem(
                    f"slow {self.lane.title}",
                    f"{self.lane.title}: {problem.meaning}{why}",
                    problem,
                    since=self._failing_since,
                    retry_in=self._breaker.retry_in(self._clock.monotonic()),
                    remote=self.lane.destination,
                    affected=Affected(
                        self.lane.connection, self.lane.lane_kind.work, failure.detail
                    ),
                )
            )
        return found

    @property
    def busy(self) -> bool:
        """Whether something is in flight."""
        return bool(self._in_flight)

    @property
    def _claiming_or_sending(self) -> bool:
        # A claim that is being committed is in flight for no task yet.
        return self.busy or self._passes.running

    @property
    def starts_in(self) -> float | None:
        """Seconds until it may send; None: it does not run."""
        if self.state.mode != "running":
            return None
        return self._breaker.wait(self._clock.monotonic())

    @property
    def backlogged(self) -> bool:
        """Whether more records are ready than are sent in single requests."""
        return self._claimer.backlogged

    # ── the lane's state ─────────────────────────────────────────────────────────────────────────

    @property
    def state(self) -> LaneState:
        return self._switch.state

    async def pause(self) -> None:
        """By a person. What is in flight is settled. A lane that waits because of another Klaviyo
        account stays as it is: only `resume` answers that."""
        if self.state.problem is not Problem.KLAVIYO_ACCOUNT:
            await self._switch.stop("paused", Problem.PAUSED)

    async def resume(self) -> None:
        """By a person, whatever stopped the lane. What waits for a remote side that was away is
        tried at once."""
        self._sink.resumed()
        if self.state.mode != "running":
            await self._run_again()
        await self._queue.retry_now(self.lane.id, now=self._clock.now())
        self.probe_now()

    def load_state(self, state: LaneState) -> None:
        """The state as it is stored now, which another process may have changed."""
        self._switch.load(state)
        self.probe_now()

    def probe_now(self) -> None:
        """Something outside changed: probe a held or blocked lane at once."""
        self._breaker.probe_now()
        self.wake()

    async def _run_again(self, fence: Fence | None = None) -> None:
        await self._switch.run(fence=fence)
        self._breaker.reset()
        self.wake()

    # ── one pass ─────────────────────────────────────────────────────────────────────────────────

    async def _pass(self) -> float | None:
        """Start what can be started. Returns 0 when something was, else the seconds until the next
        pass; None: when the lane is woken."""
        if self._stopping or not self._lease.valid():
            return None
        self._clear_alarm()
        try:
            await self._claimer.give_back()
            if self.state.mode == "paused":
                return None
            if self.state.mode != "running":
                return await self._probe()
            if wait := self._breaker.wait(self._clock.monotonic()):
                return wait
            return await self._claimer.claim_ready()
        except StoreError as error:
            self._outage.failed(error)
            return _STORE_PAUSE

    async def _probe(self) -> float | None:
        """Send one record, or run the sink's own check where none is ready, to see whether the
        lane can run again."""
        now = self._clock.monotonic()
        if self.busy:
            return None
        if until := self._breaker.until_probe(now):
            return until
        self._breaker.schedule_probe(now)
        self._breaker.open()
        found, wait = await self._claimer.claim_one()
        if found:
            return wait or self._policy.probe_every
        if self.state.mode == "blocked":
            checks = await self._sink.check()
            if all(check.level == "ok" for check in checks):
                await self._run_again(self._lease.fence)
                return 0
        return self._policy.probe_every

    # ── deliveries ───────────────────────────────────────────────────────────────────────────────

    def _launch(self, claim: Claim, mode: BatchMode, permits: int) -> None:
        task = asyncio.create_task(self._deliver(claim, mode, permits))
        self._in_flight[task] = (mode, permits)
        self._quiet.clear()
        task.add_done_callback(self._delivery_done)

    def _requests_in_flight(self, mode: BatchMode) -> int:
        return sum(count for m, count in self._in_flight.values() if m == mode)

    async def _deliver(self, claim: Claim, mode: BatchMode, permits: int) -> None:
        try:
            await self._delivery.run(claim, mode, permits)
        except StoreError as error:
            self._outage.failed(error)
            self._breaker.delay(self._clock.monotonic(), _STORE_PAUSE)
            self.wake()

    def _delivery_done(self, task: asyncio.Task[None]) -> None:
        self._in_flight.pop(task, None)
        self._update_quiet()
        if not task.cancelled() and (error := task.exception()):
            self._log.error("delivery_crashed", error=repr(error))
            self.wake()
        if self._claimer.has_left or self._breaker.is_open or self.state.mode != "running":
            self.wake()

    def _update_quiet(self) -> None:
        if self._claiming_or_sending:
            self._quiet.clear()
        else:
            self._quiet.set()

    async def _settle(self, claim: Claim, delivery: Delivery, entries: Mapping[int, Entry]) -> None:
        outcomes = self._with_waits(delivery, entries)
        delivery, now = replace(delivery, outcomes=outcomes), self._clock.now()
        written = await self._writer.write(
            claim, delivery, now=now, paused=self._switch.stopped_for
        )
        if outcomes and not written:
            return
        delivery = replace(delivery, outcomes=written)
        self._metrics.record_settled(self.lane, delivery, entries, now)
        self._on_settled(written)
        try:
            await self._update_lane(delivery)
        except StoreError as error:
            self._outage.failed(error, "write")

    def _with_waits(self, delivery: Delivery, entries: Mapping[int, Entry]) -> Sequence[Outcome]:
        held, outcomes = self.state.mode == "held", delivery.outcomes
        failing = self._breaker.failing_with
        change = self._breaker.record(
            outcomes, self._clock.monotonic(), held=held, bulk=delivery.bulk
        )
        failure, problem = self._breaker.failure, self._breaker.failing_with
        if change == "opened" and failure and problem:
            self._failing_since = self._clock.now()
            self._log.warning(
                "destination_failed",
                problem=problem.value,
                meaning=problem.meaning,
                detail=failure.detail,
            )
        elif change == "closed" and failing:
            # A probe of a stopped lane opens it too: there `lane_resumed` is the line.
            self._log.info("destination_recovered", problem=failing.value)
        return self._breaker.with_waits(outcomes, lambda seq: entries[seq].attempts, held=held)

    async def _update_lane(self, delivery: Delivery) -> None:
        """What a delivery says about the lane."""
        if delivery.stop:
            await self._apply_stop(delivery.stop)
        elif self.state.mode in ("held", "blocked"):
            if any(is_success(o) for o in delivery.outcomes):
                await self._run_again(self._lease.fence)
        elif self.state.mode == "running" and (dead := self._breaker.dead_rate(delivery.outcomes)):
            cause, count = dead
            self._breaker.schedule_probe(self._clock.monotonic())
            detail = (
                f"{count} of the last {DEAD_RATE_WINDOW} records died of {cause}: {cause.meaning}"
            )
            await self._switch.stop("held", Problem.HIGH_DEAD_RATE, detail, fence=self._lease.fence)

    async def _apply_stop(self, stop: Stop) -> None:
        self._breaker.schedule_probe(self._clock.monotonic())
        if self.state.mode == "running":
            mode: LaneMode = "held" if stop.scope == "target" else "blocked"
            await self._switch.stop(mode, stop.problem, stop.detail, fence=self._lease.fence)


class _Passes:
    """connector.ports.workers.Loop of a dispatcher: passes follow at once while they start
    something, else `cooldown` seconds lie between two at least. `on_change` is called when
    `running` changes."""

    def __init__(
        self,
        run_pass: Callable[[], Awaitable[float | None]],
        on_change: Callable[[], None],
        *,
        clock: Clock,
        cooldown: float,
    ) -> None:
        self.wakeup = asyncio.Event()
        self.running = False
        self._run_pass = run_pass
        self._on_change = on_change
        self._clock = clock
        self._cooldown = cooldown
        self._started_at = -math.inf

    async def run_once(self) -> float | None:
        cooldown = self._started_at + self._cooldown - self._clock.monotonic()
        if cooldown > 0:
            await self._clock.sleep(cooldown)
            self.wakeup.clear()
        self._started_at = self._clock.monotonic()
        self.running = True
        self._on_change()
        try:
            while (wait := await self._run_pass()) == 0:
                self.wakeup.clear()
            return wait
        finally:
            self.running = False
            self._on_change()

    async def idle(self) -> bool:
        return True

    async def attention(self) -> Sequence[AttentionItem]:
        return ()
