"""THE property of states: whatever happens in whatever order, in the end Klaviyo's seven fields are
the platform's, no two writes of one profile were under way together, and nothing is sent twice.

A script is made of a seed; a failure prints both. Seeds come in two kinds. After a *plain* one
nothing more is said when the faults are cleared: whatever is right then became so by itself. A
*wild* one may also have reads that lag, reads that say 404 of somebody who is there, records that
Klaviyo refuses for good and webhooks of an old address that come late. No design can heal these
without hearing of the person again, so after a wild script each person has one more event.

`overlapping_writes` of the sandbox is 0 without exception; besides, the rig's wire counts single
writes of one profile that are under way together, and there are none either.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from sqlalchemy import select

from connector.sandbox.jericommerce.people import Person
from connector.store.tables import profiles

from .conftest import Configs, Site

QUICK = range(100)
PAUSES = (0.0, 0.05, 0.3, 0.6, 1.0, 2.5, 8.0, 35.0, 70.0)
ENDPOINTS = (
    "events",
    "profile-import",
    "profiles/{id}",
    "profiles",
    "profile-bulk-import-jobs",
    "profile-bulk-import-jobs/{id}",
    "*",
)


class Script:
    """One interleaving."""

    def __init__(self, seed: int, configs: Configs) -> None:
        random.seed(seed)  # the back-off's, too
        self.pick = random.Random(seed)
        wires = random.Random(seed)
        self.seed = seed
        self.wild = seed % 2 == 1
        self.email_change = self.pick.choice(("new", "move"))
        self.lines: list[str] = []
        delay = self.pick.choice((1.0, 20.0, 1e6))
        config = configs(
            bulk_threshold=self.pick.choice((1, 1, 2, 50)),
            email_change=self.email_change,
            attach_wait=self.pick.choice(("0s", "1s")),
        )
        lag = self.pick.choice((0.0, 3.0)) if self.wild else 0.0
        self.site = Site(
            config,
            people=4,
            lag=lag,
            job_delay=delay,
            bulk_errors=self.pick.choice(("all", "first")),
        )
        self.people: list[Person] = self.site.platform.people
        self.waiting: list[dict[str, Any]] = []
        self.told: list[dict[str, Any]] = []
        self.left: set[str] = set()
        self.taken = 0
        wire = self.site.wires["klaviyo"]
        if self.pick.random() < 0.7:
            wire.before = lambda: wires.choice((0.0, 0.0, 0.2, 1.5))
            wire.after = lambda: wires.choice((0.0, 0.0, 0.2, 1.5))

    def note(self, line: str) -> None:
        self.lines.append(f"{self.site.clock.now() % 10**7 / 1000:9.3f} {line}")

    # ── what can happen ──────────────────────────────────────────────────────────────────────────

    async def change(self) -> None:
        person = self.pick.choice(self.people)
        new: dict[str, Any] = {}
        if self.pick.random() < 0.7:
            new["balance"] = self.pick.choice((0, 10, 20, 30))
        if self.pick.random() < 0.5:
            new["tier"] = self.pick.choice((None, "Bronze", "Gold"))
        name = self.pick.choice(("Balance changed", "Wallet pass requested", "Tier upgraded"))
        person.change(**new)
        self.note(f"{person.email} becomes {new}")
        email = None if self.pick.random() < 0.25 else ""
        await self.spread(self.site.webhook(name, person, email=email))

    async def move(self) -> None:
        """A new address, or one that somebody has left."""
        person = self.pick.choice(self.people)
        free = sorted(self.left - {p.email for p in self.people})
        if free and self.pick.random() < 0.4:
            address = self.pick.choice(free)
        else:
            self.taken += 1
            address = f"new{self.taken}@example.com"
        self.note(f"{person.email} moves to {address}")
        self.left.add(person.email)
        person.change(email=address)
        said = self.site.webhook("Account verified", person)
        if self.wild:
            await self.spread(said)
        else:
            # What was said before of the old address comes first, or it would be the newer word.
            mine = [w for w in self.waiting if w["body"]["customerId"] == person.id]
            for earlier in mine:
                self.waiting.remove(earlier)
                await self.hand(earlier)
            await self.hand(said)

    async def spread(self, said: dict[str, Any]) -> None:
        """Now, or later in any order."""
        if self.pick.random() < 0.6:
            await self.hand(said)
        else:
            self.waiting.append(said)

    async def hand(self, said: dict[str, Any]) -> None:
        body = said["body"]
        self.note(f"webhook {body['id']} {said['name']} of {body.get('email', body['customerId'])}")
        self.told.append(said)
        await self.site.deliver(said)

    async def late(self) -> None:
        if self.waiting:
            at = self.pick.randrange(len(self.waiting))
            await self.hand(self.waiting.pop(at))

    async def repeat(self) -> None:
        if self.told:
            said = self.pick.choice(self.told)
            if self.wild or "email" not in said["body"]:
                await self.hand(said)

    async def platform_fails(self) -> None:
        kinds: list[dict[str, Any]] = [
            {"kind": "status", "status": 429, "retry_after": 1},
            {"kind": "status", "status": 500},
            {"kind": "reset_before"},
            {"kind": "html403"},
        ]
        if self.wild:
            kinds.append({"kind": "status", "status": 404})
        fault = {"endpoint": self.pick.choice(("customers", "customers/token", "*"))}
        fault |= self.pick.choice(kinds) | {"count": self.pick.randint(1, 4)}
        self.note(f"platform: {fault}")
        self.site.platform.faults.parse(fault)

    async def klaviyo_fails(self) -> None:
        kinds: list[dict[str, Any]] = [
            {"kind": "status", "status": 429, "retry_after": self.pick.choice((1, 20))},
            {"kind": "status", "status": 503},
            {"kind": "status", "status": 500},
            {"kind": "status", "status": 500, "applied": True},
            {"kind": "reset_before"},
            {"kind": "reset_after"},
            {"kind": "html403"},
        ]
        fault = {"endpoint": self.pick.choice(ENDPOINTS)}
        fault |= self.pick.choice(kinds) | {"count": self.pick.randint(1, 3)}
        if self.pick.random() < 0.25:
            fault = {"endpoint": "profile-bulk-import-jobs", "kind": "empty_job_id", "count": 1}
        self.note(f"klaviyo: {fault}")
        self.site.klaviyo.faults.parse(fault)

    async def poison(self) -> None:
        if not self.wild:
            return
        email = self.pick.choice(self.people).email
        pointer = self.pick.random() < 0.5
        self.note(f"klaviyo: poison {email} pointer={pointer}")
        for endpoint in ("profile-import", "profile-bulk-import-jobs"):
            self.site.klaviyo.faults.add(
                endpoint, "poison", match=f'"{email}"', pointer=pointer, count=6
            )

    async def refuse_in_job(self) -> None:
        if self.wild:
            email = self.pick.choice(self.people).email
            self.note(f"klaviyo: jobs refuse {email}")
            self.site.klaviyo.jobs.fail_matching(email, "invalid", "Invalid input.")

    async def job(self) -> None:
        jobs = self.site.klaviyo.jobs
        found = jobs.open()
        if found:
            one = self.pick.choice(found)
            act = self.pick.choice((jobs.run, jobs.run, jobs.cancel, jobs.expire, jobs.stall))
            self.note(f"klaviyo: {act.__name__} a job of {one.total}")
            act(one.id)

    async def crash(self) -> None:
        self.note("killed and started again")
        await self.site.kill()
        if self.pick.random() < 0.5:
            self.site.clock.move(self.pick.choice((1.0, 20.0, 90.0)))
        await self.site.start()

    async def go_on(self) -> None:
        pause = self.pick.choice(PAUSES)
        self.note(f"{pause} s pass")
        await self.site.clock.advance(pause)

    # ── one run ──────────────────────────────────────────────────────────────────────────────────

    async def run(self, steps: int) -> None:
        acts: list[tuple[Callable[[], Awaitable[None]], int]] = [
            (self.change, 14),
            (self.move, 3),
            (self.late, 6),
            (self.repeat, 2),
            (self.platform_fails, 3),
            (self.klaviyo_fails, 5),
            (self.poison, 1),
            (self.refuse_in_job, 1),
            (self.job, 4),
            (self.crash, 2),
            (self.go_on, 14),
        ]
        choices, weights = [act for act, _ in acts], [weight for _, weight in acts]
        await self.site.start()
        for person in self.people:
            await self.hand(self.site.webhook("Customer created", person))
        for _ in range(steps):
            await self.pick.choices(choices, weights)[0]()
        await self.calm()

    async def calm(self) -> None:
        """Every fault is over, everything that happened is told, and time passes."""
        self.note("calm")
        self.site.klaviyo.faults.clear()
        self.site.platform.faults.clear()
        self.site.klaviyo.jobs.clear_failures()
        while self.waiting:
            await self.late()
        await self.site.rest()
        if self.wild:
            await self.site.clock.advance(5.0)
            for person in self.people:
                await self.hand(self.site.webhook("Customer scanned", person))
            await self.site.rest()

    async def second_pass(self) -> dict[str, int]:
        """Everybody is heard of again, and nothing has changed: what is written because of it."""
        before = self.site.profile_requests()
        for person in self.people:
            await self.hand(self.site.webhook("Customer scanned", person))
        await self.site.rest()
        after = self.site.profile_requests()
        return {name: count - before.get(name, 0) for name, count in after.items()}

    def faults(self) -> list[str]:
        site = self.site
        found = [*site.busy(), *filter(None, map(site.wrong, self.people))]
        here = {person.email for person in self.people}
        for address in sorted(self.left - here):
            if there := site.seven(address):
                found.append(f"{address} was left and still bears {there}")
        if site.klaviyo.overlapping_writes:
            found.append(f"overlapping writes: {dict(site.klaviyo.overlaps)}")
        if site.wires["klaviyo"].meets:
            found.append(f"writes under way together: {site.wires['klaviyo'].meets}")
        if site.klaviyo.violations:
            found.append(f"violations: {dict(site.klaviyo.violations)}")
        return found

    def explain(self, found: list[str]) -> str:
        rows = [str(dict(row._mapping)) for row in self.site.rows(select(profiles))]
        head = f"seed {self.seed} ({'wild' if self.wild else 'plain'}, {self.email_change})"
        return "\n".join([head, *self.lines, *rows, "--", *found])


async def run(seed: int, configs: Configs, steps: int) -> None:
    script = Script(seed, configs)
    try:
        await script.run(steps)
        found = script.faults()
        again = {} if found else await script.second_pass()
        found += [f"sent for nothing: {again}"] if any(again.values()) else []
        found += [] if found else script.faults()
        if found:
            pytest.fail(script.explain(found), pytrace=False)
    finally:
        await script.site.kill()


@pytest.mark.parametrize("seed", QUICK)
async def test_in_the_end_klaviyo_has_what_the_platform_has(seed: int, configs: Configs) -> None:
    await run(seed, configs, steps=45)


@pytest.mark.campaign
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("start", range(1_000, 3_000, 100))
async def test_in_the_end_klaviyo_has_what_the_platform_has_many_times(
    start: int, configs: Configs
) -> None:
    for seed in range(start, start + 100):
        await run(seed, configs, steps=90)
