"""A read returns the whole person, a list is walked to its end in any order, history comes once."""

from __future__ import annotations

from typing import Any

import pytest

from connector.domain.errors import AmbiguousError, Blocked, DeliveryError, RetryLater
from connector.domain.lanes import Millis
from connector.mapping import VIEW_PATHS
from connector.platforms.yotpo.api import CUSTOMERS, RECENT, REWARDS, TIERS
from connector.ports import PersonRef

from .rig import Rig

REACH = ("next_tier.name", "next_reward.name")


# ── one person ───────────────────────────────────────────────────────────────────────────────────


async def test_a_person_is_read_by_address() -> None:
    async with Rig() as rig:
        person = rig.platform.people[3]
        person.change(balance=120, tier="Gold")
        snapshot = await rig.read(person)
        assert snapshot is not None
        assert (snapshot.view["balance"], snapshot.view["tier"]["name"]) == (120, "Gold")
        assert snapshot.view["raw"]["referral_link"]["link"] == person.link
        assert {"raw", "balance", "tier", "birthdate"} <= snapshot.covers
        assert rig.platform.state()["violations"] == {}


async def test_a_person_without_an_address_is_read_by_id() -> None:
    async with Rig() as rig:
        person = rig.platform.people[0]
        snapshot = await rig.read(PersonRef(1, person.id, None, b""))
        assert snapshot is not None
        assert snapshot.view["email"] == person.email


async def test_a_person_is_not_mistaken_for_the_addresss_new_owner() -> None:
    async with Rig() as rig:
        ana, ben = rig.platform.people[:2]
        former = ana.email
        ana.change(email="new@example.com")
        ben.change(email=former)
        assert await rig.read(PersonRef(1, ana.id, former, b"")) is None
        assert await rig.read(PersonRef(1, None, former, b"")) is not None


async def test_the_catalogue_is_fetched_only_if_mapped_and_once_an_hour() -> None:
    async with Rig() as rig:
        person = rig.platform.people[0]
        person.change(balance=0, earned=20, tier="Bronze")
        plain = await rig.read(person, "balance")
        assert plain is not None
        assert "next_reward" not in plain.covers
        assert rig.requests(TIERS) == rig.requests(REWARDS) == 0
        for _ in range(3):
            snapshot = await rig.read(person, *REACH)
        assert snapshot is not None
        assert snapshot.view["next_tier"] == {"name": "Silver", "points_needed": 480}
        assert snapshot.view["next_reward"] == {"name": "$5 Coupon", "points_needed": 250}
        assert "next_reward" in snapshot.covers
        assert rig.requests(TIERS) == rig.requests(REWARDS) == 1
        rig.clock.move(3601)
        await rig.read(person, *REACH)
        assert rig.requests(TIERS) == rig.requests(REWARDS) == 2
        # Permits beyond the caller's own are saved.
        assert sum(usage.count for usage in rig.saved_usage) == 4


@pytest.mark.parametrize("status", [403, 404, 500])
async def test_without_a_catalogue_the_other_fields_are_returned(status: int) -> None:
    async with Rig() as rig:
        rig.platform.faults.add("redemption_options", "status", status=status)
        snapshot = await rig.read(rig.platform.people[0], *REACH)
        assert snapshot is not None
        assert not {"next_reward", "next_tier", "next_tier.name"} & snapshot.covers
        assert "next_tier.points_needed" in snapshot.covers


async def test_a_key_rejected_for_the_catalogue_raises() -> None:
    async with Rig() as rig:
        rig.platform.faults.add("vip_tiers", "status", status=401)
        with pytest.raises(Blocked) as caught:
            await rig.read(rig.platform.people[0], *REACH)
        assert caught.value.scope == "account"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (423, RetryLater),
        (429, RetryLater),
        (503, RetryLater),
        (500, AmbiguousError),
        (401, Blocked),
    ],
)
async def test_a_refused_read(status: int, kind: type[DeliveryError]) -> None:
    async with Rig() as rig:
        rig.platform.faults.add("customers", "status", status=status, count=1)
        with pytest.raises(kind):
            await rig.read(rig.platform.people[0])
        assert await rig.read(rig.platform.people[0]) is not None


async def test_a_check_reports_a_wrong_key_without_showing_it() -> None:
    async with Rig(api_key="wrong-key-1") as rig:
        [found] = await rig.client.check()
        assert found.level == "fault"
        assert found.problem == "P401"
        assert "wrong-key-1" not in str(found)
    async with Rig() as rig:
        [found] = await rig.client.check()
        assert found.level == "ok"


# ── the limit ────────────────────────────────────────────────────────────────────────────────────


async def test_five_requests_per_second_are_never_exceeded() -> None:
    async with Rig(sandbox={"rate_per_second": 5}) as rig:
        people = rig.platform.people
        began = rig.clock.monotonic()
        for _ in range(6):
            for person in people:
                await rig.read(person, *REACH)
            await rig.walk()
        took = rig.clock.monotonic() - began
        made = sum(rig.requests(route) for route in (CUSTOMERS, RECENT, TIERS, REWARDS))
        assert made == 6 * (20 + 1) + 2
        assert rig.platform.state()["throttled"] == 0
        assert took < made / 5 * 1.3 + 1


async def test_response_headers_lower_our_limit() -> None:
    async with Rig(sandbox={"rate_per_second": 2}, rate_per_second=50) as rig:
        for person in rig.platform.people:
            await rig.read(person)
        assert rig.platform.state()["throttled"] == 0


async def test_after_a_429_no_request_is_sent_before_the_reset() -> None:
    async with Rig() as rig:
        person = rig.platform.people[0]
        rig.platform.faults.add("customers", "status", status=429, count=1, retry_after=40)
        with pytest.raises(RetryLater):
            await rig.read(person)
        before = rig.clock.monotonic()
        await rig.read(person)
        assert rig.clock.monotonic() - before >= 40


# ── the list of changes ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("order", ["newest", "oldest", "shuffled"])
async def test_a_listing_returns_everyone_in_any_order(order: str) -> None:
    async with Rig(sandbox={"people": 250, "order": order}) as rig:
        pages = await rig.walk()
        assert [len(page.people) for page in pages] == [100, 100, 50]
        seen = {person.platform_id for page in pages for person in page.people}
        assert seen == {person.id for person in rig.platform.people}
        changed = rig.platform.people[7]
        changed.change(balance=31_337)
        again = await rig.walk(pages[-1].cursor)
        [found] = [p for page in again for p in page.people if p.platform_id == changed.id]
        assert found.snapshot.view["balance"] == 31_337
        assert found.email == changed.email


async def test_a_listing_resumes_where_it_stopped() -> None:
    async with Rig(sandbox={"people": 250}) as rig:
        first = await rig.changes.page(None, frozenset())
        rest = await rig.walk(first.cursor)
        seen = [p.platform_id for page in (first, *rest) for p in page.people]
        assert len(seen) == len(set(seen)) == 250


async def test_every_page_of_a_walk_is_as_old_as_its_first_page() -> None:
    """All pages of a walk may show the state at its start, so a read meanwhile is newer."""
    async with Rig(sandbox={"people": 250}) as rig:
        started_at = rig.clock.now()
        cursor, times = None, []
        for _ in range(4):
            page = await rig.changes.page(cursor, frozenset())
            cursor = page.cursor
            times.append(page.at - started_at)
            rig.clock.move(5)
        assert times == [0, 0, 0, 15_000]


async def test_a_repeated_cursor_ends_the_listing_and_the_next_one_starts_over() -> None:
    async with Rig(sandbox={"people": 350, "repeats_cursor": True}) as rig:
        for _ in range(2):
            pages = await rig.walk("")
            assert len(pages) == 4
            assert len({p.platform_id for page in pages for p in page.people}) == 350
            assert (pages[-1].more, pages[-1].cursor) == (False, "")
        assert rig.requests(RECENT) == 8


async def test_a_lagging_listing_is_observed_later() -> None:
    async with Rig(sandbox={"lag": 60.0}) as rig:
        person = rig.platform.people[0]
        before = person.balance
        person.change(balance=before + 1)

        async def shown() -> Any:
            pages = await rig.walk()
            people = {p.platform_id: p.snapshot.view for page in pages for p in page.people}
            return people[person.id]["balance"]

        assert await shown() == before
        rig.clock.move(61)
        assert await shown() == before + 1


async def test_a_listing_covers_exactly_the_fields_it_contains() -> None:
    async with Rig() as rig:
        [page] = await rig.walk()
        covers = page.people[0].snapshot.covers
        assert {"balance", "tier.name", "raw.points_earned"} <= covers
        assert not [word for word in covers if "expire_on" in word or "referral_link" in word]
        assert not {"raw", "tier", "next_reward", "next_tier.name"} & covers
        assert not covers - {*VIEW_PATHS, *(word for word in covers if word.startswith("raw."))}


@pytest.mark.parametrize("answer", [b"[]", b"{}", b'{"customers": null}', b"null"])
async def test_a_listing_without_a_list_is_an_error(answer: bytes) -> None:
    async with Rig() as rig:

        async def other(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": answer})

        rig.platform._gate._inner = other
        with pytest.raises(AmbiguousError):
            await rig.changes.page(None, frozenset())


# ── history ──────────────────────────────────────────────────────────────────────────────────────


async def test_history_events_have_stable_ids_across_requests() -> None:
    async with Rig() as rig:
        ana = rig.platform.add("ana@example.com")
        now = rig.platform.moment()
        ana.adjust_points(100, "Make a Purchase", now)
        # Two equal items of one second are two events.
        ana.adjust_points(100, "Make a Purchase", now)
        rig.clock.move(60)
        ana.adjust_points(-50, "$5 Coupon", rig.platform.moment(), status="CODE-1")
        who = PersonRef(1, ana.id, ana.email, b"")
        first = await rig.history.events(who, None)
        assert [record.occurred_at for record in first] == sorted(r.occurred_at for r in first)
        assert len({record.key for record in first}) == len(first) == 3
        assert {record.name for record in first} == {"Points History"}
        assert {record.email for record in first} == {"ana@example.com"}
        rig.clock.move(60)
        ana.adjust_points(100, "Make a Purchase", rig.platform.moment())
        ana.history[0]["status"] = "Reversed"
        again = await rig.history.events(PersonRef(1, None, ana.email, b""), None)
        assert [r.unique_id for r in again[:3]] == [r.unique_id for r in first]
        assert len(again) == 4
        since = Millis(first[-1].occurred_at)
        late = await rig.history.events(who, since)
        assert [r.unique_id for r in late] == [r.unique_id for r in again[2:]]


async def test_pending_points_are_not_events() -> None:
    async with Rig() as rig:
        ana = rig.platform.add("ana@example.com")
        ana.adjust_points(100, "Make a Purchase", rig.platform.moment(), status="Pending")
        who = PersonRef(1, ana.id, ana.email, b"")
        assert await rig.history.events(who, None) == []
        ana.history[0]["status"] = "Approved"
        assert len(await rig.history.events(who, None)) == 1


async def test_the_history_of_an_unknown_person_is_empty() -> None:
    async with Rig() as rig:
        for who in (PersonRef(1, None, None, b""), PersonRef(1, "x", "nobody@example.com", b"")):
            assert await rig.history.events(who, None) == []
