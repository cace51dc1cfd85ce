"""What every kind of lane must do: a sink and a renderer under a dispatcher. Subclass LaneContract
and give it a `setup` fixture."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest

from connector.domain.attention import Check
from connector.domain.errors import Problem
from connector.domain.lanes import DeliveryMode, Lane, LaneId, LaneKind, LaneMode, LaneState
from connector.domain.messages import Fault, Skip
from connector.domain.outcomes import Accepted, Ambiguous, Dead, Delivery, Pending, Retry, Unsent
from connector.domain.records import Entry, State
from connector.pipeline.dispatch import Dispatcher, Policy
from connector.ports import BatchMode, Outgoing, Quota, Renderer, Sink
from connector.runtime.metrics import Metrics
from connector.testing.fakes.clock import FakeClock, run_pending
from connector.testing.fakes.lease import FakeLease
from connector.testing.fakes.ports import App
from connector.testing.fakes.queue import MemoryQueue
from connector.testing.fakes.remote import Answer, ScriptedRemote, challenge, lose, respond

_FEW, _MANY = 3, 60
_PROBE_EVERY = 30.0
_RETRY_MAX = 20.0
_A_MINUTE = 60.0

FAULTS: dict[str, Answer] = {
    "400": respond(400),
    "404": respond(404),
    "409": respond(409),
    "413": respond(413),
    "429": respond(429, (b"retry-after", b"2")),
    "500": respond(500),
    "503": respond(503),
    "challenge": challenge(),
    "refused": lose(ConnectionRefusedError),
    "reset": lose(),
    "reset after": lose(applied=True),
    "timeout": lose(TimeoutError),
    "unreadable": respond(202, body=["not a document"]),
}


@dataclass(frozen=True)
class LaneSetup:
    """A kind of lane to be tested.

    `app` is the remote API and accepts what the lane sends. `connect` makes sink and renderer of a
    lane to such an API; `entry` makes the entry of a seq, about a person of its own, and `sent_as`
    is what a request says of it: an address or an id. With `queued` the remote side runs jobs: what
    it accepts, or may have accepted, is Pending.
    """

    kind: LaneKind
    app: App
    connect: Callable[[App, FakeClock], tuple[Sink[Any], Renderer[Any]]]
    entry: Callable[[int], Entry]
    sent_as: Callable[[int], str]
    queued: bool = False
    bulk_threshold: int = 10

    @property
    def accepted(self) -> type[Accepted | Pending]:
        return Pending if self.queued else Accepted


class _WatchedSink:
    """Passes everything on, and checks that each delivery has one outcome for every entry."""

    def __init__(self, inner: Sink[Any]) -> None:
        self._inner = inner
        self.single: BatchMode = inner.single
        self.bulk: BatchMode | None = inner.bulk
        self.sizes: list[int] = []
        """Entries of each delivery."""
        self.faults: list[str] = []

    @property
    def quota(self) -> Quota:
        return self._inner.quota

    async def deliver(
        self, batch: Sequence[Outgoing[Any]], *, bulk: bool, permits: int
    ) -> AsyncIterator[Delivery]:
        self.sizes.append(len(batch))
        wanted = sorted(out.entry.seq for out in batch)
        seqs: list[int] = []
        try:
            async for delivery in self._inner.deliver(batch, bulk=bulk, permits=permits):
                seqs += [outcome.seq for outcome in delivery.outcomes]
                yield delivery
        except Exception as error:
            self.faults.append(f"raised {error!r}")
            raise
        if sorted(seqs) != wanted:
            self.faults.append(f"outcomes for {sorted(seqs)}, entries {wanted}")

    def resumed(self) -> None:
        self._inner.resumed()

    def preview(self, out: Outgoing[Any]) -> tuple[str, bytes]:
        return self._inner.preview(out)

    async def check(self) -> Sequence[Check]:
        return await self._inner.check()


class _WatchedRenderer:
    """Passes everything on. `override` replaces what is rendered of the entry with that seq."""

    def __init__(self, inner: Renderer[Any]) -> None:
        self._inner = inner
        self.override: dict[int, Skip | Fault | Exception] = {}

    @property
    def version(self) -> str:
        return self._inner.version

    async def prepare(self, entries: Sequence[Entry]) -> None:
        await self._inner.prepare(entries)

    def render(self, entry: Entry) -> Any:
        found = self.override.get(entry.seq)
        if isinstance(found, Exception):
            raise found
        return found or self._inner.render(entry)


class LaneRun:
    """A lane of this setup with `count` entries, running until `aclose`."""

    def __init__(self, setup: LaneSetup, count: int) -> None:
        self.setup = setup
        self.clock = FakeClock()
        self.remote = ScriptedRemote(setup.app)
        sink, renderer = setup.connect(self.remote, self.clock)
        self.sink, self.renderer = _WatchedSink(sink), _WatchedRenderer(renderer)
        self.lease = FakeLease()
        self.queue = MemoryQueue(*map(setup.entry, range(1, count + 1)))
        destination = "klaviyo" if setup.kind.side == "klaviyo" else "platform"
        self.dispatcher: Dispatcher[Any] = Dispatcher(
            Lane(LaneId(1), "acme", destination, setup.kind.kind),
            LaneState(),
            queue=self.queue,
            lanes=self.queue,
            sink=self.sink,
            renderer=self.renderer,
            lease=self.lease,
            clock=self.clock,
            metrics=Metrics("contract"),
            policy=Policy(
                bulk_threshold=setup.bulk_threshold, probe_every=_PROBE_EVERY, retry_max=_RETRY_MAX
            ),
        )

    def start(self) -> None:
        self.dispatcher.start()

    async def run_for(self, seconds: float) -> None:
        for _ in range(max(1, round(seconds))):
            await self.clock.advance(seconds / max(1, round(seconds)))
            await run_pending()

    async def stop(self, timeout: float = 0.0) -> None:
        stopping = asyncio.create_task(self.dispatcher.stop(timeout))
        await self.run_for(timeout or 1.0)
        await stopping

    async def check(self) -> list[str]:
        """The levels of the sink's checks."""
        checking = asyncio.create_task(self.sink.check())
        while not checking.done():
            await self.run_for(1.0)
        return [check.level for check in checking.result()]

    def mode(self) -> LaneMode:
        return self.dispatcher.state.mode

    @property
    def undelivered(self) -> Counter[State]:
        """The states of the entries that the remote side has not accepted."""
        rows = self.queue.rows.values()
        delivered = (Accepted, Pending)
        return Counter(
            row.state
            for row in rows
            if not row.outcomes or not isinstance(row.outcomes[-1], delivered)
        )

    @property
    def attempts(self) -> set[int]:
        return {row.entry.attempts for row in self.queue.rows.values()}


class LaneContract:
    """Each test is a sentence about every kind of lane.

    What the remote side does with a repeated request differs: that a repeat is harmless is for the
    sink's own tests to prove.
    """

    @pytest.fixture
    async def start(self, setup: LaneSetup) -> AsyncIterator[Callable[..., LaneRun]]:
        """Makes a run; with `started` it runs at once. After the test every delivery must have had
        exactly one outcome for each of its entries."""
        made: list[LaneRun] = []

        def make(count: int = _FEW, *, started: bool = True) -> LaneRun:
            run = LaneRun(setup, count)
            made.append(run)
            if started:
                run.start()
            return run

        yield make
        for run in made:
            run.remote.open.set()
            await run.stop(1.0)
            assert run.sink.faults == []

    # ── what works ───────────────────────────────────────────────────────────────────────────────

    @pytest.mark.parametrize("count", [1, _FEW, _MANY])
    async def test_every_ready_entry_is_delivered_once(
        self, setup: LaneSetup, start: Callable[..., LaneRun], count: int
    ) -> None:
        run = start(count)
        await run.run_for(5.0)
        assert not run.undelivered
        for row in run.queue.rows.values():
            entry, [outcome] = row.entry, row.outcomes
            assert isinstance(outcome, setup.accepted)
            assert outcome.request in {request.id for request in run.queue.requests}
            name = setup.sent_as(entry.seq).encode()
            assert sum(body.count(b'"%b"' % name) for body in run.remote.bodies) == 1
        if count == _MANY and run.sink.bulk and entry.mode is DeliveryMode.BATCH:
            assert len(run.remote.writes) < count

    async def test_a_preview_sends_nothing(
        self, setup: LaneSetup, start: Callable[..., LaneRun]
    ) -> None:
        run = start(0)
        entry = setup.entry(1)
        await run.renderer.prepare([entry])
        route, _ = run.sink.preview(Outgoing(entry, run.renderer.render(entry)))
        assert route in {mode.endpoint for mode in (run.sink.single, run.sink.bulk) if mode}
        assert run.remote.requests == []

    async def test_a_check_reports_a_refused_key_and_raises_nothing(
        self, start: Callable[..., LaneRun]
    ) -> None:
        run = start(0)
        assert await run.check() == ["ok"]
        run.remote.reads = respond(401)
        assert await run.check() == ["fault"]
        run.remote.reads = respond(200, body=["not a document"])
        assert await run.check() == ["fault"]

    # ── one bad record ───────────────────────────────────────────────────────────────────────────

    @pytest.mark.parametrize(
        ("rendered", "state"),
        [
            (Fault(Problem.MAPPING_FAILED, "no such path"), State.DEAD),
            (ZeroDivisionError(), State.DEAD),
            (Fault(Problem.NO_IDENTITY, ""), State.HELD),
            (Skip("disabled"), State.SKIPPED),
        ],
    )
    async def test_an_entry_that_cannot_be_rendered_stops_no_other(
        self,
        setup: LaneSetup,
        start: Callable[..., LaneRun],
        rendered: Skip | Fault | Exception,
        state: State,
    ) -> None:
        run = start(_FEW, started=False)
        run.renderer.override[2] = rendered
        run.start()
        await run.run_for(5.0)
        assert run.undelivered == {state: 1}

    async def test_a_refused_entry_ends_or_is_tried_again_but_is_not_accepted(
        self, start: Callable[..., LaneRun]
    ) -> None:
        run = start(1, started=False)
        run.remote.default = respond(400)
        run.start()
        await run.run_for(5.0)
        [outcome, *_] = run.queue.rows[1].outcomes
        assert isinstance(outcome, Dead | Retry)

    # ── not applied ──────────────────────────────────────────────────────────────────────────────

    async def test_a_retry_after_is_waited_for(
        self, setup: LaneSetup, start: Callable[..., LaneRun]
    ) -> None:
        run = start(1, started=False)
        run.remote.script.append(respond(429, (b"retry-after", b"30")))
        run.start()
        await run.run_for(29.0)
        assert len(run.remote.writes) == 1
        assert run.queue.states() == {State.READY: 1}
        await run.run_for(5.0)
        assert not run.undelivered
        assert run.attempts == {2}

    # ── may have been applied ────────────────────────────────────────────────────────────────────

    @pytest.mark.parametrize("fault", ["500", "reset", "reset after", "timeout"])
    async def test_an_ambiguous_entry_is_sent_singly_or_waits_for_its_job(
        self, setup: LaneSetup, start: Callable[..., LaneRun], fault: str
    ) -> None:
        run = start(_MANY, started=False)
        run.remote.script.append(FAULTS[fault])
        run.start()
        await run.run_for(1.0)
        first = {type(row.outcomes[0]) for row in run.queue.rows.values() if row.outcomes}
        assert first <= {setup.accepted, Pending if setup.queued else Ambiguous, Unsent}
        ambiguous = [
            row for row in run.queue.rows.values() if isinstance(row.outcomes[0], Ambiguous)
        ]
        assert all(row.entry.mode is DeliveryMode.SINGLE for row in ambiguous)
        await run.run_for(2 * _A_MINUTE)
        assert not run.undelivered

    # ── what stops the lane ──────────────────────────────────────────────────────────────────────

    @pytest.mark.parametrize("status", [401, 403, 410])
    async def test_a_refusal_of_the_key_blocks_the_lane_and_costs_no_attempt(
        self, setup: LaneSetup, start: Callable[..., LaneRun], status: int
    ) -> None:
        run = start(_FEW, started=False)
        run.remote.default = respond(status)
        run.start()
        await run.run_for(5.0)
        assert run.mode() == "blocked"
        assert run.queue.states() == {State.READY: _FEW}
        assert run.attempts == {0}
        sent = len(run.remote.writes)
        await run.run_for(_PROBE_EVERY / 2)
        assert len(run.remote.writes) == sent
        run.remote.default = None
        await run.run_for(2 * _PROBE_EVERY)
        assert run.mode() == "running"
        assert not run.undelivered

    async def test_an_unknown_target_loses_nothing(
        self, setup: LaneSetup, start: Callable[..., LaneRun]
    ) -> None:
        run = start(_FEW, started=False)
        run.remote.default = respond(404)
        run.start()
        await run.run_for(5.0)
        assert not run.queue.states()[State.DEAD]
        run.remote.default = None
        await run.run_for(2 * _A_MINUTE)
        assert not run.undelivered

    async def test_a_paused_lane_sends_nothing_until_it_is_resumed(
        self, setup: LaneSetup, start: Callable[..., LaneRun]
    ) -> None:
        run = start(_FEW, started=False)
        await run.dispatcher.pause()
        run.start()
        await run.run_for(_A_MINUTE)
        assert run.remote.requests == []
        await run.dispatcher.resume()
        await run.run_for(5.0)
        assert not run.undelivered

    async def test_without_the_lease_nothing_is_sent(
        self, setup: LaneSetup, start: Callable[..., LaneRun]
    ) -> None:
        run = start(_FEW, started=False)
        run.lease.held = False
        run.start()
        await run.run_for(_A_MINUTE)
        assert run.remote.requests == []
        run.lease.held = True
        run.dispatcher.wake()  # as whoever makes the lease valid does
        await run.run_for(5.0)
        assert not run.undelivered

    # ── stopping ─────────────────────────────────────────────────────────────────────────────────

    async def test_a_stop_finishes_what_is_in_flight(
        self, setup: LaneSetup, start: Callable[..., LaneRun]
    ) -> None:
        run = start(1, started=False)
        run.remote.open.clear()
        run.start()
        await run.run_for(1.0)
        stopping = asyncio.create_task(run.dispatcher.stop(20.0))
        await run.run_for(1.0)
        assert not stopping.done()
        run.remote.open.set()
        await run.run_for(1.0)
        await stopping
        assert not run.undelivered

    async def test_what_a_stop_cancels_may_have_been_applied_and_leaves_no_task(
        self, setup: LaneSetup, start: Callable[..., LaneRun]
    ) -> None:
        before = asyncio.all_tasks()
        run = start(_FEW, started=False)
        run.remote.open.clear()
        run.start()
        await run.run_for(1.0)
        await run.stop(5.0)
        for row in run.queue.rows.values():
            [outcome] = row.outcomes
            assert isinstance(outcome, Pending if setup.queued else Ambiguous)
            assert outcome.problem is Problem.INTERRUPTED
        await run_pending()
        assert asyncio.all_tasks() == before

    # ── any faults ───────────────────────────────────────────────────────────────────────────────

    @pytest.mark.parametrize("seed", range(6))
    async def test_whatever_the_remote_side_answers_nothing_is_lost(
        self, setup: LaneSetup, start: Callable[..., LaneRun], seed: int
    ) -> None:
        names = sorted(FAULTS)
        run = start(_MANY if seed % 2 else _FEW, started=False)
        for step in range(8):
            name = names[(seed * 7 + step * (seed + 1)) % len(names)]
            run.remote.script.append(FAULTS[name])
        run.start()
        await run.run_for(10 * _A_MINUTE)
        assert set(run.undelivered) <= {State.DEAD, State.HELD}, run.undelivered


def singly(entry: Entry) -> Entry:
    """The entry as one that must be sent in single requests."""
    return replace(entry, mode=DeliveryMode.SINGLE)
