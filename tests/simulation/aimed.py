"""Acts that aim: what happens is chosen together with the moment that makes it dangerous, because
chance alone seldom hits that."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from connector.sandbox.wll.users import User

from .aims import Spring
from .crowds import CrowdActs
from .database import Fault
from .network import READ_TIMEOUT, Fate
from .process import Process
from .world import GOLD

WRITES = (r"POST /v1/events", r"POST /api/", r"DELETE /api/lists/", r"PATCH /api/")
CLAIMS = r"\.claim$"
WRITE_CLAIMS = r"^Sql(Outbox|ActionQueue|Profiles|MembershipQueue)\.claim$"
ACQUIRE = r"^SqlLeases\.acquire$"
RELOAD_CALLS = (r"\.recover$", r"^SqlLanes\.", r"^SqlMemberGroups\.", r".*")
GROUPS, SETTLE = r"^SqlMemberGroups\.", r"\.settle$|^SqlLanes\.set_state$"
COMMITS = (
    CLAIMS,
    r"\.settle$",
    r"\.append$",
    r"ActionIntake",
    r"receipt",
    r"page$",
    r"^SqlCommands",
)
LEASE_LOST_AFTER = 14.0
"""Seconds after which a frozen process has lost its lease."""


class AimedActs(CrowdActs):
    """The acts, over what every scenario has."""

    pauses: bool
    profiles_off: bool
    newcomers: int

    flow: Callable[[], None]
    cross: Callable[..., None]
    reload: Callable[[dict[str, Any]], int]
    ensure_process: Callable[[], None]

    def aimed_acts(self) -> list[Callable[[], Any]]:
        return [
            self.redirect_that_was_applied,
            self.return_around_a_late_removal,
            self.claim_without_an_answer,
            self.fail_while_a_failure_is_noted,
            self.reload_while_the_store_fails,
            self.refuse_bulk,
            self.trickle,
            self.newcomer,
            self.strangers,
            self.standby_without_a_store,
            self.backfill,
        ]

    def aimed_restarts(self) -> list[Callable[[], Any]]:
        """Processes end or start, or get another configuration."""
        return [
            self.kill_before_settling,
            self.kill_at_a_commit,
            self.freeze_after_a_claim,
            self.regain_a_lease,
            self.start_while_nothing_remote_answers,
            self.stop_with_a_backlog,
            self.switch_off_with_a_backlog,
            self.restart_with_spent_quota,
        ]

    # ── what springs ─────────────────────────────────────────────────────────────────────────────

    def _kill(self, process: Process) -> None:
        process.kill()
        self.loop.spawn(None, self._replace())

    async def _replace(self) -> None:
        self.ensure_process()

    def _freeze(self, process: Process) -> None:
        """Until its lease was lost, and another process had it."""
        process.freeze()
        self.loop.spawn(None, self._continue_later(process, self.rng.choice((15.0, 25.0, 45.0))))

    async def _continue_later(self, process: Process, seconds: float) -> None:
        if not [p for p in self.world.alive() if p.condition == "running" and not p.stopping]:
            self.world.start_process()
        await asyncio.sleep(seconds)
        if process.alive and process.condition == "frozen":
            process.thaw()

    def _fails(self, *faults: Fault) -> Spring:
        return lambda process: self.rng.choice(faults or ("before", "after"))

    def _something(self) -> None:
        """Work for every lane."""
        self.rng.choice((self.change, self.burst, self.flow, self.cross))()

    def _users(self) -> list[User]:
        """Those who may enter and leave the audience."""
        return self.world.users[2:]

    # ── processes ────────────────────────────────────────────────────────────────────────────────

    async def kill_before_settling(self) -> None:
        """A write was carried out, and whoever sent it does not live to store that."""
        moment: Any = self.rng.choice(("carried out", "carried out", "sent"))
        self.world.traps.set(moment, self.rng.choice(WRITES), self._kill)
        self.rng.choice((self.flow, self._something))()
        await asyncio.sleep(2.0)

    async def kill_at_a_commit(self) -> None:
        skips = self.rng.choice((0, 0, 1, 2))
        self.world.traps.set("committed", self.rng.choice(COMMITS), self._kill, skips=skips)
        self._something()
        await asyncio.sleep(2.0)

    async def freeze_after_a_claim(self) -> None:
        """When it continues it holds a claim of something to write, and no lease."""
        self.world.traps.set("committed", WRITE_CLAIMS, self._freeze)
        self.rng.choice((self.flow, self._something))()
        await asyncio.sleep(35.0)

    async def regain_a_lease(self) -> None:
        """Another process has held the lease meanwhile, and paused the lanes."""
        first = self.world.holder()
        if first is None:
            return
        self.world.note(f"{first.name} is frozen")
        first.freeze()
        second = self.world.start_process()
        await asyncio.sleep(LEASE_LOST_AFTER + 6.0)
        self.pauses = True
        self.world.command("pause", connection="acme")
        await asyncio.sleep(5.0)
        first.thaw()
        await asyncio.sleep(self.rng.choice((0.0, 2.0)))
        self.world.note(f"{second.name} is stopped")
        second.stop()
        await asyncio.sleep(85.0)
        self._something()
        await asyncio.sleep(5.0)
        self.world.command("resume", connection="acme")

    def standby_without_a_store(self) -> None:
        """A process that waits for the lease, or takes it, meets a store that fails."""
        skips = self.rng.choice((0, 1, 3))
        self.world.traps.set("called", ACQUIRE, self._fails(), skips=skips, times=2)
        if len(self.world.alive()) < 3:
            self.world.start_process()

    async def start_while_nothing_remote_answers(self) -> None:
        for _ in range(3):
            self.world.network.planned.append(("GET", "/api/accounts", Fate(lost=True)))
        for process in self.world.alive():
            process.kill()
        self.world.start_process()
        await asyncio.sleep(self.rng.choice((15.0, 30.0)))

    async def stop_with_a_backlog(self) -> None:
        for _ in range(3):
            self.burst()
        await asyncio.sleep(self.rng.choice((0.0, 0.05, 0.3)))
        for process in self.world.alive():
            if process.condition == "running":
                self.world.note(f"{process.name} is stopped")
                process.stop()
        for _ in range(6):
            # What a process that is stopped is still asked for.
            self.change()
            await asyncio.sleep(0.4)
        self.world.start_process()

    # ── the store ────────────────────────────────────────────────────────────────────────────────

    def claim_without_an_answer(self) -> None:
        """The answer to its commit is lost."""
        times, skips = self.rng.choice((1, 1, 2)), self.rng.choice((0, 0, 1))
        self.world.traps.set("called", CLAIMS, self._fails("after"), times=times, skips=skips)
        self._something()

    async def fail_while_a_failure_is_noted(self) -> None:
        """The store fails in the handler of another failure."""
        remote, endpoint, request, handler = self.rng.choice(
            (
                (self.world.wll, "audiences/{id}/members", r"GET /v1/audiences/.+", GROUPS),
                (self.world.klaviyo, "lists/{id}/profiles", r"GET /api/lists/.+", GROUPS),
                (self.world.wll, "users/{subject}", r"GET /v1/users/", SETTLE),
                (self.world.klaviyo, "*", r"POST /api/", SETTLE),
            )
        )
        count = self.rng.choice((2, 6))
        fault = {"endpoint": endpoint, "kind": "status", "status": 500, "count": count}
        remote.faults.parse(fault)
        times = self.rng.choice((1, 2, 4))
        self.world.traps.set("carried out", request, lambda p: self._fail_next(handler, times))
        sync = self.world.command("audiences-sync", connection="acme", name="Gold")
        self._something()
        await self.world.until_done(sync, 12.0)
        await asyncio.sleep(5.0)

    def _fail_next(self, name: str, times: int) -> None:
        self.world.traps.set("called", name, self._fails("before"), times=times)

    async def reload_while_the_store_fails(self) -> None:
        """The configuration is the same, so that no one repeats a reload that failed."""
        self.world.traps.set("committed", r"^SqlCommands\.", self._fail_soon)
        await self.world.until_done(self.world.command("reload"), 25.0)

    async def switch_off_with_a_backlog(self) -> None:
        """What was received before waits until it is on again."""
        off: dict[str, Any] = self.rng.choice(
            (
                {"modules": ("profiles", "audiences", "actions")},
                {"modules": ("events", "profiles", "audiences")},
                {"mode": "shadow"},
            )
        )
        fault = {"endpoint": "events", "kind": "status", "status": 503, "count": 5}
        self.world.wll.faults.parse(fault)
        self.world.klaviyo.faults.parse(fault)
        self.profiles_off = True
        for act in (self.burst, self.flow, self.flow):
            act()
        await asyncio.sleep(1.0)
        await self.world.until_done(self.reload(off), 25.0)
        await asyncio.sleep(self.rng.choice((0.0, 8.0)))
        await self.world.until_done(self.reload({}), 25.0)

    async def restart_with_spent_quota(self) -> None:
        for _ in range(3):
            for _ in range(3):
                self.burst()
                await asyncio.sleep(2.0)
            for process in self.world.alive():
                if process.condition == "running":
                    process.stop()
            self.world.start_process()
            await asyncio.sleep(3.0)

    def _fail_soon(self, process: Process) -> None:
        times, skips = self.rng.choice((1, 2, 5)), self.rng.choice((0, 0, 1, 3, 6))
        name = self.rng.choice(RELOAD_CALLS)
        self.world.traps.set("called", name, self._fails(), times=times, skips=skips)

    # ── what others answer ───────────────────────────────────────────────────────────────────────

    def redirect_that_was_applied(self) -> None:
        fault = {"endpoint": "events", "kind": "status", "method": "POST", "applied": True}
        self.world.wll.faults.parse({**fault, "status": self.rng.choice((302, 307)), "count": 1})
        self.flow()

    async def refuse_bulk(self) -> None:
        """For a while every import job is answered 502, carried out or not."""
        fault = {"endpoint": "profile-bulk-import-jobs", "kind": "status", "status": 502}
        applied = self.rng.random() < 0.3
        count = self.rng.randrange(2, 6)
        self.world.klaviyo.faults.parse({**fault, "count": count, "applied": applied})
        for user in self.world.users:
            user.points += 1
            self.world.deliver(self.keep(self.world.event("POINTS_ADJUSTED", user)))
        await asyncio.sleep(self.rng.choice((5.0, 20.0)))

    async def trickle(self) -> None:
        """Two answers that never end."""
        for method, text in self.rng.sample(TRICKLING, k=2):
            self.world.network.planned.append((method, text, Fate(after=900.0, trickles=True)))
        self._something()
        await asyncio.sleep(2.0)

    async def return_around_a_late_removal(self) -> None:
        """A removal times out and arrives late; meanwhile the person returns."""
        user = self.rng.choice(self._users())
        if user.earned < GOLD:
            self._cross_and_say_so(user)
            await asyncio.sleep(12.0)
        late = Fate(before=READ_TIMEOUT + self.rng.random() * 25)
        self.world.network.planned.append(("DELETE", "/api/lists/", late))
        self._cross_and_say_so(user)
        await asyncio.sleep(self.rng.choice((3.0, 31.0, 33.0, 40.0)))
        self._cross_and_say_so(user)
        await asyncio.sleep(30.0)

    def _cross_and_say_so(self, user: User) -> None:
        user.earned = 100 if user.earned >= GOLD else GOLD + 100
        self.world.note(f"{user.email} has {user.earned} points")
        self.world.wll.refresh()
        while self.world.wll.waiting:
            self.world.deliver(self.keep(self.world.webhook(self.world.wll.waiting.popleft())))
        self.world.deliver(self.keep(self.world.event("TIER_CHANGED", user)))

    # ── people and people's decisions ────────────────────────────────────────────────────────────

    def newcomer(self) -> None:
        """Flows know someone by address, by id, or as both, before a webhook names them."""
        self.newcomers += 1
        user = self.world.wll.add(f"new{self.newcomers}@example.com", earned=100, points=50)
        whos = [{"customer_email": user.email}, {"customer_id": user.auth}]
        whos += [{"customer_id": str(user.account)}, {"customer_email": user.email.upper()}]
        acts = [self.world.flow_call(who, -1) for who in self.rng.sample(whos, k=3)]
        acts.insert(self.rng.randrange(4), self.world.event("REGISTERED_ACCOUNT", user))
        for sent in acts:
            self.loop.call_later(self.rng.choice((0.0, 0.5, 4.0)), self.send, sent)

    def strangers(self) -> None:
        """Flows name people that the platform does not know."""
        for _ in range(self.rng.randrange(8, 12)):
            self.newcomers += 1
            who = {"customer_id": f"stranger-{self.newcomers}"}
            self.world.deliver(self.keep(self.world.flow_call(who, -1, stranger=True)))
        self.flow()

    def backfill(self) -> None:
        self.world.command("backfill", connection="acme")


TRICKLING = (
    ("POST", "/v1/events"),
    ("GET", "/v1/users"),
    ("GET", "/v1/audiences"),
    ("POST", "/api/profile-import"),
    ("POST", "/api/profile-bulk-import-jobs"),
    ("GET", "/api/profile-bulk-import-jobs"),
    ("POST", "/api/events"),
    ("DELETE", "/api/lists/"),
    ("GET", "/api/lists"),
)
