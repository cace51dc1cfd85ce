"""Steps of the contracts of reads and profiles: append events, claim, read, settle."""

from __future__ import annotations

from typing import Any

from connector.domain.errors import Problem
from connector.domain.lanes import DeliveryMode, Lane, LaneId, Millis
from connector.domain.outcomes import Dead, Observed
from connector.domain.profile_state import write_from_json
from connector.domain.profiles import EmailChange, Observation
from connector.domain.records import Claim, Page
from connector.ports import Fence, RetryPolicy, Store
from connector.testing.contracts.store import HORIZON, NOW, record

LATER = Millis(NOW + 1000)


async def lanes(store: Store) -> tuple[Lane, Lane, Lane]:
    """The lanes of (events, reads, profiles)."""
    return await event_lane(store), await read_lane(store), await profile_lane(store)


async def event_lane(store: Store) -> Lane:
    return await store.lanes.ensure("acme", "klaviyo", "event")


async def read_lane(store: Store) -> Lane:
    return await store.lanes.ensure("acme", "jericommerce", "profile")


async def profile_lane(store: Store) -> Lane:
    return await store.lanes.ensure("acme", "klaviyo", "profile")


async def append_events(
    store: Store, *names: str, at: int = NOW, wait: int = 0, gap: int = 0
) -> None:
    """An event for each of these people, which requests a read."""
    events, reads = await event_lane(store), await read_lane(store)
    records = [record(email=f"{name}@example.com", person=name, refresh=True) for name in names]
    page = Page(
        events,
        "webhook",
        records,
        Millis(at),
        read_lane=reads.id,
        attach_wait=wait,
        min_read_interval=gap,
    )
    await store.outbox.append([page])


async def claim_reads(store: Store, fence: Fence, at: int = NOW) -> Claim | None:
    reads = await read_lane(store)
    return await store.reads.claim(
        reads, fence, now=Millis(at), limit=100, mode=DeliveryMode.BATCH, mapping=""
    )


async def claim_writes(
    store: Store,
    fence: Fence,
    at: int = NOW,
    *,
    mode: DeliveryMode = DeliveryMode.BATCH,
    limit: int = 100,
) -> Claim | None:
    profiles = await profile_lane(store)
    return await store.profiles.claim(
        profiles, fence, now=Millis(at), limit=limit, mode=mode, mapping=""
    )


def make_observation(
    person: int,
    name: str,
    at: int,
    lane: LaneId,
    email_change: EmailChange = "new",
    problem: Problem | None = None,
    **changes: Any,
) -> Observation:
    email = f"{name}@example.com"
    return Observation(
        person=person,
        view={"email": email, **changes},
        changes=changes,
        identity={"email": email},
        at=Millis(at),
        mapping="v1",
        lane=lane,
        address=email.encode(),
        email_change=email_change,
        problem=problem,
    )


async def read(store: Store, fence: Fence, name: str, at: int = NOW, **changes: Any) -> int:
    """Claim the only read that is due and settle it with these changes; returns the person."""
    profiles = await profile_lane(store)
    claim = await claim_reads(store, fence, at)
    assert claim
    [entry] = claim.entries
    observation = make_observation(entry.seq, name, at, profiles.id, **changes)
    outcome = Observed(entry.seq, observation)
    policy = RetryPolicy(HORIZON)
    settled = await store.reads.settle(claim, [outcome], now=Millis(at), policy=policy)
    assert settled.changed == 1
    return entry.seq


async def settle(store: Store, claim: Claim, *outcomes: Any, at: int = NOW) -> int:
    policy = RetryPolicy(HORIZON)
    return (await store.profiles.settle(claim, outcomes, now=Millis(at), policy=policy)).changed


async def refuse_profile(
    store: Store, fence: Fence, name: str, problem: Problem = Problem.KLAVIYO_REFUSED
) -> int:
    """The first write of this person is refused; returns the person."""
    await append_events(store, name)
    person = await read(store, fence, name, balance=1)
    claim = await claim_writes(store, fence, LATER)
    assert claim
    [entry] = claim.entries
    await settle(store, claim, Dead(entry.seq, problem, f"{name} is odd"), at=LATER)
    return person


def written_fields(claim: Claim | None) -> dict[str, Any]:
    """The fields of the only claimed write (None: unset)."""
    assert claim
    [entry] = claim.entries
    write = write_from_json(entry.data)
    return {**write.sets, **dict.fromkeys(write.unsets)}
