"""What the daemon does while one call of its store fails. Each case is a deterministic life: a
warm-up, then `act` under the fault, then time without any."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import select

from connector.domain.records import State
from connector.store.tables import actions
from tests.simulation import configs
from tests.simulation.loop import SimulatedLoop
from tests.simulation.process import Process, simulated_machine
from tests.simulation.world import Sent, World

Kind = Literal["before", "after", "outage"]
"""One call fails before its commit, or after it (the answer is lost), or all calls from this one on
fail for OUTAGE seconds."""
OUTAGE = 6.0
_UNDER_FAULT = 15.0
"""Seconds in which the fault can strike after the act: the workers' turns that follow from it."""
_ROUND = 15.0
_MOST_ROUNDS = 120


class Life:
    """A world and the calls that were made to it."""

    def __init__(self, world: World, loop: SimulatedLoop, fault: StoreFault) -> None:
        self.world = world
        self.loop = loop
        self.fault = fault
        self.calls: list[Sent] = []

    @property
    def process(self) -> Process:
        return self.world.processes[-1]

    def send(self, sent: Sent) -> None:
        self.calls.append(sent)
        self.world.deliver(sent)

    def change(self, *numbers: int) -> None:
        """The points of these users change, and the platform says so."""
        for number in numbers:
            user = self.world.users[number]
            user.points += 10 + number
            self.send(self.world.event("POINTS_ADJUSTED", user))

    def cross(self, number: int) -> None:
        """A user enters the audience or leaves it, and the platform says so."""
        user = self.world.users[number]
        user.earned = 100 if user.earned >= 1500 else 1600
        self.world.wll.refresh()
        self.report()
        self.send(self.world.event("TIER_CHANGED", user))

    def report(self) -> None:
        while self.world.wll.waiting:
            self.send(self.world.webhook(self.world.wll.waiting.popleft()))

    def flow(self, number: int) -> None:
        who = {"customer_id": self.world.users[number].auth}
        self.send(self.world.flow_call(who, -1))

    async def rest(self, seconds: float) -> None:
        """Nothing is done, and no call fails: it would be one of those that failed before."""
        self.fault.arm(False)
        await asyncio.sleep(seconds)
        self.fault.arm()

    def repeat_what_is_missing(self) -> None:
        for sent in self.calls:
            if not sent.acknowledged:
                self.world.deliver(sent)

    def one_action(self) -> int:
        """The number of the newest action."""
        return max(row.seq for row in self.world.disk.rows(select(actions.c.seq)))


Act = Callable[[Life], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Case:
    """`cold`: the process starts under the fault. `before` happens right before it. `guarded`: the
    first sync of the list waits for approval."""

    act: Act
    before: Act | None = None
    cold: bool = False
    guarded: bool = False


async def _nothing(life: Life) -> None: ...


async def _take_over(life: Life) -> None:
    life.change(0, 1, 2)
    await asyncio.sleep(0.05)
    life.process.kill()
    life.world.start_process()
    await asyncio.sleep(20.0)


async def _regain(life: Life) -> None:
    first = life.process
    life.change(0, 1)
    first.freeze()
    second = life.world.start_process()
    await asyncio.sleep(20.0)
    life.world.command("pause", connection="acme")
    await asyncio.sleep(8.0)
    first.thaw()
    life.change(2)
    await asyncio.sleep(5.0)
    second.stop()
    await asyncio.sleep(20.0)
    await life.rest(50.0)
    await asyncio.sleep(20.0)
    life.change(3)
    await asyncio.sleep(10.0)
    life.world.command("resume", connection="acme")


async def _reload(life: Life) -> None:
    life.change(0, 1, 2)
    life.flow(1)
    life.world.command("reload")
    await asyncio.sleep(8.0)


async def _stop(life: Life) -> None:
    life.change(0, 1, 2)
    life.flow(1)
    await asyncio.sleep(0.05)
    life.process.stop()
    await asyncio.sleep(15.0)
    life.world.start_process()


async def _event(life: Life) -> None:
    life.change(0)


async def _burst(life: Life) -> None:
    life.change(0, 1, 2, 3, 4)


async def _list(life: Life) -> None:
    life.cross(3)
    await asyncio.sleep(3.0)
    life.cross(3)


async def _scan(life: Life) -> None:
    user = life.world.users[3]
    user.earned = 1600
    life.world.wll.refresh()
    life.world.wll.waiting.clear()
    life.send(life.world.event("TIER_CHANGED", user))
    life.world.command("audiences-sync", connection="acme", name="Gold")


async def _flow(life: Life) -> None:
    life.flow(1)
    life.flow(2)


async def _uncertain(life: Life) -> None:
    """An action whose outcome no one knows."""
    life.world.wll.faults.add("events", "reset_before", count=1)
    life.flow(1)
    await asyncio.sleep(20.0)


def _decide(kind: str) -> Act:
    async def decide(life: Life) -> None:
        life.world.command(kind, id=life.one_action(), by="ana")

    return decide


def _command(kind: str, **args: object) -> Act:
    async def command(life: Life) -> None:
        life.change(2)
        life.world.command(kind, connection="acme", **args)

    return command


async def _pause_and_resume(life: Life) -> None:
    life.change(0, 1)
    life.world.command("pause", connection="acme")
    await asyncio.sleep(6.0)
    life.change(2)
    life.world.command("resume", connection="acme")


async def _backfill(life: Life) -> None:
    for user in life.world.users:
        user.points += 3
    life.world.command("backfill", connection="acme")
    await asyncio.sleep(10.0)


async def _dead(life: Life) -> None:
    """A dead letter."""
    life.world.klaviyo.faults.add("events", "poison", match="poison", count=1)
    life.send(life.world.event("POINTS_ADJUSTED", life.world.users[2], poison="poison"))
    await asyncio.sleep(5.0)


async def _retry(life: Life) -> None:
    life.world.command("retry", all=True)


async def _discard(life: Life) -> None:
    life.world.command("discard", all=True)


def _answer(*, approve: bool) -> Act:
    async def answer(life: Life) -> None:
        for id, what in life.world.pending_approvals():
            life.world.decide(id, what, approve=approve)
        life.cross(3)

    return answer


async def _forget(life: Life) -> None:
    life.change(4)
    life.world.forget(life.world.users[4])
    life.change(3)


async def _reconcile(life: Life) -> None:
    """Klaviyo has lost what a person had, and an event of theirs is under way."""
    life.world.klaviyo.edit_properties(life.world.users[3].email)["wll_balance"] = -1
    life.change(2)
    life.world.command("reconcile", connection="acme", fix=True)


CASES: dict[str, Case] = {
    "start": Case(_burst, cold=True),
    "takeover": Case(_take_over),
    "regain": Case(_regain),
    "reload": Case(_reload),
    "stop": Case(_stop),
    "event": Case(_event),
    "burst": Case(_burst),
    "list": Case(_list),
    "scan": Case(_scan),
    "flow": Case(_flow),
    "pause": Case(_pause_and_resume),
    "refresh": Case(_command("refresh", person="crm-1001")),
    "retry": Case(_retry, before=_dead),
    "refuse": Case(_decide("refuse"), before=_uncertain),
    "again": Case(_decide("again"), before=_uncertain),
    "backfill": Case(_backfill),
    "discard": Case(_discard, before=_dead),
    "approve": Case(_answer(approve=True), guarded=True),
    "reject": Case(_answer(approve=False), guarded=True),
    "forget": Case(_forget),
    "reconcile": Case(_reconcile),
}


class StoreFault:
    """Fails the `number`-th call from `arm` on; without a number it only counts."""

    def __init__(self, loop: SimulatedLoop, number: int | None, kind: Kind) -> None:
        self.calls = 0
        self._loop = loop
        self._number = number
        self._kind = kind
        self._armed = False
        self._down_until = 0.0

    def arm(self, armed: bool = True) -> None:
        self._armed = armed

    def __call__(self, call: int) -> Literal["before", "after"] | None:
        if not self._armed:
            return None
        self.calls += 1
        if self._loop.time() < self._down_until:
            return "before"
        if self.calls != self._number:
            return None
        if self._kind == "outage":
            self._down_until = self._loop.time() + OUTAGE
            return "before"
        return self._kind


def run(name: str, number: int | None, kind: Kind) -> tuple[list[str], int]:
    """What did not hold after the `number`-th call of this case failed, and how many calls there
    were."""
    loop = SimulatedLoop(random.Random(1))
    case = CASES[name]
    config = configs.config(bulk_threshold=2, flow_guard="ask" if case.guarded else "off")
    world = World(loop, random.Random(2), config, job_delay=2.0)
    if case.guarded:
        world.guard_list()
    fault = StoreFault(loop, number, kind)
    world.store_fault = fault
    try:
        with simulated_machine(world.network, seed=3):
            try:
                found = loop.run_until_complete(_live(case, Life(world, loop, fault)))
            finally:
                loop.run_until_complete(world.end())
    finally:
        loop.close()
    return found, fault.calls


async def _live(case: Case, life: Life) -> list[str]:
    world = life.world
    loop_watch = life.loop.spawn(None, world.watch())
    if case.cold:
        life.fault.arm()
    world.start_process()
    await asyncio.sleep(4.0)
    if not case.cold:
        for user in world.users:
            life.send(world.event("REGISTERED_ACCOUNT", user))
        await asyncio.sleep(10.0)
        if case.before:
            await case.before(life)
        life.fault.arm()
    await case.act(life)
    await asyncio.sleep(_UNDER_FAULT)
    life.fault.arm(False)
    found = await _settle(case, life)
    loop_watch.cancel()
    return found


async def _settle(case: Case, life: Life) -> list[str]:
    world = life.world
    found: list[str] = []
    for user in world.users:
        life.calls.append(world.event("REGISTERED_ACCOUNT", user))
    for round in range(_MOST_ROUNDS):
        if not any(process.alive and not process.stopping for process in world.processes):
            world.note("no process was left")
            world.start_process()
        life.report()
        life.repeat_what_is_missing()
        world.repeat_failed_commands()
        if case.guarded:
            _approve(life)
        await asyncio.sleep(_ROUND)
        found = world.faults()
        found += [f"not acknowledged: {s.name}" for s in life.calls if not s.acknowledged]
        if not found and round:
            break
    return found


def _approve(life: Life) -> None:
    """What was rejected is asked for again."""
    world = life.world
    if world.approvals("rejected"):
        world.command("audiences-sync", connection="acme", name="Gold")
    for id, what in world.pending_approvals():
        world.decide(id, what, approve=True)


__all__ = ["CASES", "State", "run"]
