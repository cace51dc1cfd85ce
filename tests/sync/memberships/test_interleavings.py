"""The main property of memberships, under random interleavings: in the end each list has the union
of its audiences and the people that others added, an unfinished scan removes no one, and no two
writes of one membership are in flight at once.

A scenario is made from a seed; a failure prints the seed and the steps. Four people (`ANCHORS`)
never leave their audiences, so the connector must never remove them from a list.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import httpx
import orjson
import pytest

from connector.domain.errors import AmbiguousError, Problem, Rejected, RetryLater

from .conftest import Configs, Environment, FaultyTransport
from .toy import address

QUICK = range(5)
PAUSES = (0.0, 0.1, 0.6, 2.0, 8.0, 35.0, 70.0)
ENDPOINTS = ("profile-bulk-import-jobs", "lists/{id}/relationships/profiles", "lists", "*")
ANCHORS = ("aa", "ff", "mm", "zz")
ENTRIES = """\
[[connections.audiences]]
audience = "vip"
list = "VIP"
every = "60s"
on_manual_removal = "re-add"

[[connections.audiences]]
audience = "gold"
list = "VIP"
every = "90s"
on_manual_removal = "re-add"

[[connections.audiences]]
audience = "gold"
list = "Gold"
every = "90s"
on_manual_removal = "re-add"
"""
FEEDS = {"VIP": ("vip", "gold"), "Gold": ("gold",)}
ALLOWED = {
    ("GET", "accounts"),
    ("GET", "lists"),
    ("GET", "profiles"),
    ("GET", "profile-bulk-import-jobs"),
    ("POST", "profile-bulk-import-jobs"),
    ("POST", "lists"),
    ("DELETE", "lists"),
}


class RecordingTransport(FaultyTransport):
    """Knows which memberships (list id, address) are being written. `overlaps` are writes that
    began while another write of the same membership was in flight."""

    def __init__(self, env: Environment) -> None:
        super().__init__(env.klaviyo, env.clock)
        self.env = env
        self.in_flight: Counter[tuple[str, str]] = Counter()
        self.overlaps: list[str] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        written = self.written(request)
        jobs = self.env.klaviyo.jobs
        for list_id, email in written:
            in_job = any(list_id in job.lists and email in job.identifiers for job in jobs.open())
            if self.in_flight[list_id, email] or in_job:
                self.overlaps.append(f"{request.method} {email} {list_id}")
        self.in_flight.update(written)
        try:
            return await super().handle_async_request(request)
        finally:
            self.in_flight.subtract(written)

    def written(self, request: httpx.Request) -> list[tuple[str, str]]:
        if request.method == "GET" or request.url.path == "/api/lists":
            return []
        data = orjson.loads(request.content)["data"]
        if request.method == "DELETE":
            people = self.env.klaviyo.profiles_by_id
            return [
                (request.url.path.split("/")[3], people[p["id"]]["email"])
                for p in data
                if p["id"] in people
            ]
        [target] = data["relationships"]["lists"]["data"]
        profiles = data["attributes"]["profiles"]["data"]
        return [(target["id"], p["attributes"]["email"]) for p in profiles]


class Scenario:
    """One interleaving."""

    def __init__(self, seed: int, configs: Configs) -> None:
        random.seed(seed)  # the backoff's, too
        self.rng = random.Random(seed)
        delays = random.Random(seed)
        self.seed = seed
        self.lines: list[str] = []
        delay = self.rng.choice((1.0, 20.0, 1e6))
        self.env = Environment(configs(ENTRIES), job_delay=delay)
        self.fault_transport = self.env.fault_transport = RecordingTransport(self.env)
        self.env.toy.audiences = {"vip": list(ANCHORS), "gold": list(ANCHORS[:2])}
        self.env.toy.size = self.rng.choice((1, 2, 3))
        self.delayed: list[tuple[str, bool, str]] = []
        self.ever_members = {name: set(people) for name, people in self.audiences.items()}
        self.added_manually: dict[str, set[str]] = {"VIP": set(), "Gold": set()}
        if self.rng.random() < 0.6:
            self.fault_transport.before = lambda: delays.choice((0.0, 0.0, 0.2, 1.5))
            self.fault_transport.after = lambda: delays.choice((0.0, 0.0, 0.2, 1.5))

    def note(self, line: str) -> None:
        self.lines.append(f"{self.env.clock.now() % 10**7 / 1000:9.3f} {line}")

    @property
    def audiences(self) -> dict[str, list[str]]:
        return self.env.toy.audiences

    # ── what can happen ──────────────────────────────────────────────────────────────────────────

    async def change(self) -> None:
        """A person joins or leaves an audience. The platform sends an event at once, late, or
        never."""
        audience = self.rng.choice(("vip", "gold"))
        name = self.rng.choice([f"{c}{n}" for c in "cgq" for n in range(3)])
        people = self.audiences[audience]
        joined = name not in people
        (people.append if joined else people.remove)(name)
        self.ever_members[audience].add(name)
        self.note(f"{name} {'joins' if joined else 'leaves'} {audience}")
        luck = self.rng.random()
        if luck < 0.4:
            await self.env.membership_event(name, joined, audience)
        elif luck < 0.6:
            self.delayed.append((name, joined, audience))

    async def send_late_event(self) -> None:
        if self.delayed:
            name, joined, audience = self.delayed.pop(self.rng.randrange(len(self.delayed)))
            self.note(f"late event: {name} {'joined' if joined else 'left'} {audience}")
            await self.env.membership_event(name, joined, audience)

    async def change_list_manually(self) -> None:
        """A person at Klaviyo adds a member to a list, or removes one."""
        list_name = self.rng.choice(("VIP", "Gold"))
        if list_name not in self.env.klaviyo.list_ids():
            return
        present = self.env.members_of(list_name)
        if present and self.rng.random() < 0.5:
            name = self.rng.choice(present)
            self.env.remove_from_list(name, name=list_name)
            self.added_manually[list_name].discard(name)
            self.note(f"manually: {name} removed from {list_name}")
            return
        name = self.rng.choice(("stranger", "c0", "q2", "aa"))
        if name not in present:
            self.added_manually[list_name].add(name)
            self.note(f"manually: {name} added to {list_name}")
        self.env.add_to_list(name, name=list_name)

    async def platform_fails(self) -> None:
        fault = self.rng.choice(
            (
                AmbiguousError(Problem.SERVER_FAULT),
                RetryLater(Problem.PLATFORM_THROTTLED, after=5.0),
                Rejected(Problem.PLATFORM_REFUSED, "cursor"),
            )
        )
        count = self.rng.randint(1, 4)
        self.note(f"platform: {count} × {fault}")
        self.env.toy.failures += [fault] * count

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
        if self.rng.random() < 0.2:
            fault = {"endpoint": "profile-bulk-import-jobs", "kind": "empty_job_id", "count": 1}
        self.note(f"klaviyo: {fault}")
        self.env.klaviyo.faults.parse(fault)

    async def end_job(self) -> None:
        jobs = self.env.klaviyo.jobs
        if found := jobs.open():
            job = self.rng.choice(found)
            end = self.rng.choice((jobs.run, jobs.run, jobs.cancel, jobs.expire, jobs.stall))
            self.note(f"klaviyo: {end.__name__} a job of {job.total}")
            end(job.id)

    async def crash(self) -> None:
        self.note("killed and restarted")
        await self.env.kill()
        self.fault_transport.in_flight.clear()
        if self.rng.random() < 0.5:
            self.env.clock.move(self.rng.choice((1.0, 20.0, 90.0)))
        await self.env.start()

    async def wait(self) -> None:
        pause = self.rng.choice(PAUSES)
        self.note(f"{pause} s later")
        await self.env.clock.advance(pause)

    # ── one run ──────────────────────────────────────────────────────────────────────────────────

    async def run(self, steps: int) -> list[str]:
        steps_with_weights = [
            (self.change, 14),
            (self.send_late_event, 3),
            (self.change_list_manually, 4),
            (self.platform_fails, 4),
            (self.klaviyo_fails, 5),
            (self.end_job, 4),
            (self.crash, 2),
            (self.wait, 16),
        ]
        choices = [step for step, _ in steps_with_weights]
        weights = [weight for _, weight in steps_with_weights]
        await self.env.start()
        found: list[str] = []
        for _ in range(steps):
            await self.rng.choices(choices, weights)[0]()
            found += self.missing_anchors()
        await self.finish()
        return found + self.faults()

    def missing_anchors(self) -> list[str]:
        """Anchors that the connector removed."""
        removed = [
            (list_id, email.partition("@")[0])
            for request in self.fault_transport.requests
            if request.method == "DELETE"
            for list_id, email in self.fault_transport.written(request)
        ]
        names = {id: name for name, id in self.env.klaviyo.list_ids().items()}
        return [
            f"{name} was removed from {names[list_id]}"
            for list_id, name in removed
            if name in (ANCHORS if names[list_id] == "VIP" else ANCHORS[:2])
        ][:1]

    async def finish(self) -> None:
        """No fault happens any more, and time passes."""
        self.note("faults end")
        self.env.klaviyo.faults.clear()
        self.env.toy.failures.clear()
        for _ in range(7):
            for job in self.env.klaviyo.jobs.open():
                self.env.klaviyo.jobs.run(job.id)
            await self.env.clock.advance(60.0)

    def faults(self) -> list[str]:
        found = []
        for name, feeds in FEEDS.items():
            union = {person for feed in feeds for person in self.audiences[feed]}
            ever_members = {person for feed in feeds for person in self.ever_members[feed]}
            present, manual = set(self.env.members_of(name)), self.added_manually[name]
            if missing := union - present:
                found.append(f"{name} lacks {missing}")
            # Foreign members stay. The connector may remove those that an audience had as well.
            if left_over := present - union - manual:
                found.append(f"{name} still has {left_over}")
            if lost := (manual - ever_members) - present:
                found.append(f"{name} lost {lost}, added by others")
        if self.fault_transport.overlaps:
            found.append(f"writes in flight at once: {self.fault_transport.overlaps}")
        if self.env.klaviyo.overlapping_writes:
            found.append(f"overlapping writes: {dict(self.env.klaviyo.overlaps)}")
        if self.env.klaviyo.violations:
            found.append(f"violations: {dict(self.env.klaviyo.violations)}")
        return found + [fault for r in self.fault_transport.requests if (fault := forbidden(r))]


def forbidden(request: httpx.Request) -> str | None:
    """What the request does that could change a consent, or that the connector never does
    (guarantee 7); None if nothing."""
    kind = request.url.path.split("/")[2]
    if (request.method, kind) not in ALLOWED:
        return f"{request.method} {request.url.path}"
    if kind == "profile-bulk-import-jobs" and request.method == "POST":
        data = orjson.loads(request.content)["data"]
        for profile in data["attributes"]["profiles"]["data"]:
            if profile.keys() != {"type", "attributes"} or profile["attributes"].keys() != {
                "email"
            }:
                return f"an import carries {profile}"
    return None


async def run(seed: int, configs: Configs, steps: int) -> None:
    scenario = Scenario(seed, configs)
    try:
        if found := await scenario.run(steps):
            rows = [str(g) for g in await scenario.env.store.member_groups.all()]
            head = f"seed {seed}"
            pytest.fail("\n".join([head, *scenario.lines, *rows, "--", *found]), pytrace=False)
    finally:
        await scenario.env.kill()


@pytest.mark.parametrize("seed", QUICK)
async def test_each_list_converges_to_the_union_of_its_audiences(
    seed: int, configs: Configs
) -> None:
    await run(seed, configs, steps=40)


@pytest.mark.campaign
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("start", range(1_000, 2_000, 100))
async def test_each_list_converges_to_the_union_many_seeds(start: int, configs: Configs) -> None:
    for seed in range(start, start + 100):
        await run(seed, configs, steps=90)


def test_a_consent_request_would_be_detected() -> None:
    consent_request = httpx.Request(
        "POST", "http://x/api/profile-subscription-bulk-create-jobs", content=b""
    )
    assert forbidden(consent_request)
    body = {
        "data": {
            "attributes": {
                "profiles": {
                    "data": [
                        {
                            "type": "profile",
                            "attributes": {"email": address("ada"), "subscriptions": {}},
                        }
                    ]
                }
            }
        }
    }
    job = httpx.Request("POST", "http://x/api/profile-bulk-import-jobs", json=body)
    assert forbidden(job)
