"""What goes out: claim, render, deliver, settle. One dispatcher per lane.

A short queue goes one by one, each record as soon as it is there; a long one goes in bulk. A
claim is made only with quota in hand, and is settled record by record as answers come in.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, Literal, TypeVar

from connector.domain.errors import Problem, StoreError
from connector.domain.lanes import DeliveryMode, Lane, LaneMode, LaneState, Millis
from connector.domain.messages import Fault, Skip
from connector.domain.outcomes import (
    SUCCESS,
    Ambiguous,
    Dead,
    Delivery,
    Held,
    Outcome,
    Retry,
    Skipped,
    Stop,
    Unsent,
)
from connector.domain.records import Claim, Entry
from connector.net.retry import Backoff
from connector.ports import (
    BatchMode,
    Clock,
    Lanes,
    Lease,
    Outgoing,
    Queue,
    ReadyCounts,
    Renderer,
    RetryPolicy,
    Sink,
)
from connector.runtime import log
from connector.runtime.metrics import Metrics

M = TypeVar("M")

_HELD_PROBLEMS = {Problem.NO_IDENTITY, Problem.BAD_ADDRESS}
_DEAD_RATE_WINDOW = 100
_BREAKER_THRESHOLD = 3
_GATHER_SECONDS = 2.0
"""Seconds that a backfill's next batch may grow, where the last one was not full."""
_CANCEL_GRACE_SECONDS = 5.0
"""Seconds that deliveries which were cut off have to say so to the store."""


@dataclass(frozen=True, slots=True)
class Policy:
    """`[delivery]` as a lane needs it: seconds; `horizon` and `look_ups` as in RetryPolicy."""

    bulk_threshold: int = 50
    probe_every: float = 30.0
    horizon: int = 3 * 86_400_000
    look_ups: Sequence[int] = (0,)
    retry_base: float = 1.0
    retry_max: float = 300.0


class Dispatcher(Generic[M]):
    """Runs one lane until it is told to stop. `settled` is told of every outcome written."""

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
        self.state = state
        self.backlogged = False
        """More waits than goes singly: no record should wait for anything."""
        self.renderer = renderer
        self._queue = queue
        self._lanes = lanes
        self._on_settled = on_settled
        self._sink = sink
        self._lease = lease
        self._clock = clock
        self._metrics = metrics
        self._policy = policy
        self._backoff = Backoff(policy.retry_base, policy.retry_max)
        self._wakeup = asyncio.Event()
        self._stopping = asyncio.Event()
        self._tasks: dict[asyncio.Task[None], tuple[BatchMode, int]] = {}
        self._recent: deque[Problem | None] = deque(maxlen=_DEAD_RATE_WINDOW)
        self.failing_with: Problem | None = None
        self._failures = 0
        self._resume_at = 0.0
        self._probe_at = 0.0
        self._last_delivery = DeliveryMode.BATCH
        self._gather_until = 0.0
        self._in_pass = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._aborted = False
        self._store_outage: Literal["", "reading", "writing"] = ""
        self._log = log.get("dispatch").bind(
            connection=lane.connection, destination=lane.destination, kind=lane.kind
        )
        metrics.set_lane_state(lane, state.mode)

    # ── from outside ─────────────────────────────────────────────────────────────────────────────

    def wake(self) -> None:
        """There may be something to do."""
        self._wakeup.set()

    def probe_now(self) -> None:
        """Something outside changed: try a held or blocked lane at once."""
        self._probe_at = self._resume_at = 0.0
        self._recent.clear()
        self.wake()

    @property
    def idle(self) -> bool:
        """Nothing is in flight."""
        return not self._tasks

    async def idle_for(self, ahead: float) -> bool:
        """Nothing is in flight, and nothing is ready or becomes so within `ahead` seconds, as
        long as the lane runs."""
        if not self.idle:
            return False
        if self.state.mode != "running":
            return True
        now = self._clock.now()
        ready = await self._queue.ready(self.lane.id, now=now, limit=1)
        soon = ready.next_due is not None and ready.next_due <= now + ahead * 1000
        return not (ready.any or soon) and self.idle

    async def pause(self) -> None:
        """A person stops deliveries; what is in flight is settled."""
        now = self._clock.now()
        if self.state.problem is Problem.KLAVIYO_ACCOUNT:
            return  # it stands already, and for a reason that only `resume` may answer
        if self.state.mode != "running":
            await self._queue.extend_horizon(self.lane.id, now - self.state.since)
        await self._set_state(LaneState("paused", Problem.PAUSED, "", now))

    async def resume(self) -> None:
        """A person starts deliveries again, whatever stopped them."""
        self._sink.resumed()
        if self.state.mode != "running":
            await self._back_to_running()
        self.wake()

    async def run(self) -> None:
        """Until `stop`. Nothing that the store or a far end does ends it earlier."""
        while not self._stopping.is_set():
            self._wakeup.clear()
            self._in_pass = True
            self._idle.clear()
            try:
                wait = await self._pass()
            except StoreError as error:
                self._store_failed(error)
                wait = 1.0
            except Exception as error:
                self._log.error("a turn of the lane failed", error=repr(error))
                wait = self._policy.probe_every
            finally:
                self._in_pass = False
                self._signal_idle()
            if wait != 0:
                await self._clock.wait(self._wakeup, wait)

    async def stop(self, timeout: float) -> None:
        """No new claims; wait for what is in flight, at most `timeout` seconds. What is cut off
        then is in doubt and goes singly after a restart."""
        self._stopping.set()
        self.wake()
        if await self._clock.wait(self._idle, timeout):
            return
        self._aborted = True
        late = list(self._tasks)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=_CANCEL_GRACE_SECONDS)

    def _signal_idle(self) -> None:
        """Nothing is in flight and no claim is under way."""
        if not self._in_pass and not self._tasks:
            self._idle.set()

    # ── one turn ─────────────────────────────────────────────────────────────────────────────────

    async def _pass(self) -> float | None:
        """Start what can be started. Seconds until the next look; None: when the bell rings."""
        if not self._lease.valid():
            return 1.0
        now = self._clock.monotonic()
        if self.state.mode == "paused":
            return None
        if self.state.mode != "running":
            return await self._probe(now)
        if now < self._resume_at:
            return self._resume_at - now
        limit = self._policy.bulk_threshold + 1
        ready = await self._count_ready(limit)
        self.backlogged = ready.batch > self._policy.bulk_threshold
        waits = [self._until_due(ready)]
        started = False
        # Live first: a backfill takes what that leaves. Doubtful and fresh in turn, so that
        # neither holds back the other where only one may go.
        for backfill in (False, True):
            for delivery in (DeliveryMode(1 - self._last_delivery), self._last_delivery):
                if count := ready.count(delivery, backfill=backfill):
                    if backfill and delivery is DeliveryMode.BATCH and now < self._gather_until:
                        waits.append(self._gather_until - now)
                        continue
                    start = await self._start(count, delivery, backfill=backfill)
                    started |= start == 0
                    waits.append(start)
        if started:
            return 0
        known = [wait for wait in waits if wait is not None]
        return min(known) if known else None

    async def _count_ready(self, limit: int) -> ReadyCounts:
        ready = await self._queue.ready(self.lane.id, now=self._clock.now(), limit=limit)
        self._store_recovered("reading")
        return ready

    def _until_due(self, ready: ReadyCounts) -> float | None:
        if ready.next_due is None:
            return None
        return max(0.01, (ready.next_due - self._clock.now()) / 1000)

    async def _start(self, count: int, delivery: DeliveryMode, *, backfill: bool) -> float | None:
        """Claim and send. 0 when something was started, else as `_turn`."""
        bulk = self._sink.bulk
        single = delivery is DeliveryMode.SINGLE
        few = self._policy.bulk_threshold
        if backfill:
            few = min(few, self._sink.single.parallel)
        many = count > few and not single and not self._breaker_open
        mode = bulk if bulk and many else self._sink.single
        want = 1 if mode == bulk else count
        room = (1 if self._breaker_open else mode.parallel) - self._in_flight(mode)
        if room <= 0:
            return None
        grant = self._sink.quota.reserve(mode.endpoint, min(want, room), backfill=backfill)
        if not grant.count:
            return grant.wait
        try:
            claim = await self._queue.claim(
                self.lane,
                self._lease.fence,
                now=self._clock.now(),
                limit=grant.count * mode.size,
                mode=delivery,
                mapping=self.renderer.version,
                usage=grant.usage,
                backfill=backfill,
            )
        except StoreError as error:
            self._sink.quota.release(mode.endpoint, grant, grant.count)
            self._store_failed(error, "writing")
            raise
        self._store_recovered("writing")
        used = -(-len(claim.entries) // mode.size) if claim else 0
        self._sink.quota.release(mode.endpoint, grant, grant.count - used)
        if claim is None or self._aborted:
            return None
        if backfill and bulk and not single and len(claim.entries) < bulk.size:
            self._gather_until = self._clock.monotonic() + _GATHER_SECONDS
        self._last_delivery = delivery
        self._launch(claim, mode, used)
        return 0

    def _in_flight(self, mode: BatchMode) -> int:
        return sum(count for running, count in self._tasks.values() if running == mode)

    def _launch(self, claim: Claim, mode: BatchMode, permits: int) -> None:
        task = asyncio.create_task(self._deliver(claim, mode, permits))
        self._tasks[task] = (mode, permits)
        self._idle.clear()
        task.add_done_callback(self._delivery_done)

    def _delivery_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)
        self._signal_idle()
        if not task.cancelled() and (error := task.exception()):
            self._log.error("a delivery ended unexpectedly", error=repr(error))
        self._wakeup.set()

    # ── one claim ────────────────────────────────────────────────────────────────────────────────

    async def _deliver(self, claim: Claim, mode: BatchMode, permits: int) -> None:
        open_entries = {entry.seq: entry for entry in claim.entries}
        left = False
        try:
            await self.renderer.prepare(claim.entries)
            messages, settled = self._render(claim.entries)
            if settled:
                await self._settle(claim, Delivery(settled), open_entries)
            if messages and self._lease.valid():
                left = True
                await self._send(claim, messages, mode, permits, open_entries)
        except StoreError as error:
            self._store_failed(error)
            self._resume_at = max(self._resume_at, self._clock.monotonic() + 1.0)
        finally:
            # A fault of ours, or a stop in mid-air: nobody knows what the far end has.
            if open_entries:
                await self._settle(
                    claim,
                    Delivery(
                        [
                            Ambiguous(seq, Problem.INTERRUPTED) if left else Unsent(seq)
                            for seq in open_entries
                        ]
                    ),
                    open_entries,
                )

    async def _send(
        self,
        claim: Claim,
        messages: list[Outgoing[M]],
        mode: BatchMode,
        permits: int,
        open_entries: dict[int, Entry],
    ) -> None:
        self._metrics.batch.labels(self.lane.destination, mode.endpoint).observe(
            len(messages) / permits
        )
        bulk = mode == self._sink.bulk
        deliveries = self._sink.deliver(messages, bulk=bulk, permits=permits)
        try:
            async for delivery in deliveries:
                await self._settle(claim, delivery, open_entries)
                # Singly all have left by now; in bulk the next request waits for us.
                if bulk and not self._lease.valid():
                    return
        finally:
            if isinstance(deliveries, AsyncGenerator):
                await deliveries.aclose()

    def _render(self, entries: Sequence[Entry]) -> tuple[list[Outgoing[M]], list[Outcome]]:
        messages: list[Outgoing[M]] = []
        settled: list[Outcome] = []
        for entry in entries:
            message = self._render_one(entry)
            if isinstance(message, Skip):
                settled.append(Skipped(entry.seq, message.reason))
            elif isinstance(message, Fault):
                end = Held if message.problem in _HELD_PROBLEMS else Dead
                settled.append(end(entry.seq, message.problem, message.detail))
            else:
                messages.append(Outgoing(entry, message))
        return messages, settled

    def _render_one(self, entry: Entry) -> M | Skip | Fault:
        try:
            return self.renderer.render(entry)
        except Exception as error:
            return Fault(Problem.MAPPING_FAILED, f"{type(error).__name__} while rendering")

    async def _settle(
        self, claim: Claim, delivery: Delivery, open_entries: dict[int, Entry]
    ) -> None:
        outcomes: list[Outcome] = []
        entries: dict[int, Entry] = {}
        for outcome in delivery.outcomes:
            # The first word about an entry counts.
            if entry := open_entries.pop(outcome.seq, None):
                entries[entry.seq] = entry
                outcomes.append(outcome)
        delivery = self._with_backoff(replace(delivery, outcomes=outcomes), entries)
        now = self._clock.now()
        written = await self._write_outcomes(claim, delivery, now)
        if delivery.outcomes and not written:
            return
        delivery = replace(delivery, outcomes=written)
        self._store_recovered("writing")
        self._metrics.record_settled(self.lane, delivery, entries, now)
        self._on_settled(delivery.outcomes)
        try:
            await self._update_lane(delivery)
        except StoreError as error:
            self._store_failed(error, "writing")

    async def _write_outcomes(
        self, claim: Claim, delivery: Delivery, now: Millis
    ) -> Sequence[Outcome]:
        """Have outcomes written, however long the store is away; those that were. What the store
        will never take is a dead letter, and only that. What a stop cuts off stays claimed: in
        doubt at the next start."""
        try:
            return delivery.outcomes if await self._settle_in_store(claim, delivery, now) else ()
        except Exception as error:
            # Not an outage: a repeat would be refused again.
            self._log.error("the store refuses an outcome", error=repr(error))
            refused = f"{type(error).__name__} while noting what became of it"
        parts = [Delivery((), [request]) for request in delivery.requests]
        parts += [Delivery([outcome]) for outcome in delivery.outcomes]
        written: list[Outcome] = []
        for part in parts:
            dead = [Dead(o.seq, Problem.STORE_REFUSED, refused) for o in part.outcomes]
            for attempt in (part, Delivery(dead)):
                with contextlib.suppress(Exception):
                    if await self._settle_in_store(claim, attempt, now):
                        written += attempt.outcomes
                    break
        return written

    async def _settle_in_store(self, claim: Claim, delivery: Delivery, now: Millis) -> bool:
        """False where a stop does not wait for the store. Raises what a repeat cannot mend."""
        horizon = self._policy.horizon
        if self.state.mode != "running":
            horizon += now - self.state.since
        policy = RetryPolicy(horizon, self._policy.look_ups)
        while True:
            try:
                await self._queue.settle(
                    claim,
                    delivery.outcomes,
                    now=now,
                    policy=policy,
                    requests=delivery.requests,
                )
                return True
            except StoreError as error:
                if error.problem is Problem.STORE_REFUSED:
                    raise
                self._store_failed(error, "writing")
                if self._aborted:
                    return False
                await self._clock.sleep(1.0)

    async def _update_lane(self, delivery: Delivery) -> None:
        """What a delivery says about the lane."""
        if delivery.stop:
            await self._apply_stop(delivery.stop)
        elif self.state.mode in ("held", "blocked"):
            if any(isinstance(o, SUCCESS) for o in delivery.outcomes):
                await self._back_to_running()
        elif self.state.mode == "running":
            await self._check_dead_rate(delivery.outcomes)

    def _with_backoff(self, delivery: Delivery, entries: dict[int, Entry]) -> Delivery:
        """Put in how long to wait; a probe of a held lane kills nobody."""
        outcomes: list[Outcome] = []
        failed: Retry | Ambiguous | None = None
        for outcome in delivery.outcomes:
            if isinstance(outcome, Retry | Ambiguous):
                failed = outcome
                wait = self._backoff(entries[outcome.seq].attempts, outcome.after)
                outcome = replace(outcome, after=wait)
            elif isinstance(outcome, Dead) and self.state.mode == "held":
                # The next probe takes another: this one may be bad by itself.
                wait = self._policy.probe_every / 2
                outcome = Retry(outcome.seq, outcome.problem, wait, outcome.detail)
            outcomes.append(outcome)
        if failed:
            self._record_failure(failed, len(outcomes))
        elif any(isinstance(o, (*SUCCESS, Dead)) for o in outcomes):
            self._record_success()
        return replace(delivery, outcomes=outcomes)

    # ── when things go wrong ─────────────────────────────────────────────────────────────────────

    @property
    def _breaker_open(self) -> bool:
        """Failures and no success between them: one record at a time, ever more slowly."""
        return self._failures >= _BREAKER_THRESHOLD

    def _record_failure(self, outcome: Retry | Ambiguous, count: int) -> None:
        was = self._breaker_open
        self._failures += 1 if count == 1 else _BREAKER_THRESHOLD
        if self._breaker_open:
            wait = self._backoff(self._failures - _BREAKER_THRESHOLD + 1, outcome.after)
            self._resume_at = max(self._resume_at, self._clock.monotonic() + wait)
        if self._breaker_open and not was:
            self.failing_with = outcome.problem
            self._log.warning(
                "the far end fails; going slowly until it answers",
                problem=outcome.problem.value,
                meaning=outcome.problem.meaning,
                detail=outcome.detail,
            )

    def _record_success(self) -> None:
        if self._breaker_open:
            self._log.info("the far end answers again")
        self._failures, self._resume_at, self.failing_with = 0, 0.0, None

    async def _apply_stop(self, stop: Stop) -> None:
        mode: LaneMode = "held" if stop.scope == "target" else "blocked"
        self._probe_at = self._clock.monotonic() + self._policy.probe_every
        if self.state.mode == "running":
            await self._set_state(LaneState(mode, stop.problem, stop.detail, self._clock.now()))

    async def _check_dead_rate(self, outcomes: Sequence[Outcome]) -> None:
        """More than half of the last hundred dead of one cause: a fault of ours or of the set-up,
        and no reason to kill the rest."""
        for outcome in outcomes:
            if isinstance(outcome, Dead):
                self._recent.append(outcome.problem)
            elif isinstance(outcome, SUCCESS):
                self._recent.append(None)
        if len(self._recent) < _DEAD_RATE_WINDOW:
            return
        [(cause, count)] = Counter(self._recent).most_common(1)
        if cause is not None and count > _DEAD_RATE_WINDOW / 2:
            self._recent.clear()
            self._probe_at = self._clock.monotonic() + self._policy.probe_every
            detail = (
                f"{count} of the last {_DEAD_RATE_WINDOW} records died of {cause}: {cause.meaning}"
            )
            await self._set_state(
                LaneState("held", Problem.HIGH_DEAD_RATE, detail, self._clock.now())
            )

    async def _probe(self, now: float) -> float | None:
        """One record, or the sink's own check where none waits, tells whether it works again."""
        if self._tasks:
            return None
        if now < self._probe_at:
            return self._probe_at - now
        self._probe_at = now + self._policy.probe_every
        ready = await self._count_ready(1)
        if ready.any:
            self._failures = max(self._failures, _BREAKER_THRESHOLD)
            backfill = not (ready.batch or ready.single)
            batch = ready.count(DeliveryMode.BATCH, backfill=backfill)
            delivery = DeliveryMode.BATCH if batch else DeliveryMode.SINGLE
            wait = await self._start(1, delivery, backfill=backfill)
            return wait or self._policy.probe_every
        if self.state.mode == "blocked":
            checks = await self._sink.check()
            if all(check.level == "ok" for check in checks):
                await self._back_to_running()
                return 0
        return self._policy.probe_every

    async def _set_state(self, state: LaneState) -> None:
        self.state = state
        self._metrics.set_lane_state(self.lane, state.mode)
        await self._lanes.set_state(self.lane.id, state)
        problem = state.problem
        tell = self._log.info if problem is Problem.PAUSED else self._log.error
        tell(
            f"lane {state.mode}",
            problem=problem.value if problem else None,
            meaning=problem.meaning if problem else None,
            detail=state.detail,
        )

    async def _back_to_running(self) -> None:
        """Time in a pause does not count against the retry horizon."""
        now = self._clock.now()
        before = self.state
        state = LaneState("running", None, "", now)
        paused = now - before.since
        await self._queue.extend_horizon(self.lane.id, paused)
        await self._lanes.set_state(self.lane.id, state)
        self.state = state
        self._failures, self._resume_at, self.failing_with = 0, 0.0, None
        self._metrics.set_lane_state(self.lane, "running")
        self._log.info("lane runs again", was=before.mode, seconds=round(paused / 1000))
        self.wake()

    def _store_failed(
        self, error: StoreError, doing: Literal["reading", "writing"] = "reading"
    ) -> None:
        if not self._store_outage:
            held = error.problem is Problem.STORE_HELD
            self._log.error(
                "no lease: nothing is sent" if held else "the store does not answer",
                problem=error.problem.value,
                detail=error.detail,
            )
        if self._store_outage != "writing":
            self._store_outage = doing

    def _store_recovered(self, doing: Literal["reading", "writing"]) -> None:
        """A store that can be read is not yet one that can be written."""
        if self._store_outage and doing in ("writing", self._store_outage):
            self._store_outage = ""
            self._log.info("the store answers again")
