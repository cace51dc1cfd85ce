"""What every store of actions promises (promise 4). Run it with a `store` fixture."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from connector.domain.actions import (
    REFERENCE,
    Action,
    Added,
    Asked,
    Call,
    Caps,
    Conflict,
)
from connector.domain.errors import Problem
from connector.domain.lanes import (
    Lane,
    Millis,
)
from connector.domain.outcomes import (
    Absent,
    Accepted,
    Dead,
    Doubt,
    Held,
    Outcome,
    Retry,
    Unsent,
)
from connector.domain.records import (
    Claim,
    Page,
    Record,
)
from connector.ports import Deed, Fence, Store
from connector.testing.fakes.clock import START

_NOW = Millis(START)
_HORIZON = 1_000_000
_LOOK_UPS = (0, 60_000, 600_000)
_CAPS = Caps(per_person=20)
_HOUR = 3_600_000


def asked(
    email: str = "ana@example.com",
    amount: int = 100,
    *,
    key: str = "k",
    window: int | None = None,
    name: str = "increase",
) -> Asked:
    """An adjustment by this key."""
    action = Action("push" if name == "push" else "increase", email=email, amount=amount)
    return Asked(replace(action, reason="Welcome"), "balance/increase", key, window)


class Desk:
    """A lane of actions under the test's hand."""

    def __init__(self, store: Store, lane: Lane, fence: Fence) -> None:
        self.store, self.lane, self.fence = store, lane, fence
        store.actions.look_up_at(lane.id, _LOOK_UPS)

    def call(self, *actions: Asked, now: int = _NOW, caps: Caps = _CAPS) -> Call:
        return Call(self.lane, "flow", actions, Millis(now), caps)

    async def add(self, *actions: Asked, now: int = _NOW, caps: Caps = _CAPS) -> Added | Conflict:
        [answer] = await self.store.actions.add([self.call(*actions, now=now, caps=caps)])
        return answer

    async def ready(self, now: int = _NOW) -> tuple[int, int, Millis | None]:
        found = await self.store.actions.ready(self.lane.id, now=Millis(now), limit=50)
        return found.fresh, found.solo, found.next_due

    async def claim(self, now: int = _NOW, *, solo: bool = False, limit: int = 50) -> Claim | None:
        return await self.store.actions.claim(
            self.lane, self.fence, now=Millis(now), limit=limit, solo=solo, mapping=""
        )

    async def take(self, now: int = _NOW, *, solo: bool = False) -> Claim:
        claim = await self.claim(now, solo=solo)
        assert claim
        return claim

    async def settle(self, claim: Claim, *outcomes: Outcome, now: int = _NOW) -> int:
        return await self.store.actions.settle(claim, outcomes, now=Millis(now), horizon=_HORIZON)

    async def deeds(self) -> Sequence[Deed]:
        return sorted(await self.store.actions.find(), key=lambda deed: deed.id)

    async def one(self) -> Deed:
        [deed] = await self.deeds()
        return deed


async def desk_of(store: Store, connection: str = "acme") -> Desk:
    lane = await store.lanes.ensure(connection, "yotpo", "action")
    fence = await store.leases.acquire("store", "us", now=_NOW, ttl=100 * _HOUR)
    assert isinstance(fence, Fence)
    return Desk(store, lane, fence)


class ActionsContract:
    """Subclass it beside a fixture `store` that yields an empty store."""

    # ── identity ─────────────────────────────────────────────────────────────────────────────────

    async def test_the_same_key_and_content_is_one_action(self, store: Store) -> None:
        desk = await desk_of(store)
        assert await desk.add(asked()) == Added(1, 0, 0)
        assert await desk.add(asked(), now=_NOW + 20 * _HOUR) == Added(0, 1, 0)
        assert await desk.add(asked("bo@example.com")) == Added(1, 0, 0)
        assert await desk.add(asked(key="other")) == Added(1, 0, 0)
        assert await desk.add(asked(key="a"), asked(key="a")) == Added(1, 1, 0)
        assert len(await desk.deeds()) == 4

    async def test_the_same_key_with_other_content_stores_nothing_of_its_call(
        self, store: Store
    ) -> None:
        desk = await desk_of(store)
        await desk.add(asked())
        assert await desk.add(asked(key="new"), asked(amount=101)) == Conflict(2)
        assert await desk.add(asked(key="x"), asked(key="x", amount=7)) == Conflict(2)
        assert [deed.amount for deed in await desk.deeds()] == [100]

    async def test_a_conflict_leaves_the_other_calls_of_its_group_alone(self, store: Store) -> None:
        desk = await desk_of(store)
        good, bad = desk.call(asked()), desk.call(asked(amount=7))
        again, other = desk.call(asked()), desk.call(asked(key="b"))
        answers = await store.actions.add([good, bad, again, other])
        assert answers == [Added(1, 0, 0), Conflict(1), Added(0, 1, 0), Added(1, 0, 0)]

    async def test_a_key_counts_again_after_its_window(self, store: Store) -> None:
        desk = await desk_of(store)
        window = 25 * _HOUR
        await desk.add(asked(window=window))
        assert await desk.add(asked(window=window), now=_NOW + window) == Added(0, 1, 0)
        assert await desk.add(asked(window=window), now=_NOW + window + 1) == Added(1, 0, 0)
        assert await desk.add(asked(window=window), now=_NOW + window + 2) == Added(0, 1, 0)

    async def test_what_is_learnt_of_a_person_changes_no_identity(self, store: Store) -> None:
        desk = await desk_of(store)
        by_id = Asked(Action("adjust", customer="p7", amount=5), "points/adjust", "1")
        await desk.add(asked(), by_id)
        events = await store.lanes.ensure("acme", "klaviyo", "event")
        seen = Record("k", "x:k", "Added", _NOW, b"{}", person="p7", email="ana@example.com")
        await store.append([Page(events, "webhook", [seen], _NOW)])
        assert await desk.add(asked(), by_id) == Added(0, 2, 0)

    async def test_many_at_the_same_instant_are_one(self, store: Store) -> None:
        desk = await desk_of(store)
        answers = await asyncio.gather(*(desk.add(asked()) for _ in range(8)))
        assert sorted(a.accepted for a in answers if isinstance(a, Added)) == [0] * 7 + [1]

    # ── the mark, and what is not known ──────────────────────────────────────────────────────────

    async def test_a_claim_is_the_mark_and_what_is_accepted_is_applied(self, store: Store) -> None:
        desk = await desk_of(store)
        await desk.add(asked())
        claim = await desk.take(_NOW + 5)
        assert (await desk.one()).sent_at == _NOW + 5
        [entry] = claim.entries
        assert (entry.name, entry.email, entry.solo) == ("increase", "ana@example.com", False)
        assert await desk.settle(claim, Accepted(entry.seq, "r1", "their-7"), now=_NOW + 9) == 1
        deed = await desk.one()
        assert REFERENCE.fullmatch(deed.ours)
        assert (deed.state, deed.theirs, deed.settled_at) == ("applied", "their-7", _NOW + 9)
        assert await desk.settle(claim, Dead(entry.seq, Problem.PLATFORM_REFUSED)) == 0
        assert (await desk.one()).state == "applied"

    async def test_a_doubt_is_looked_up_at_the_promised_times(self, store: Store) -> None:
        desk = await desk_of(store)
        await desk.add(asked())
        claim = await desk.take()
        [entry] = claim.entries
        doubt = Doubt(entry.seq, Problem.TIMED_OUT, after=99.0, request="r1")
        await desk.settle(claim, doubt, now=_NOW + 30)
        sent = _NOW
        for due, following in ((_NOW + 30, sent + 60_000), (sent + 60_000, sent + 600_000)):
            assert await desk.ready(due) == (0, 1, None)
            assert (await desk.one()).state == "uncertain"
            look = await desk.take(due, solo=True)
            assert look.entries[0].solo
            await desk.settle(look, Absent(entry.seq), now=due)
            assert await desk.ready(due) == (0, 0, following)
        assert (await store.actions.uncertain()) == {"acme": 1}

    async def test_absent_at_the_last_look_it_goes_once_more_and_then_waits_for_a_person(
        self, store: Store
    ) -> None:
        desk = await desk_of(store)
        await desk.add(asked())
        for turn in (0, 1):
            start = _NOW + turn * _HOUR
            claim = await desk.take(start)
            seq = claim.entries[0].seq
            await desk.settle(claim, Doubt(seq, Problem.SERVER_FAULT), now=start)
            for after in _LOOK_UPS:
                look = await desk.take(start + after, solo=True)
                await desk.settle(look, Absent(seq), now=start + after)
        deed = await desk.one()
        assert (deed.state, deed.problem, deed.resent) == ("uncertain", "A10", True)
        assert deed.settled_at is not None
        assert await desk.ready(_NOW + 9 * _HOUR) == (0, 0, None)

    async def test_what_is_found_is_applied_and_what_cannot_be_told_waits_for_a_person(
        self, store: Store
    ) -> None:
        desk = await desk_of(store)
        await desk.add(asked(key="a"))
        await desk.add(asked("bo@example.com", key="b"))
        claim = await desk.take()
        await desk.settle(claim, *(Doubt(e.seq, Problem.TIMED_OUT) for e in claim.entries))
        look = await desk.take(solo=True)
        first, second = (e.seq for e in look.entries)
        parked = Held(second, Problem.ACTION_UNCERTAIN, "no look-up")
        await desk.settle(look, Accepted(first, ""), parked)
        assert [d.state for d in await desk.deeds()] == ["applied", "uncertain"]
        assert await store.actions.uncertain() == {"acme": 1}
        assert await desk.claim(_NOW + _HOUR, solo=True) is None

    async def test_what_a_dead_holder_had_claimed_is_looked_up_not_sent(self, store: Store) -> None:
        desk = await desk_of(store)
        await desk.add(asked())
        claim = await desk.take()
        assert await store.actions.recover(desk.fence, now=_NOW) == 1
        assert await desk.ready() == (0, 1, None)
        assert await desk.claim() is None
        seq = claim.entries[0].seq
        late = Accepted(seq, "r9")
        assert await desk.settle(claim, late, now=_NOW + 7) == 0
        deed = await desk.one()
        assert deed.state == "uncertain"
        assert deed.evidence is not None
        assert '"answer":"accepted"' in deed.evidence
        assert '"request":"r9"' in deed.evidence

    async def test_a_look_up_that_fails_is_asked_again_and_never_becomes_a_send(
        self, store: Store
    ) -> None:
        desk = await desk_of(store)
        await desk.add(asked())
        claim = await desk.take()
        seq = claim.entries[0].seq
        await desk.settle(claim, Doubt(seq, Problem.TIMED_OUT))
        for outcome in (
            Retry(seq, Problem.PLATFORM_UNAVAILABLE, 1.0),
            Doubt(seq, Problem.INTERRUPTED, 1.0),
            Unsent(seq),
        ):
            look = await desk.take(_NOW + 5_000, solo=True)
            await desk.settle(look, outcome, now=_NOW)
            assert await desk.ready(_NOW + 5_000) == (0, 1, None)
        over = _NOW + 2 * _HORIZON
        look = await desk.take(over, solo=True)
        await desk.settle(look, Retry(seq, Problem.PLATFORM_UNAVAILABLE), now=over)
        assert (await desk.one()).problem == "A10"

    async def test_certainly_not_applied_goes_again_until_the_horizon(self, store: Store) -> None:
        desk = await desk_of(store)
        await desk.add(asked())
        claim = await desk.take()
        seq = claim.entries[0].seq
        await desk.settle(claim, Retry(seq, Problem.PLATFORM_THROTTLED, 2.0))
        deed = await desk.one()
        assert (deed.state, deed.sent_at) == ("waiting", None)
        assert await desk.ready() == (0, 0, _NOW + 2_000)
        again = await desk.take(_NOW + _HORIZON)
        await desk.settle(again, Retry(seq, Problem.PLATFORM_THROTTLED), now=_NOW + _HORIZON)
        deed = await desk.one()
        assert (deed.state, deed.problem) == ("refused", "L20")

    async def test_refused_is_refused_and_unsent_was_never_sent(self, store: Store) -> None:
        desk = await desk_of(store)
        await desk.add(asked())
        claim = await desk.take()
        seq = claim.entries[0].seq
        await desk.settle(claim, Unsent(seq))
        assert (await desk.one()).sent_at is None
        claim = await desk.take()
        assert claim.entries[0].attempts == 1
        await desk.settle(claim, Dead(seq, Problem.PLATFORM_REFUSED, "HTTP 422", "r1"))
        deed = await desk.one()
        assert (deed.state, deed.problem, deed.detail) == ("refused", "P400", "HTTP 422")

    # ── order ────────────────────────────────────────────────────────────────────────────────────

    async def test_one_person_s_actions_start_in_order_and_others_do_not_wait(
        self, store: Store
    ) -> None:
        desk = await desk_of(store)
        await desk.add(asked(key="1"), asked(key="2"), asked("bo@example.com", key="3"))
        claim = await desk.take()
        assert [entry.email for entry in claim.entries] == ["ana@example.com", "bo@example.com"]
        first, other = (entry.seq for entry in claim.entries)
        assert await desk.ready() == (0, 0, None)
        retry = Retry(first, Problem.PLATFORM_THROTTLED, 5.0)
        await desk.settle(claim, retry, Accepted(other, "r"))
        assert await desk.ready() == (0, 0, _NOW + 5_000)
        claim = await desk.take(_NOW + 5_000)
        assert [entry.seq for entry in claim.entries] == [first]
        await desk.settle(claim, Accepted(first, "r"))
        assert await desk.ready() == (1, 0, None)

    async def test_an_uncertain_or_held_one_does_not_hold_back_later_ones(
        self, store: Store
    ) -> None:
        desk = await desk_of(store)
        await desk.add(asked(key="1"), asked(key="2"), asked(key="3"))
        claim = await desk.take()
        await desk.settle(claim, Doubt(claim.entries[0].seq, Problem.TIMED_OUT))
        assert await desk.ready() == (1, 1, None)
        look = await desk.take(solo=True)
        claim = await desk.take()
        await desk.settle(claim, Held(claim.entries[0].seq, Problem.ACTION_PERSON))
        await desk.settle(look, Held(look.entries[0].seq, Problem.ACTION_UNCERTAIN))
        assert await desk.ready() == (1, 0, None)

    async def test_a_person_seen_by_id_and_by_address_is_one_in_order(self, store: Store) -> None:
        desk = await desk_of(store)
        events = await store.lanes.ensure("acme", "klaviyo", "event")
        seen = Record("k", "x:k", "Added", _NOW, b"{}", person="p7", email="ana@example.com")
        await store.append([Page(events, "webhook", [seen], _NOW)])
        by_id = Asked(Action("adjust", customer="p7", amount=5), "points/adjust", "1")
        await desk.add(by_id, asked(key="2"))
        claim = await desk.take()
        assert [e.email for e in claim.entries] == ["ana@example.com"]
        assert b'"person":"p7"' in claim.entries[0].data
        assert await store.actions.platform_id("acme", "ana@example.com") == "p7"
        [person] = await store.insight.people("acme", "p7")
        story = await store.insight.person(person, 10)
        assert [m.what for m in story.moments] == ["event", "action", "action"]

    # ── caps ─────────────────────────────────────────────────────────────────────────────────────

    async def test_more_than_a_day_may_hold_for_a_person_waits(self, store: Store) -> None:
        desk = await desk_of(store)
        caps = Caps(per_person=2)
        keys = [asked(key=str(n)) for n in range(3)]
        assert await desk.add(*keys, caps=caps) == Added(2, 0, 1)
        assert await desk.add(asked(key="3"), caps=caps) == Added(0, 0, 1)
        assert await desk.add(asked(name="push", amount=0, key="p"), caps=caps) == Added(1, 0, 0)
        assert await desk.add(asked("bo@example.com", key="3"), caps=caps) == Added(1, 0, 0)
        tomorrow = _NOW + 24 * _HOUR + 1
        assert await desk.add(asked(key="4"), caps=caps, now=tomorrow) == Added(1, 0, 0)
        [question] = await store.approvals.find()
        assert (question.what, question.subject) == ("cap", "daily_per_person")
        assert question.detail == {"adjustments": 2, "people": 1, "points": 200}

    async def test_more_points_than_a_day_may_hold_wait(self, store: Store) -> None:
        desk = await desk_of(store)
        caps = Caps(per_person=20, total=250)
        assert await desk.add(asked(key="1"), asked(key="2"), caps=caps) == Added(2, 0, 0)
        assert await desk.add(asked(key="3", amount=-51), caps=caps) == Added(0, 0, 1)
        assert await desk.add(asked(key="4", amount=-50), caps=caps) == Added(1, 0, 0)
        [question] = await store.approvals.find()
        assert question.subject == "daily_total"

    async def test_a_yes_releases_what_is_held_and_a_no_refuses_it(self, store: Store) -> None:
        desk = await desk_of(store)
        caps = Caps(per_person=1)
        for approved, word in ((True, "waiting"), (False, "discarded")):
            who = f"{word}@example.com"
            await desk.add(*(asked(who, key=str(n)) for n in range(3)), caps=caps)
            [question] = await store.approvals.find()
            answer = await store.approvals.decide(
                question.id, approved=approved, by="ana", now=_NOW
            )
            assert answer
            late = _NOW + 5
            await desk.add(asked(who, key="late"), caps=caps, now=late)
            assert await store.actions.answer_cap(desk.lane, answer, now=Millis(late)) == 2
            states = [d.state for d in await desk.deeds() if d.who == who]
            assert states == ["waiting", word, word, "held"]
            [anew] = await store.approvals.find()
            assert anew.detail["adjustments"] == 1
            closed = await store.approvals.decide(anew.id, approved=False, by="ana", now=_NOW)
            assert closed
            await store.actions.answer_cap(
                desk.lane, replace(closed, decided_at=Millis(late)), now=_NOW
            )
            assert not await store.approvals.find(pending=False)

    # ── what a person decides ────────────────────────────────────────────────────────────────────

    async def test_a_person_decides_what_became_of_an_uncertain_one(self, store: Store) -> None:
        desk = await desk_of(store)
        for number, word in enumerate(("applied", "refuse", "again")):
            await desk.add(asked(f"{word}@example.com", key=str(number)))
        claim = await desk.take()
        await desk.settle(claim, *(Doubt(e.seq, Problem.TIMED_OUT) for e in claim.entries))
        look = await desk.take(solo=True)
        busy = await store.actions.decide(look.entries[0].seq, "applied", by="ana", now=_NOW)
        assert isinstance(busy, str)
        parked = [Held(e.seq, Problem.ACTION_UNCERTAIN) for e in look.entries]
        await desk.settle(look, *parked)
        ids = [deed.id for deed in await desk.deeds()]
        for id, word in zip(ids, ("applied", "refuse", "again"), strict=True):
            said = await store.actions.decide(id, word, by="ana", now=_NOW)  # type: ignore[arg-type]
            assert isinstance(said, Deed)
            assert said.decided_by == "ana"
        assert [d.state for d in await desk.deeds()] == ["applied", "discarded", "waiting"]
        claim = await desk.take()
        assert [e.seq for e in claim.entries] == ids[2:]
        for id in (*ids, 999):
            assert isinstance(await store.actions.decide(id, "applied", by="ana", now=_NOW), str)

    async def test_a_person_sends_a_held_one_or_stops_a_waiting_one(self, store: Store) -> None:
        desk = await desk_of(store)
        await desk.add(asked(key="1"), asked(key="2"), caps=Caps(per_person=1))
        first, second = (deed.id for deed in await desk.deeds())
        assert isinstance(await store.actions.decide(first, "refuse", by="a", now=_NOW), Deed)
        assert isinstance(await store.actions.decide(second, "again", by="a", now=_NOW), Deed)
        assert [d.state for d in await desk.deeds()] == ["discarded", "waiting"]

    async def test_one_held_for_its_person_goes_once_he_is_seen(self, store: Store) -> None:
        desk = await desk_of(store)
        await desk.add(asked())
        claim = await desk.take()
        await desk.settle(claim, Held(claim.entries[0].seq, Problem.ACTION_PERSON))
        assert await store.actions.resume_found(desk.lane.id, now=Millis(_NOW + 1)) == 0
        events = await store.lanes.ensure("acme", "klaviyo", "event")
        seen = Record("k", "x:k", "Added", _NOW, b"{}", person="p7", email="ana@example.com")
        await store.append([Page(events, "webhook", [seen], Millis(_NOW + 2))])
        assert await store.actions.resume_found(desk.lane.id, now=Millis(_NOW + 3)) == 1
        claim = await desk.take(_NOW + 3)
        assert b'"person":"p7"' in claim.entries[0].data

    async def test_of_a_forgotten_person_nothing_is_sent_or_kept(self, store: Store) -> None:
        desk = await desk_of(store)
        await desk.add(asked())
        await store.erasure.forget("acme", "ana@example.com", now=_NOW)
        assert await desk.add(asked()) == Added(0, 1, 0)
        assert await desk.add(asked(key="new"), asked("bo@example.com", key="b")) == Added(2, 0, 0)
        assert await desk.add(asked(key="new")) == Added(0, 1, 0)
        states = [(deed.state, deed.who) for deed in await desk.deeds()]
        assert states == [("discarded", ""), ("skipped", ""), ("waiting", "bo@example.com")]
        assert await store.insight.people("acme", "ana@example.com") == []

    # ── afterwards ───────────────────────────────────────────────────────────────────────────────

    async def test_only_what_is_settled_and_old_is_forgotten(self, store: Store) -> None:
        desk = await desk_of(store)
        await desk.add(asked(key="1"), asked(key="2"))
        claim = await desk.take()
        await desk.settle(claim, Accepted(claim.entries[0].seq, "r"))
        assert await store.actions.forget(before=_NOW, limit=10) == 0
        assert await store.actions.forget(before=Millis(_NOW + 1), limit=10) == 1
        assert await desk.add(asked(key="1")) == Added(1, 0, 0)
        assert await desk.add(asked(key="2")) == Added(0, 1, 0)

    async def test_uncertain_and_held_ones_are_listed_first(self, store: Store) -> None:
        desk = await desk_of(store)
        await desk.add(asked(key="1"), asked("bo@example.com", key="2"), asked(key="3"))
        claim = await desk.take()
        parked = Held(claim.entries[0].seq, Problem.ACTION_UNCERTAIN)
        await desk.settle(claim, parked, Accepted(claim.entries[1].seq, "r"))
        found = await store.actions.find(connection="acme")
        assert [deed.state for deed in found] == ["uncertain", "waiting", "applied"]
        assert [deed.id for deed in await store.actions.find(stuck=True)] == [found[0].id]
        assert not await store.actions.find(connection="other")

    async def test_backlog_and_pace_speak_of_actions(self, store: Store) -> None:
        desk = await desk_of(store)
        await desk.add(asked(key="1"), asked("bo@example.com", key="2"))
        claim = await desk.take()
        await desk.settle(claim, Dead(claim.entries[0].seq, Problem.PLATFORM_REFUSED))
        [backlog] = await store.insight.backlog()
        assert (backlog.ready, backlog.claimed, backlog.dead) == (0, 1, 1)
        assert await store.insight.dead_by_cause() == [("acme", "P400", 1)]
        assert (await store.actions.pace(desk.lane.id, now=_NOW)).waiting == 0
