"""Acts about many people, and about what takes long."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

from connector.domain.approvals import BACKFILL, FIRST_SYNC, MASS_UNSET, REMOVAL
from connector.sandbox.wll.users import User

from .aims import Spring
from .loop import SimulatedLoop
from .process import Process
from .world import LIVE_LIMIT, Sent, World

CROWD = 16
"""More than may lose a field at once without approval, and several pages of a backfill."""
MEMBERS = 12
"""So many that those who remain when one scan has removed a few are too many again."""
BACKLOG = 40
"""People whose profiles take minutes where little quota is left to a backfill."""
PAGE_STORED = r"^SqlBackfills\.append_page$"


class CrowdActs:
    """The acts, over what every scenario has."""

    rng: random.Random
    loop: SimulatedLoop
    world: World

    keep: Callable[[Sent], Sent]
    send: Callable[[Sent], None]
    store_faults: float
    ensure_process: Callable[[], None]
    change: Callable[[], None]
    burst: Callable[[], None]
    _fails: Callable[..., Spring]
    _kill: Callable[[Process], None]

    def crowd_acts(self) -> list[Callable[[], Any]]:
        return [
            self.lose_a_field,
            self.leave_at_once,
            self.backfill_of_many,
            self.live_in_a_backfill,
            self.bulk_away,
            self.night,
        ]

    async def lose_a_field(self) -> None:
        """All people of a crowd lose a field at the platform, and it says so. Where a flow may
        depend on it, a person decides early, late or not at all."""
        world = self.world
        if world.unset.people:
            return
        world.unset.asks = world.guarded
        if world.guarded:
            world.klaviyo.flows.add("Birthday", "live", "Date Based", "")
        crowd = [world.wll.add(f"crowd{n}@example.com", earned=100) for n in range(CROWD)]
        for user in crowd:
            world.deliver(self.keep(world.event("REGISTERED_ACCOUNT", user)))
        await asyncio.sleep(self.rng.choice((20.0, 40.0)))
        for user in crowd:
            user.extra = {"birthDate": None}
            world.unset.people.add(user.email)
            self.send(world.event("PROFILE_UPDATED", user))
        await asyncio.sleep(self.rng.choice((10.0, 60.0)))
        if self.rng.random() < 0.5:
            self.decide()

    async def leave_at_once(self) -> None:
        """Many people leave the audience, or the platform's answers leave them out for a while. A
        person decides early, late or not at all."""
        world = self.world
        if world.removal.people:
            return
        world.add_members(MEMBERS)
        await self._scan()
        for _ in range(6):
            if not world.removal.people.keys() - world.members():
                break
            for id, what in world.pending_approvals():
                if what == FIRST_SYNC:
                    world.decide(id, what, approve=True)
            await asyncio.sleep(10.0)
        else:
            return  # something keeps them from the list
        if self.rng.random() < 0.4:
            with world.cut_audience(self.rng.choice((0, 0, 1, 2))):
                await self._scan()
                await self._answer_perhaps()
        else:
            world.leave()
            await self._scan()
            await self._answer_perhaps()

    async def _scan(self) -> None:
        sync = self.world.command("audiences-sync", connection="acme", name="Gold")
        await self.world.until_done(sync, 15.0)
        await asyncio.sleep(self.rng.choice((15.0, 40.0)))

    async def _answer_perhaps(self) -> None:
        if self.rng.random() < 0.6:
            self.decide()
            await asyncio.sleep(self.rng.choice((1.0, 20.0)))

    async def backfill_of_many(self) -> None:
        """A backfill finds people without an event. Reading, storing or writing them fails in
        the middle, while other people's points change."""
        world = self.world
        if not world.quiet:
            world.add_quiet(CROWD)
        skips = self.rng.randrange(4)
        match self.rng.choice(("page", "store", "jobs", "jobs", "profiles")):
            case "page":
                world.traps.set("committed", PAGE_STORED, self._no_more_pages, skips=skips)
            case "store":
                world.traps.set("called", PAGE_STORED, self._fails(), skips=skips)
            case "jobs":
                self._refuse(world.klaviyo, "profile-bulk-import-jobs")
            case _:
                self._refuse(world.klaviyo, "profile-import")
        world.command("backfill", connection="acme")
        for _ in range(4):
            self.change()
            await asyncio.sleep(self.rng.choice((0.5, 3.0, 10.0)))

    async def live_in_a_backfill(self) -> None:
        """For some minutes nothing fails. A backfill of many people and a scan run, and what
        happens meanwhile must not wait for them."""
        world, network = self.world, self.world.network
        before = network.disturbed, self.store_faults
        network.disturbed = self.store_faults = 0.0
        network.planned.clear()
        for each in (world.traps, world.klaviyo.faults, world.wll.faults):
            each.clear()
        if await self._rest():
            world.add_quiet(BACKLOG)
            world.command("audiences-sync", connection="acme", name="Gold")
            world.command("backfill", connection="acme")
            for user in self.rng.sample(world.users, k=len(world.users)):
                await asyncio.sleep(self.rng.choice((0.5, 4.0, 15.0)))
                for id, what in world.pending_approvals():
                    if what == BACKFILL:
                        world.decide(id, what, approve=True)
                self._change_soon(user)
            await asyncio.sleep(LIVE_LIMIT)
        network.disturbed, self.store_faults = before

    async def _rest(self) -> bool:
        """Wait until every lane has delivered something and nothing waits, and until the quota of
        the last minute is free again. Whether that came."""
        self.ensure_process()
        for _ in range(2):
            await asyncio.sleep(70.0)
            if not self.world.at_rest():
                return False
            for user in self.world.users:
                user.points += 1
                self.world.deliver(self.keep(self.world.event("POINTS_ADJUSTED", user)))
        await asyncio.sleep(70.0)
        return self.world.at_rest() is not None

    def _change_soon(self, user: User) -> None:
        user.points += 1
        sent = self.keep(self.world.event("POINTS_ADJUSTED", user))
        self.world.deliver(sent)
        self.world.expect_soon(sent, user)

    def _no_more_pages(self, process: Process) -> None:
        self._refuse(self.world.wll, "users")

    def _refuse(self, remote: Any, endpoint: str) -> None:
        status = self.rng.choice((500, 503, 503))
        fault = {"endpoint": endpoint, "kind": "status", "status": status}
        remote.faults.parse({**fault, "count": self.rng.randrange(1, 6)})

    async def kill_in_a_backfill(self) -> None:
        self.world.traps.set("committed", PAGE_STORED, self._kill, skips=self.rng.randrange(4))
        await self.backfill_of_many()

    async def bulk_away(self) -> None:
        """For minutes every import job is refused, while people change."""
        status = self.rng.choice((500, 502, 503))
        self.world.note(f"import jobs are answered {status}")
        fault = self.world.klaviyo.faults.parse(
            {"endpoint": "profile-bulk-import-jobs", "kind": "status", "status": status}
        )
        for _ in range(self.rng.choice((6, 12))):
            self.burst()
            await asyncio.sleep(self.rng.choice((2.0, 12.0)))
        fault.probability = 0.0

    async def night(self) -> None:
        """Retention runs while records wait and arrive."""
        endpoint = self.rng.choice(("events", "*"))
        fault = {"endpoint": endpoint, "kind": "status", "status": 503, "count": 5}
        self.world.klaviyo.faults.parse(fault)
        self.burst()
        await asyncio.sleep(self.rng.choice((0.5, 32.0)))
        self.burst()
        self.world.retain()
        await asyncio.sleep(1.0)

    def decide(self) -> None:
        """A person answers what waits for approval."""
        for id, what in self.world.pending_approvals():
            refusable = what in (BACKFILL, MASS_UNSET, REMOVAL)
            self.world.decide(id, what, approve=not refusable or self.rng.random() < 0.6)
