"""One random life of the daemon, made from a seed: what happens outside, what fails, who is killed.

`simulate(seed)` returns what did not hold; empty where every guarantee did.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from connector.sandbox.wll.users import User

from . import configs
from .aimed import AimedActs
from .loop import SimulatedLoop
from .network import Fate, late
from .process import simulated_machine
from .world import Sent, World

PAUSES = (0.0, 0.05, 0.3, 1.0, 2.5, 8.0, 20.0, 35.0, 70.0)
KLAVIYO_ENDPOINTS = (
    "events",
    "profile-import",
    "profile-bulk-import-jobs",
    "profile-bulk-import-jobs/{id}",
    "lists/{id}/relationships/profiles",
    "lists",
    "*",
)
PLATFORM_ENDPOINTS = ("users/{subject}", "events", "audiences/{id}/members", "audiences", "*")
SWITCHES = ("events", "profiles", "audiences", "actions", "shadow")
"""What a reload may switch off; shadow is switched on."""
STEPS = 20
_CROWDS = 0.2
"""The share of lives in which many people may take part: these cost twice as much."""
_ENDS_WITHOUT = (None, None, None, None, "profiles", "audiences")
"""The module that is off in the end."""
_QUIET = 12.0
_MOST_QUIET_MINUTES = 25
_LIVES_KEPT = 20
"""Lives after which what is left of them is searched for."""
_LIVES = itertools.count(1)


class Scenario(AimedActs):
    """The random part of a world."""

    def __init__(self, loop: SimulatedLoop, rng: random.Random, act: str | None = None) -> None:
        self.act = act
        self.rng = rng
        self.loop = loop
        self.fixed: dict[str, Any] = {
            "bulk_threshold": rng.choice((2, 2, 4, 50)),
            "rate_share": rng.choice((1.0, 1.0, 1.0, 0.03)),
            "flow_guard": rng.choice(("off", "off", "ask")),
        }
        self.world = World(
            loop,
            rng,
            configs.config(**self.fixed),
            job_delay=rng.choice((1.0, 1.0, 20.0)),
        )
        self.world.network.disturbed = rng.choice((0.0, 0.0, 0.02, 0.1))
        self.world.slow_store = rng.random() < 0.5
        self.store_faults = rng.choice((0.0, 0.0, 0.01, 0.05))
        self.store_down_until = 0.0
        self.calls: list[Sent] = []
        self.pauses = self.profiles_off = False
        self.newcomers = 0
        if self.world.guarded:
            self.world.guard_list()
        self.world.store_fault = self._store_fault

    def _store_fault(self, call: int) -> Any:
        if self.loop.time() < self.store_down_until:
            return "before"
        if self.store_faults and self.rng.random() < self.store_faults:
            return self.rng.choice(("before", "after"))
        return None

    # ── what can happen ──────────────────────────────────────────────────────────────────────────

    def keep(self, sent: Sent) -> Sent:
        """It is repeated until it is acknowledged."""
        self.calls.append(sent)
        return sent

    def send(self, sent: Sent) -> None:
        """At once, or later in any order."""
        self.keep(sent)
        if self.rng.random() < 0.7:
            self.world.deliver(sent)

    def change(self) -> None:
        """Points change at the platform, and it says so."""
        user = self.rng.choice(self.world.users)
        amount = self.rng.randrange(1, 50)
        user.points += amount
        self.send(self.world.event("POINTS_ADJUSTED", user, amount=amount))

    def burst(self) -> None:
        for _ in range(self.rng.randrange(3, 8)):
            self.change()

    def cross(self, user: User | None = None) -> None:
        """A user enters the audience or leaves it. The platform says so at once, late or never."""
        user = user or self.rng.choice(self.world.users[2:])
        joins = user.earned < 1500
        user.earned = 1600 if joins else 100
        self.world.note(f"{user.email} {'joins' if joins else 'leaves'}")
        self.world.wll.refresh()
        self.report()
        # The tier is a field of the profile.
        self.send(self.world.event("TIER_CHANGED", user))

    def report(self) -> None:
        """What the platform has to say by itself."""
        while self.world.wll.waiting:
            pending = self.world.wll.waiting.popleft()
            if pending.type in ("AUDIENCE_JOINED", "AUDIENCE_LEFT") and self.rng.random() < 0.3:
                continue
            self.send(self.world.webhook(pending))

    def repeat(self) -> None:
        if self.calls:
            self.world.deliver(self.rng.choice(self.calls))

    def late(self) -> None:
        missing = [sent for sent in self.calls if not sent.acknowledged]
        if missing:
            self.world.deliver(self.rng.choice(missing))

    def flow(self) -> None:
        user = self.rng.choice(self.world.users)
        who = self.rng.choice(
            (
                {"customer_id": user.auth},
                {"customer_id": str(user.account)},
                {"customer_id": user.id},
            )
        )
        if self.rng.random() < 0.3:
            # WLL can only be asked by id, which the connector may not know yet.
            who = {"customer_email": user.email}
        self.send(self.world.flow_call(who, -self.rng.randrange(1, 5)))

    def klaviyo_fails(self) -> None:
        kinds: list[dict[str, Any]] = [
            {"kind": "status", "status": 429, "retry_after": self.rng.choice((1, 20))},
            {"kind": "status", "status": 503},
            {"kind": "status", "status": 500},
            {"kind": "status", "status": 500, "applied": True},
            {"kind": "reset_before"},
            {"kind": "reset_after"},
            {"kind": "html403"},
        ]
        fault = {"endpoint": self.rng.choice(KLAVIYO_ENDPOINTS)}
        fault |= self.rng.choice(kinds) | {"count": self.rng.randint(1, 4)}
        self.world.note(f"klaviyo: {fault}")
        self.world.klaviyo.faults.parse(fault)

    def platform_fails(self) -> None:
        kinds: list[dict[str, Any]] = [
            {"kind": "status", "status": 429, "retry_after": 1},
            {"kind": "status", "status": 500},
            {"kind": "status", "status": 502, "applied": True},
            {"kind": "status", "status": 302, "applied": self.rng.random() < 0.5},
            {"kind": "reset_before"},
            {"kind": "reset_after"},
        ]
        fault = {"endpoint": self.rng.choice(PLATFORM_ENDPOINTS)}
        fault |= self.rng.choice(kinds) | {"count": self.rng.randint(1, 4)}
        self.world.note(f"platform: {fault}")
        self.world.wll.faults.parse(fault)

    def hang(self) -> None:
        """Some request that is about to be sent is not answered in time."""
        method, text = self.rng.choice(
            (
                ("DELETE", "/api/lists/"),
                ("POST", "/api/profile-bulk-import-jobs"),
                ("POST", "/api/profile-import"),
                ("POST", "/api/events"),
                ("POST", "/v1/events"),
                ("GET", "/v1/users"),
            )
        )
        fate = self.rng.choice((late(self.rng), Fate(lost=True), Fate(after=900, trickles=True)))
        self.world.note(f"{method} {text}: {fate}")
        self.world.network.planned.append((method, text, fate))

    def cross_twice(self) -> None:
        """A person leaves and returns soon."""
        user = self.rng.choice(self.world.users[2:])
        self.cross(user)
        self.loop.call_later(self.rng.choice((3.0, 20.0, 33.0, 45.0)), self.cross, user)

    def job(self) -> None:
        jobs = self.world.klaviyo.jobs
        if found := jobs.open():
            job = self.rng.choice(found)
            end = self.rng.choice((jobs.run, jobs.cancel, jobs.expire))
            self.world.note(f"klaviyo: {end.__name__} a job of {job.total}")
            end(job.id)

    def store_outage(self) -> None:
        seconds = self.rng.choice((0.2, 3.0, 15.0))
        self.world.note(f"the store is away for {seconds} s")
        self.store_down_until = self.loop.time() + seconds

    def switch(self) -> None:
        """Other modules or another mode; half of the time everything is on."""
        changes: dict[str, Any] = {}
        if self.rng.random() < 0.5:
            switch = self.rng.choice(SWITCHES)
            self.profiles_off |= switch in ("profiles", "events")
            changes = (
                {"mode": "shadow"}
                if switch == "shadow"
                else {"modules": tuple(m for m in configs.MODULES if m != switch)}
            )
        self.reload(changes)

    def reload(self, changes: dict[str, Any]) -> int:
        """The id of the command."""
        self.world.note(f"configuration: {changes}")
        self.world.config = configs.config(**self.fixed, **changes)
        return self.world.command("reload")

    def pause_or_resume(self) -> None:
        pause = self.rng.random() < 0.5
        self.pauses = True
        self.world.command("pause" if pause else "resume", connection="acme")

    def kill(self) -> None:
        if alive := self.world.alive():
            process = self.rng.choice(alive)
            self.world.note(f"{process.name} is killed")
            process.kill()
            self.ensure_process()

    def stop(self) -> None:
        if alive := [p for p in self.world.alive() if p.condition == "running"]:
            process = self.rng.choice(alive)
            self.world.note(f"{process.name} is stopped")
            process.stop()
            self.ensure_process()

    def freeze(self) -> None:
        for process in self.world.alive():
            if process.condition == "frozen":
                self.world.note(f"{process.name} continues")
                process.thaw()
                return
        if alive := self.world.alive():
            process = self.rng.choice(alive)
            self.world.note(f"{process.name} is frozen")
            process.freeze()
            self.ensure_process()

    def ensure_process(self) -> None:
        """One process at least, two sometimes."""
        running = [p for p in self.world.alive() if p.condition == "running"]
        if not running or (len(running) < 2 and self.rng.random() < 0.3):
            self.world.start_process()

    async def wait(self) -> None:
        await asyncio.sleep(self.rng.choice(PAUSES))

    def _acts(self) -> list[Callable[[], Any]]:
        """Each life has only some of the acts: one act often hides what another has left behind. In
        half of the lives no process ends and nothing is reloaded, which repairs the most. Those
        that aim happen once."""
        always = {self.change: 8, self.cross: 5, self.late: 4, self.wait: 16}
        sometimes = {
            self.burst: 3,
            self.repeat: 2,
            self.flow: 6,
            self.report: 2,
            self.klaviyo_fails: 6,
            self.platform_fails: 4,
            self.hang: 5,
            self.cross_twice: 3,
            self.job: 2,
            self.store_outage: 3,
        }
        aimed = self.aimed_acts()
        crowds = self.rng.random() < _CROWDS
        if crowds:
            aimed += self.crowd_acts()
        if self.rng.random() < 0.5:
            aimed += [*self.aimed_restarts(), *([self.kill_in_a_backfill] if crowds else [])]
            sometimes |= {
                self.switch: 3,
                self.pause_or_resume: 2,
                self.kill: 3,
                self.stop: 2,
                self.freeze: 3,
            }
        chosen = always | {a: w for a, w in sometimes.items() if self.rng.random() < 0.35}
        if self.world.guarded:
            chosen[self.decide] = 5
        acts = self.rng.sample(aimed, k=self.rng.randrange(1, 5))
        if self.act:
            acts.append(getattr(self, self.act))
        acts += self.rng.choices(list(chosen), list(chosen.values()), k=STEPS - len(acts))
        self.rng.shuffle(acts)
        return acts

    # ── one life ─────────────────────────────────────────────────────────────────────────────────

    async def run(self) -> list[str]:
        acts = self._acts()
        self.loop.spawn(None, self.world.watch())
        self.world.start_process()
        await asyncio.sleep(3.0)
        for user in self.world.users:
            self.send(self.world.event("REGISTERED_ACCOUNT", user))
        for act in acts:
            if (result := act()) is not None:
                await result
            await asyncio.sleep(self.rng.choice((0.0, 0.0, 0.2)))
        return await self.finish()

    async def finish(self) -> list[str]:
        """All faults end, all calls are repeated until they are acknowledged, and time passes."""
        world = self.world
        world.note("faults end")
        self.store_faults, self.store_down_until = 0.0, 0.0
        world.network.disturbed = 0.0
        world.network.planned.clear()
        world.traps.clear()
        world.klaviyo.faults.clear()
        world.wll.faults.clear()
        world.ends_without = self.rng.choice(_ENDS_WITHOUT)
        modules = tuple(m for m in configs.MODULES if m != world.ends_without)
        world.config = configs.config(**self.fixed, modules=modules)
        for process in world.alive():
            if process.condition == "frozen":
                process.thaw()
        if self.pauses:
            world.command("resume", connection="acme")
        await self._configure()
        if self.profiles_off:
            # No one was read meanwhile, so each needs one more event.
            people = [*world.users, *world.quiet.values()]
            self.calls += [world.event("REGISTERED_ACCOUNT", user) for user in people]
        return await self._settle()

    async def _configure(self) -> None:
        """Reload until the process that holds the lease has the last configuration: a command that
        fails says so, and a person repeats it."""
        for _ in range(20):
            self._ensure_some_process()
            holder = self.world.holder()
            # A reload that is under way has read an earlier configuration.
            settled = not self.world.open_commands()
            if settled and holder and holder.app.config is self.world.config:
                for process in self.world.alive():
                    if process.app.config is not self.world.config:
                        process.stop()  # reload is carried out by the holder alone
                return
            if holder:
                self.world.command("reload")
            await asyncio.sleep(20.0)

    def _ensure_some_process(self) -> None:
        if not [process for process in self.world.alive() if not process.stopping]:
            self.world.start_process()

    async def _settle(self) -> list[str]:
        world = self.world
        quiet = 0
        for _ in range(int(_MOST_QUIET_MINUTES * 60 / _QUIET)):
            self._ensure_some_process()
            world.wll.refresh()
            while world.wll.waiting:
                self.calls.append(world.webhook(world.wll.waiting.popleft()))
            for id, what in world.pending_approvals():
                world.decide(id, what, approve=True)
            for sent in self.calls:
                if not sent.acknowledged:
                    world.deliver(sent)
            await asyncio.sleep(_QUIET)
            # The comparisons cost the most, and what waits has yet to change what they compare.
            quiet = quiet + 1 if not world.unfinished() and not self._faults() else 0
            if quiet > 2 or world.oracle.faults:
                break
        return self._faults()

    def _faults(self) -> list[str]:
        missing = [sent.name for sent in self.calls if not sent.acknowledged]
        return self.world.faults() + [f"not acknowledged: {name}" for name in missing]


@contextmanager
def _garbage_kept() -> Iterator[None]:
    """Searching for garbage costs a fifth of a life, which is short. Some worlds outlive the
    searches of the young, and a whole search by itself comes after hundreds of lives."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        if next(_LIVES) % _LIVES_KEPT == 0:
            gc.collect()


@_garbage_kept()
def simulate(seed: int, *, traces: bool = False, act: str | None = None) -> tuple[list[str], World]:
    """What did not hold, and the world in which it did not. With `act` that one is in the life."""
    rng = random.Random(seed)
    random.seed(seed)  # also for the backoff
    loop = SimulatedLoop(rng)
    try:
        scenario = Scenario(loop, rng, act)
        world = scenario.world
        world.traces = traces
        with simulated_machine(world.network, seed=seed):
            try:
                found = loop.run_until_complete(scenario.run())
            finally:
                loop.run_until_complete(world.end())
        return found, world
    finally:
        loop.close()
