"""The property of profile states: whatever happens in whatever order, in the end Klaviyo has the
platform's fields, no two writes of one profile were in flight together, and nothing is sent twice.

A scenario is made from a seed; a failure prints both. There are two kinds of seeds. After a *plain*
scenario no further event is received once the faults are cleared. A *wild* one may also have reads
that lag, reads that answer 404 for a person who exists, records that Klaviyo refuses for good, and
late webhooks with an old address. These cannot be repaired without another event of the person, so
each person has one more event after a wild scenario.

Neither the sandbox nor the test's network may ever see overlapping writes of one profile.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from sqlalchemy import select

from connector.sandbox.jericommerce.people import Person
from connector.store.tables import profiles

from .conftest import Configs, Environment

QUICK = range(25)
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


class Scenario:
    """One random sequence of changes and faults."""

    def __init__(self, seed: int, configs: Configs) -> None:
        random.seed(seed)  # also for the backoff
        self.rng = random.Random(seed)
        network = random.Random(seed)
        self.seed = seed
        self.wild = seed % 2 == 1
        self.email_change = self.rng.choice(("new", "move"))
        self.lines: list[str] = []
        delay = self.rng.choice((1.0, 20.0, 1e6))
        config = configs(
            bulk_threshold=self.rng.choice((1, 1, 2, 50)),
            email_change=self.email_change,
            attach_wait=self.rng.choice(("0s", "1s")),
        )
        lag = self.rng.choice((0.0, 3.0)) if self.wild else 0.0
        self.env = Environment(
            config,
            people=4,
            lag=lag,
            job_delay=delay,
            bulk_errors=self.rng.choice(("all", "first")),
        )
        self.people: list[Person] = self.env.platform.people
        self.delayed: list[dict[str, Any]] = []
        self.delivered: list[dict[str, Any]] = []
        self.left_addresses: set[str] = set()
        self.address_count = 0
        fault_transport = self.env.fault_transports["klaviyo"]
        if self.rng.random() < 0.7:
            fault_transport.before = lambda: network.choice((0.0, 0.0, 0.2, 1.5))
            fault_transport.after = lambda: network.choice((0.0, 0.0, 0.2, 1.5))

    def note(self, line: str) -> None:
        self.lines.append(f"{self.env.clock.now() % 10**7 / 1000:9.3f} {line}")

    # ── what can happen ──────────────────────────────────────────────────────────────────────────

    async def change(self) -> None:
        person = self.rng.choice(self.people)
        new: dict[str, Any] = {}
        if self.rng.random() < 0.7:
            new["balance"] = self.rng.choice((0, 10, 20, 30))
        if self.rng.random() < 0.5:
            new["tier"] = self.rng.choice((None, "Bronze", "Gold"))
        name = self.rng.choice(("Balance changed", "Wallet pass requested", "Tier upgraded"))
        person.change(**new)
        self.note(f"{person.email} changes: {new}")
        email = None if self.rng.random() < 0.25 else ""
        delivery = self.env.webhook(name, person, email=email)
        if email == "" and self.rng.random() < 0.25:
            # By address alone: whose it is shows a read, or a later webhook.
            del delivery["body"]["customerId"]
            await self.deliver_now(delivery)
        else:
            await self.deliver_or_delay(delivery)

    async def change_address(self) -> None:
        """A new address, or one that another person has left."""
        person = self.rng.choice(self.people)
        free = sorted(self.left_addresses - {p.email for p in self.people})
        if free and self.rng.random() < 0.4:
            address = self.rng.choice(free)
        else:
            self.address_count += 1
            address = f"new{self.address_count}@example.com"
        self.note(f"{person.email} moves to {address}")
        self.left_addresses.add(person.email)
        person.change(email=address)
        delivery = self.env.webhook("Account verified", person)
        if self.wild:
            await self.deliver_or_delay(delivery)
        else:
            # Delayed webhooks with the old address come first: received later, they would be newer.
            earlier_ones = [d for d in self.delayed if d["body"]["customerId"] == person.id]
            for earlier in earlier_ones:
                self.delayed.remove(earlier)
                await self.deliver_now(earlier)
            await self.deliver_now(delivery)

    async def deliver_or_delay(self, delivery: dict[str, Any]) -> None:
        """Now, or later in any order."""
        if self.rng.random() < 0.6:
            await self.deliver_now(delivery)
        else:
            self.delayed.append(delivery)

    async def deliver_now(self, delivery: dict[str, Any]) -> None:
        body = delivery["body"]
        who = f"{body.get('email')} {body.get('customerId')}"
        self.note(f"webhook {body['id']} {delivery['name']} of {who}")
        self.delivered.append(delivery)
        await self.env.deliver(delivery)

    async def deliver_late(self) -> None:
        if self.delayed:
            at = self.rng.randrange(len(self.delayed))
            await self.deliver_now(self.delayed.pop(at))

    async def repeat(self) -> None:
        if self.delivered:
            delivery = self.rng.choice(self.delivered)
            if self.wild or "email" not in delivery["body"]:
                await self.deliver_now(delivery)

    async def platform_fails(self) -> None:
        kinds: list[dict[str, Any]] = [
            {"kind": "status", "status": 429, "retry_after": 1},
            {"kind": "status", "status": 500},
            {"kind": "reset_before"},
            {"kind": "html403"},
        ]
        if self.wild:
            kinds.append({"kind": "status", "status": 404})
        fault = {"endpoint": self.rng.choice(("customers", "customers/token", "*"))}
        fault |= self.rng.choice(kinds) | {"count": self.rng.randint(1, 4)}
        self.note(f"platform: {fault}")
        self.env.platform.faults.parse(fault)

    async def klaviyo_fails(self) -> None:
        kinds: list[dict[str, Any]] = [
            {"kind": "status", "status": 429, "retry_after": self.rng.choice((1, 20))},
            {"kind": "status", "status": 503},
            {"kind": "status", "status": 500},
            {"kind": "status", "status": 500, "applied": True},
            {"kind": "reset_before"},
            {"kind": "reset_after"},
            {"kind": "html403"},
        ]
        fault = {"endpoint": self.rng.choice(ENDPOINTS)}
        fault |= self.rng.choice(kinds) | {"count": self.rng.randint(1, 3)}
        if self.rng.random() < 0.25:
            fault = {"endpoint": "profile-bulk-import-jobs", "kind": "empty_job_id", "count": 1}
        self.note(f"klaviyo: {fault}")
        self.env.klaviyo.faults.parse(fault)

    async def poison(self) -> None:
        if not self.wild:
            return
        email = self.rng.choice(self.people).email
        pointer = self.rng.random() < 0.5
        self.note(f"klaviyo: poison {email} pointer={pointer}")
        for endpoint in ("profile-import", "profile-bulk-import-jobs"):
            self.env.klaviyo.faults.add(
                endpoint, "poison", match=f'"{email}"', pointer=pointer, count=6
            )

    async def refuse_in_job(self) -> None:
        if self.wild:
            email = self.rng.choice(self.people).email
            self.note(f"klaviyo: jobs refuse {email}")
            self.env.klaviyo.jobs.fail_matching(email, "invalid", "Invalid input.")

    async def job(self) -> None:
        jobs = self.env.klaviyo.jobs
        open_jobs = jobs.open()
        if open_jobs:
            one = self.rng.choice(open_jobs)
            act = self.rng.choice((jobs.run, jobs.run, jobs.cancel, jobs.expire, jobs.stall))
            self.note(f"klaviyo: {act.__name__} a job of {one.total}")
            act(one.id)

    async def crash(self) -> None:
        self.note("killed and restarted")
        await self.env.kill()
        if self.rng.random() < 0.5:
            self.env.clock.move(self.rng.choice((1.0, 20.0, 90.0)))
        await self.env.start()

    async def wait(self) -> None:
        pause = self.rng.choice(PAUSES)
        self.note(f"{pause} s later")
        await self.env.clock.advance(pause)

    # ── one run ──────────────────────────────────────────────────────────────────────────────────

    async def run(self, steps: int) -> None:
        acts: list[tuple[Callable[[], Awaitable[None]], int]] = [
            (self.change, 14),
            (self.change_address, 3),
            (self.deliver_late, 6),
            (self.repeat, 2),
            (self.platform_fails, 3),
            (self.klaviyo_fails, 5),
            (self.poison, 1),
            (self.refuse_in_job, 1),
            (self.job, 4),
            (self.crash, 2),
            (self.wait, 14),
        ]
        choices, weights = [act for act, _ in acts], [weight for _, weight in acts]
        await self.env.start()
        for person in self.people:
            await self.introduce(person)
        for _ in range(steps):
            await self.rng.choices(choices, weights)[0]()
        await self.finish()

    async def introduce(self, person: Person) -> None:
        """The first webhooks of a person: with id and address, or first with each alone, so that
        two people turn out to be one."""
        both = self.env.webhook("Customer created", person)
        if self.rng.random() < 0.5:
            await self.deliver_now(both)
            return
        by_id = self.env.webhook("Customer scanned", person, email=None)
        by_address = self.env.webhook("Customer scanned", person)
        del by_address["body"]["customerId"]
        halves = [by_id, by_address]
        self.rng.shuffle(halves)
        for half in halves:
            await self.deliver_now(half)
        await self.deliver_or_delay(both)

    async def finish(self) -> None:
        """End all faults, deliver what was delayed, and let time pass."""
        self.note("faults cleared")
        self.env.klaviyo.faults.clear()
        self.env.platform.faults.clear()
        self.env.klaviyo.jobs.clear_failures()
        while self.delayed:
            await self.deliver_late()
        await self.env.run_until_idle()
        if self.wild:
            await self.env.clock.advance(5.0)
            for person in self.people:
                await self.deliver_now(self.env.webhook("Customer scanned", person))
            await self.env.run_until_idle()

    async def second_pass(self) -> dict[str, int]:
        """The writes that one more event for each person causes, although nothing has changed."""
        before = self.env.profile_requests()
        for person in self.people:
            await self.deliver_now(self.env.webhook("Customer scanned", person))
        await self.env.run_until_idle()
        after = self.env.profile_requests()
        return {name: count - before.get(name, 0) for name, count in after.items()}

    def faults(self) -> list[str]:
        env = self.env
        found = [*env.busy(), *filter(None, map(env.difference, self.people))]
        current = {person.email for person in self.people}
        for address in sorted(self.left_addresses - current):
            if fields := env.synced_fields(address):
                found.append(f"{address} was left and still has {fields}")
        if env.klaviyo.overlapping_writes:
            found.append(f"overlapping writes: {dict(env.klaviyo.overlaps)}")
        if env.fault_transports["klaviyo"].overlaps:
            found.append(f"writes in flight together: {env.fault_transports['klaviyo'].overlaps}")
        if env.klaviyo.violations:
            found.append(f"violations: {dict(env.klaviyo.violations)}")
        return found

    def explain(self, found: list[str]) -> str:
        rows = [str(dict(row._mapping)) for row in self.env.rows(select(profiles))]
        head = f"seed {self.seed} ({'wild' if self.wild else 'plain'}, {self.email_change})"
        return "\n".join([head, *self.lines, *rows, "--", *found])


async def run(seed: int, configs: Configs, steps: int) -> None:
    scenario = Scenario(seed, configs)
    try:
        await scenario.run(steps)
        found = scenario.faults()
        again = {} if found else await scenario.second_pass()
        found += [f"sent for nothing: {again}"] if any(again.values()) else []
        found += [] if found else scenario.faults()
        if found:
            pytest.fail(scenario.explain(found), pytrace=False)
    finally:
        await scenario.env.kill()


@pytest.mark.parametrize("seed", QUICK)
async def test_klaviyo_converges_to_the_platforms_state(seed: int, configs: Configs) -> None:
    await run(seed, configs, steps=45)


@pytest.mark.parametrize("seed", [1454, 2910])
async def test_what_the_campaign_found_stays_fixed(seed: int, configs: Configs) -> None:
    """People take over each other's addresses while a write of theirs is in flight."""
    await run(seed, configs, steps=90)


@pytest.mark.campaign
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("start", range(1_000, 3_000, 100))
async def test_klaviyo_converges_to_the_platforms_state_many_seeds(
    start: int, configs: Configs
) -> None:
    for seed in range(start, start + 100):
        await run(seed, configs, steps=90)
