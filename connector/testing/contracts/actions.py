"""The contract of every store of actions (guarantee 4). Run it with a `store` fixture."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from connector.domain.actions import (
    REF_PATTERN,
    Action,
    ActionBatch,
    ActionReceipt,
    ActionRequest,
    Caps,
    Conflict,
)
from connector.domain.errors import Problem
from connector.domain.lanes import DeliveryMode, Lane, Millis
from connector.domain.outcomes import (
    Absent,
    Accepted,
    Ambiguous,
    Dead,
    Held,
    Outcome,
    Retry,
    Unsent,
)
from connector.domain.records import Claim, Page, Record, State
from connector.ports import (
    ActionPosition,
    ActionView,
    Decision,
    Fence,
    RetryPolicy,
    Store,
    StuckGroup,
)
from connector.testing.fakes.clock import START

_NOW = Millis(START)
_HORIZON = 1_000_000
_LOOK_UPS = (0, 60_000, 600_000)
_CAPS = Caps(per_person=20)
_HOUR = 3_600_000


def make_request(
    email: str = "ana@example.com",
    amount: int = 100,
    *,
    key: str = "k",
    window: int | None = None,
    name: str = "increase",
) -> ActionRequest:
    """An adjustment by this key."""
    action = Action("push" if name == "push" else "increase", email=email, amount=amount)
    return ActionRequest(replace(action, reason="Welcome"), "balance/increase", key, window)


class ActionHarness:
    """A lane of actions whose claims and outcomes the test decides."""

    def __init__(self, store: Store, lane: Lane, fence: Fence) -> None:
        self.store, self.lane, self.fence = store, lane, fence
        self.queue = store.actions
        self.version = ""
        """What actions are claimed with."""

    def call(self, *actions: ActionRequest, now: int = _NOW, caps: Caps = _CAPS) -> ActionBatch:
        return ActionBatch(self.lane, "flow", actions, Millis(now), caps)

    async def add(
        self, *actions: ActionRequest, now: int = _NOW, caps: Caps = _CAPS
    ) -> ActionReceipt | Conflict:
        [answer] = await self.store.action_intake.add([self.call(*actions, now=now, caps=caps)])
        return answer

    async def ready(self, now: int = _NOW) -> tuple[int, int, Millis | None]:
        found = await self.queue.ready(self.lane.id, now=Millis(now), limit=50)
        return found.batch, found.single, found.next_due

    async def claim(
        self, now: int = _NOW, *, mode: DeliveryMode = DeliveryMode.BATCH, limit: int = 50
    ) -> Claim | None:
        return await self.queue.claim(
            self.lane, self.fence, now=Millis(now), limit=limit, mode=mode, mapping=self.version
        )

    async def must_claim(
        self, now: int = _NOW, *, mode: DeliveryMode = DeliveryMode.BATCH
    ) -> Claim:
        claim = await self.claim(now, mode=mode)
        assert claim
        return claim

    async def settle(self, claim: Claim, *outcomes: Outcome, now: int = _NOW) -> int:
        settled = await self.queue.settle(
            claim, outcomes, now=Millis(now), policy=RetryPolicy(_HORIZON, _LOOK_UPS)
        )
        return settled.changed

    async def all_actions(self) -> Sequence[ActionView]:
        return sorted(await self.store.action_views.find(), key=lambda view: view.id)

    async def one(self) -> ActionView:
        [view] = await self.all_actions()
        return view


async def make_harness(store: Store, connection: str = "acme") -> ActionHarness:
    lane = await store.lanes.ensure(connection, "yotpo", "action")
    fence = await store.leases.acquire("store", "us", now=_NOW, ttl=100 * _HOUR)
    assert isinstance(fence, Fence)
    return ActionHarness(store, lane, fence)


class ActionsContract:
    """Subclass it beside a fixture `store` that yields an empty store."""

    # ── identity ─────────────────────────────────────────────────────────────────────────────────

    async def test_the_same_key_and_content_is_one_action(self, store: Store) -> None:
        harness = await make_harness(store)
        assert await harness.add(make_request()) == ActionReceipt(1, 0, 0)
        assert await harness.add(make_request(), now=_NOW + 20 * _HOUR) == ActionReceipt(0, 1, 0)
        assert await harness.add(make_request("bo@example.com")) == ActionReceipt(1, 0, 0)
        assert await harness.add(make_request(key="other")) == ActionReceipt(1, 0, 0)
        assert await harness.add(make_request(key="a"), make_request(key="a")) == ActionReceipt(
            1, 1, 0
        )
        assert len(await harness.all_actions()) == 4

    async def test_the_same_key_with_different_content_stores_nothing_of_its_request(
        self, store: Store
    ) -> None:
        harness = await make_harness(store)
        await harness.add(make_request())
        assert await harness.add(make_request(key="new"), make_request(amount=101)) == Conflict(2)
        assert await harness.add(
            make_request(key="x"), make_request(key="x", amount=7)
        ) == Conflict(2)
        assert [view.amount for view in await harness.all_actions()] == [100]

    async def test_a_conflict_does_not_affect_other_requests_in_the_commit(
        self, store: Store
    ) -> None:
        harness = await make_harness(store)
        good, bad = harness.call(make_request()), harness.call(make_request(amount=7))
        again, other = harness.call(make_request()), harness.call(make_request(key="b"))
        answers = await store.action_intake.add([good, bad, again, other])
        assert answers == [
            ActionReceipt(1, 0, 0),
            Conflict(1),
            ActionReceipt(0, 1, 0),
            ActionReceipt(1, 0, 0),
        ]

    async def test_a_key_can_be_reused_after_its_window(self, store: Store) -> None:
        harness = await make_harness(store)
        window = 25 * _HOUR
        await harness.add(make_request(window=window))
        assert await harness.add(make_request(window=window), now=_NOW + window) == ActionReceipt(
            0, 1, 0
        )
        assert await harness.add(
            make_request(window=window), now=_NOW + window + 1
        ) == ActionReceipt(1, 0, 0)
        assert await harness.add(
            make_request(window=window), now=_NOW + window + 2
        ) == ActionReceipt(0, 1, 0)

    async def test_identifiers_learned_later_do_not_change_the_dedupe_identity(
        self, store: Store
    ) -> None:
        harness = await make_harness(store)
        by_id = ActionRequest(Action("adjust", customer="p7", amount=5), "points/adjust", "1")
        await harness.add(make_request(), by_id)
        events = await store.lanes.ensure("acme", "klaviyo", "event")
        observation = Record("k", "x:k", "Added", _NOW, b"{}", person="p7", email="ana@example.com")
        await store.outbox.append([Page(events, "webhook", [observation], _NOW)])
        assert await harness.add(make_request(), by_id) == ActionReceipt(0, 2, 0)

    async def test_concurrent_duplicates_are_stored_once(self, store: Store) -> None:
        harness = await make_harness(store)
        answers = await asyncio.gather(*(harness.add(make_request()) for _ in range(8)))
        assert sorted(a.accepted for a in answers if isinstance(a, ActionReceipt)) == [0] * 7 + [1]

    # ── the mark, and what is not known ──────────────────────────────────────────────────────────

    async def test_a_claim_marks_the_action_as_sent_and_acceptance_applies_it(
        self, store: Store
    ) -> None:
        harness = await make_harness(store)
        await harness.add(make_request())
        claim = await harness.must_claim(_NOW + 5)
        assert (await harness.one()).sent_at == _NOW + 5
        [entry] = claim.entries
        assert (entry.name, entry.email) == ("increase", "ana@example.com")
        assert entry.mode is DeliveryMode.BATCH
        assert await harness.settle(claim, Accepted(entry.seq, "r1", "their-7"), now=_NOW + 9) == 1
        view = await harness.one()
        assert REF_PATTERN.fullmatch(view.ref.encode())
        assert (view.state, view.platform_ref, view.settled_at) == (
            "applied",
            "their-7",
            _NOW + 9,
        )
        assert await harness.settle(claim, Dead(entry.seq, Problem.PLATFORM_REFUSED)) == 0
        assert (await harness.one()).state == "applied"

    async def test_an_ambiguous_action_is_looked_up_at_the_guaranteed_times(
        self, store: Store
    ) -> None:
        harness = await make_harness(store)
        await harness.add(make_request())
        claim = await harness.must_claim()
        [entry] = claim.entries
        ambiguous = Ambiguous(entry.seq, Problem.TIMED_OUT, after=99.0, request="r1")
        await harness.settle(claim, ambiguous, now=_NOW + 30)
        sent = _NOW
        for due, following in ((_NOW + 30, sent + 60_000), (sent + 60_000, sent + 600_000)):
            assert await harness.ready(due) == (0, 1, None)
            assert (await harness.one()).state == "uncertain"
            look = await harness.must_claim(due, mode=DeliveryMode.SINGLE)
            assert look.entries[0].mode is DeliveryMode.SINGLE
            await harness.settle(look, Absent(entry.seq), now=due)
            assert await harness.ready(due) == (0, 0, following)
        assert (await store.action_views.uncertain()) == {"acme": 1}

    async def test_an_action_absent_at_the_last_lookup_is_sent_once_more_then_parked(
        self, store: Store
    ) -> None:
        harness = await make_harness(store)
        await harness.add(make_request())
        for turn in (0, 1):
            start = _NOW + turn * _HOUR
            claim = await harness.must_claim(start)
            seq = claim.entries[0].seq
            await harness.settle(claim, Ambiguous(seq, Problem.SERVER_FAULT), now=start)
            for after in _LOOK_UPS:
                look = await harness.must_claim(start + after, mode=DeliveryMode.SINGLE)
                await harness.settle(look, Absent(seq), now=start + after)
        view = await harness.one()
        assert (view.state, view.problem, view.resent) == (
            "uncertain",
            "A10",
            True,
        )
        assert view.settled_at is not None
        assert await harness.ready(_NOW + 9 * _HOUR) == (0, 0, None)

    async def test_a_look_up_has_the_version_that_the_action_was_last_sent_with(
        self, store: Store
    ) -> None:
        harness = await make_harness(store)
        await harness.add(make_request())
        for turn, version in enumerate(("one", "two")):
            start = _NOW + turn * _HOUR
            harness.version = version
            claim = await harness.must_claim(start)
            seq = claim.entries[0].seq
            await harness.settle(claim, Ambiguous(seq, Problem.SERVER_FAULT), now=start)
            harness.version = "of a look-up"
            for after in _LOOK_UPS:
                look = await harness.must_claim(start + after, mode=DeliveryMode.SINGLE)
                assert look.entries[0].mapping == version
                await harness.settle(look, Absent(seq), now=start + after)

    async def test_a_found_action_is_applied_and_an_unknowable_one_is_parked(
        self, store: Store
    ) -> None:
        harness = await make_harness(store)
        await harness.add(make_request(key="a"))
        await harness.add(make_request("bo@example.com", key="b"))
        claim = await harness.must_claim()
        await harness.settle(claim, *(Ambiguous(e.seq, Problem.TIMED_OUT) for e in claim.entries))
        look = await harness.must_claim(mode=DeliveryMode.SINGLE)
        first, second = (e.seq for e in look.entries)
        parked = Held(second, Problem.ACTION_UNCERTAIN, "no look-up")
        await harness.settle(look, Accepted(first, ""), parked)
        assert [d.state for d in await harness.all_actions()] == ["applied", "uncertain"]
        assert await store.action_views.uncertain() == {"acme": 1}
        assert await harness.claim(_NOW + _HOUR, mode=DeliveryMode.SINGLE) is None

    async def test_actions_claimed_by_a_dead_holder_are_looked_up_not_resent(
        self, store: Store
    ) -> None:
        harness = await make_harness(store)
        await harness.add(make_request())
        claim = await harness.must_claim()
        assert await store.actions.recover(harness.fence, now=_NOW) == 1
        assert await harness.ready() == (0, 1, None)
        assert await harness.claim() is None
        seq = claim.entries[0].seq
        late = Accepted(seq, "r9")
        assert await harness.settle(claim, late, now=_NOW + 7) == 0
        view = await harness.one()
        assert view.state == "uncertain"
        assert view.evidence is not None
        assert '"answer":"accepted"' in view.evidence
        assert '"request":"r9"' in view.evidence

    async def test_a_failed_lookup_is_retried_and_never_becomes_a_send(self, store: Store) -> None:
        harness = await make_harness(store)
        await harness.add(make_request())
        claim = await harness.must_claim()
        seq = claim.entries[0].seq
        await harness.settle(claim, Ambiguous(seq, Problem.TIMED_OUT))
        for outcome in (
            Retry(seq, Problem.PLATFORM_UNAVAILABLE, 1.0),
            Ambiguous(seq, Problem.INTERRUPTED, 1.0),
            Unsent(seq),
        ):
            look = await harness.must_claim(_NOW + 5_000, mode=DeliveryMode.SINGLE)
            await harness.settle(look, outcome, now=_NOW)
            assert await harness.ready(_NOW + 5_000) == (0, 1, None)
        over = _NOW + 2 * _HORIZON
        look = await harness.must_claim(over, mode=DeliveryMode.SINGLE)
        await harness.settle(look, Retry(seq, Problem.PLATFORM_UNAVAILABLE), now=over)
        assert (await harness.one()).problem == "A10"

    async def test_an_action_known_not_applied_is_retried_until_the_horizon(
        self, store: Store
    ) -> None:
        harness = await make_harness(store)
        await harness.add(make_request())
        claim = await harness.must_claim()
        seq = claim.entries[0].seq
        await harness.settle(claim, Retry(seq, Problem.PLATFORM_THROTTLED, 2.0))
        view = await harness.one()
        assert (view.state, view.sent_at) == ("waiting", None)
        assert await harness.ready() == (0, 0, _NOW + 2_000)
        again = await harness.must_claim(_NOW + _HORIZON)
        await harness.settle(again, Retry(seq, Problem.PLATFORM_THROTTLED), now=_NOW + _HORIZON)
        view = await harness.one()
        assert (view.state, view.problem) == ("refused", "L20")

    async def test_a_refused_action_stays_refused_and_an_unsent_one_is_ready_again(
        self, store: Store
    ) -> None:
        harness = await make_harness(store)
        await harness.add(make_request())
        claim = await harness.must_claim()
        seq = claim.entries[0].seq
        await harness.settle(claim, Unsent(seq))
        assert (await harness.one()).sent_at is None
        claim = await harness.must_claim()
        assert claim.entries[0].attempts == 1
        await harness.settle(claim, Dead(seq, Problem.PLATFORM_REFUSED, "HTTP 422", "r1"))
        view = await harness.one()
        assert (view.state, view.problem, view.detail) == (
            "refused",
            "P400",
            "HTTP 422",
        )

    # ── order ────────────────────────────────────────────────────────────────────────────────────

    async def test_one_persons_actions_start_in_order_and_do_not_block_others(
        self, store: Store
    ) -> None:
        harness = await make_harness(store)
        await harness.add(
            make_request(key="1"), make_request(key="2"), make_request("bo@example.com", key="3")
        )
        claim = await harness.must_claim()
        assert [entry.email for entry in claim.entries] == ["ana@example.com", "bo@example.com"]
        first, other = (entry.seq for entry in claim.entries)
        assert await harness.ready() == (0, 0, None)
        retry = Retry(first, Problem.PLATFORM_THROTTLED, 5.0)
        await harness.settle(claim, retry, Accepted(other, "r"))
        assert await harness.ready() == (0, 0, _NOW + 5_000)
        claim = await harness.must_claim(_NOW + 5_000)
        assert [entry.seq for entry in claim.entries] == [first]
        await harness.settle(claim, Accepted(first, "r"))
        assert await harness.ready() == (1, 0, None)

    async def test_an_ambiguous_or_held_action_does_not_block_later_ones(
        self, store: Store
    ) -> None:
        harness = await make_harness(store)
        await harness.add(make_request(key="1"), make_request(key="2"), make_request(key="3"))
        claim = await harness.must_claim()
        await harness.settle(claim, Ambiguous(claim.entries[0].seq, Problem.TIMED_OUT))
        assert await harness.ready() == (1, 1, None)
        look = await harness.must_claim(mode=DeliveryMode.SINGLE)
        claim = await harness.must_claim()
        await harness.settle(claim, Held(claim.entries[0].seq, Problem.ACTION_PERSON))
        await harness.settle(look, Held(look.entries[0].seq, Problem.ACTION_UNCERTAIN))
        assert await harness.ready() == (1, 0, None)

    async def test_actions_by_id_and_by_address_share_one_persons_order(self, store: Store) -> None:
        harness = await make_harness(store)
        events = await store.lanes.ensure("acme", "klaviyo", "event")
        observation = Record("k", "x:k", "Added", _NOW, b"{}", person="p7", email="ana@example.com")
        await store.outbox.append([Page(events, "webhook", [observation], _NOW)])
        by_id = ActionRequest(Action("adjust", customer="p7", amount=5), "points/adjust", "1")
        await harness.add(by_id, make_request(key="2"))
        claim = await harness.must_claim()
        assert [e.email for e in claim.entries] == ["ana@example.com"]
        assert b'"person":"p7"' in claim.entries[0].data
        [person] = await store.timelines.find("acme", "p7")
        found = await store.timelines.person(person, 10)
        assert [m.kind for m in found.timeline] == ["event", "action", "action"]

    # ── caps ─────────────────────────────────────────────────────────────────────────────────────

    async def test_actions_above_the_daily_cap_per_person_are_held(self, store: Store) -> None:
        harness = await make_harness(store)
        caps = Caps(per_person=2)
        keys = [make_request(key=str(n)) for n in range(3)]
        assert await harness.add(*keys, caps=caps) == ActionReceipt(2, 0, 1)
        assert await harness.add(make_request(key="3"), caps=caps) == ActionReceipt(0, 0, 1)
        assert await harness.add(
            make_request(name="push", amount=0, key="p"), caps=caps
        ) == ActionReceipt(1, 0, 0)
        assert await harness.add(
            make_request("bo@example.com", key="3"), caps=caps
        ) == ActionReceipt(1, 0, 0)
        tomorrow = _NOW + 24 * _HOUR + 1
        assert await harness.add(make_request(key="4"), caps=caps, now=tomorrow) == ActionReceipt(
            1, 0, 0
        )
        [question] = await store.approvals.find()
        assert (question.what, question.subject) == ("cap", "daily_per_person")
        assert question.detail == {"adjustments": 2, "people": 1, "points": 200}

    async def test_points_above_the_daily_cap_are_held(self, store: Store) -> None:
        harness = await make_harness(store)
        caps = Caps(per_person=20, total=250)
        assert await harness.add(
            make_request(key="1"), make_request(key="2"), caps=caps
        ) == ActionReceipt(2, 0, 0)
        assert await harness.add(make_request(key="3", amount=-51), caps=caps) == ActionReceipt(
            0, 0, 1
        )
        assert await harness.add(make_request(key="4", amount=-50), caps=caps) == ActionReceipt(
            1, 0, 0
        )
        [question] = await store.approvals.find()
        assert question.subject == "daily_total"

    async def test_approval_releases_held_actions_and_rejection_refuses_them(
        self, store: Store
    ) -> None:
        harness = await make_harness(store)
        caps = Caps(per_person=1)
        for approved, word in ((True, "waiting"), (False, "discarded")):
            who = f"{word}@example.com"
            await harness.add(*(make_request(who, key=str(n)) for n in range(3)), caps=caps)
            [question] = await store.approvals.find()
            assert not await store.action_decisions.releasable()
            answer = await store.approvals.decide(
                question.id, approved=approved, by="ana", now=_NOW
            )
            assert answer
            assert set(await store.action_decisions.releasable()) == {harness.lane.connection}
            late = _NOW + 5
            await harness.add(make_request(who, key="late"), caps=caps, now=late)
            assert (
                await store.action_decisions.resolve_cap(
                    harness.lane, answer, caps=caps, now=Millis(late)
                )
                == 2
            )
            states = [d.state for d in await harness.all_actions() if d.person == who]
            assert states == ["waiting", word, word, "held"]
            [next_one] = await store.approvals.find()
            assert next_one.detail["adjustments"] == 1
            closed = await store.approvals.decide(next_one.id, approved=False, by="ana", now=_NOW)
            assert closed
            await store.action_decisions.resolve_cap(
                harness.lane, replace(closed, decided_at=Millis(late)), caps=caps, now=_NOW
            )
            assert not await store.approvals.find(pending=False)

    # ── what a person decides ────────────────────────────────────────────────────────────────────

    async def test_an_operator_resolves_an_ambiguous_action(self, store: Store) -> None:
        harness = await make_harness(store)
        decisions: Sequence[Decision] = ("applied", "refuse", "again")
        for number, decision in enumerate(decisions):
            await harness.add(make_request(f"{decision}@example.com", key=str(number)))
        claim = await harness.must_claim()
        await harness.settle(claim, *(Ambiguous(e.seq, Problem.TIMED_OUT) for e in claim.entries))
        look = await harness.must_claim(mode=DeliveryMode.SINGLE)
        busy = await store.action_decisions.decide(
            look.entries[0].seq, "applied", by="ana", now=_NOW
        )
        assert isinstance(busy, str)
        parked = [Held(e.seq, Problem.ACTION_UNCERTAIN) for e in look.entries]
        await harness.settle(look, *parked)
        ids = [view.id for view in await harness.all_actions()]
        for id, decision in zip(ids, decisions, strict=True):
            decided = await store.action_decisions.decide(id, decision, by="ana", now=_NOW)
            assert isinstance(decided, ActionView)
            assert decided.decided_by == "ana"
        assert [d.state for d in await harness.all_actions()] == ["applied", "discarded", "waiting"]
        claim = await harness.must_claim()
        assert [e.seq for e in claim.entries] == ids[2:]
        for id in (*ids, 999):
            assert isinstance(
                await store.action_decisions.decide(id, "applied", by="ana", now=_NOW), str
            )

    async def test_an_operator_sends_a_held_action_or_cancels_a_waiting_one(
        self, store: Store
    ) -> None:
        harness = await make_harness(store)
        await harness.add(make_request(key="1"), make_request(key="2"), caps=Caps(per_person=1))
        first, second = (view.id for view in await harness.all_actions())
        assert isinstance(
            await store.action_decisions.decide(first, "refuse", by="a", now=_NOW), ActionView
        )
        assert isinstance(
            await store.action_decisions.decide(second, "again", by="a", now=_NOW), ActionView
        )
        assert [d.state for d in await harness.all_actions()] == ["discarded", "waiting"]

    async def test_pages_of_actions_begin_with_those_that_need_a_person(self, store: Store) -> None:
        harness = await make_harness(store)
        for number in range(6):
            await harness.add(make_request(key=str(number)), caps=Caps(per_person=4))
        claim = await harness.must_claim()
        [first] = claim.entries
        await harness.settle(claim, Ambiguous(first.seq, Problem.TIMED_OUT))
        whole = [view.id for view in await store.action_views.find()]
        found: list[ActionView] = []
        after: ActionPosition | None = None
        while page := await store.action_views.find(after=after, limit=1):
            found += page
            is_stuck = page[-1].state in ("uncertain", "held")
            after = ActionPosition(page[-1].id, stuck=is_stuck)
            if len(found) == 1:
                # The rest of the list is as it was.
                await store.action_decisions.decide(whole[0], "refuse", by="a", now=_NOW)
        others = [view for view in found if view.id != whole[0]]
        assert [view.id for view in others] == whole[1:]
        states = [view.state for view in others]
        assert sorted(states[:2]) == ["held", "uncertain"]
        assert states[2:] == ["waiting"] * 3
        stuck = await store.action_views.find(stuck=True, after=ActionPosition(10**6, stuck=True))
        assert [view.id for view in stuck] == whole[1:3]

    async def test_an_action_held_for_an_unknown_person_is_released_once_they_are_known(
        self, store: Store
    ) -> None:
        harness = await make_harness(store)
        await harness.add(make_request())
        claim = await harness.must_claim()
        await harness.settle(claim, Held(claim.entries[0].seq, Problem.ACTION_PERSON))
        assert (
            await store.action_decisions.release_identified(
                harness.lane, caps=_CAPS, now=Millis(_NOW + 1)
            )
            == 0
        )
        assert not await store.action_decisions.releasable()
        events = await store.lanes.ensure("acme", "klaviyo", "event")
        observation = Record("k", "x:k", "Added", _NOW, b"{}", person="p7", email="ana@example.com")
        await store.outbox.append([Page(events, "webhook", [observation], Millis(_NOW + 2))])
        assert set(await store.action_decisions.releasable()) == {"acme"}
        assert (
            await store.action_decisions.release_identified(
                harness.lane, caps=_CAPS, now=Millis(_NOW + 3)
            )
            == 1
        )
        assert not await store.action_decisions.releasable()
        claim = await harness.must_claim(_NOW + 3)
        assert b'"person":"p7"' in claim.entries[0].data

    async def test_nothing_is_sent_or_kept_for_an_erased_person(self, store: Store) -> None:
        harness = await make_harness(store)
        await harness.add(make_request())
        await store.erasure.forget("acme", "ana@example.com", now=_NOW)
        assert await harness.add(make_request()) == ActionReceipt(0, 1, 0)
        assert await harness.add(
            make_request(key="new"), make_request("bo@example.com", key="b")
        ) == ActionReceipt(2, 0, 0)
        assert await harness.add(make_request(key="new")) == ActionReceipt(0, 1, 0)
        states = [(view.state, view.person) for view in await harness.all_actions()]
        assert states == [("discarded", ""), ("skipped", ""), ("waiting", "bo@example.com")]
        assert await store.timelines.find("acme", "ana@example.com") == []

    # ── afterwards ───────────────────────────────────────────────────────────────────────────────

    async def test_only_old_settled_actions_are_pruned(self, store: Store) -> None:
        harness = await make_harness(store)
        await harness.add(make_request(key="1"), make_request(key="2"))
        claim = await harness.must_claim()
        await harness.settle(claim, Accepted(claim.entries[0].seq, "r"))
        assert await store.actions.prune(before=_NOW, limit=10) == 0
        assert await store.actions.prune(before=Millis(_NOW + 1), limit=10) == 1
        assert await harness.add(make_request(key="1")) == ActionReceipt(1, 0, 0)
        assert await harness.add(make_request(key="2")) == ActionReceipt(0, 1, 0)

    async def test_ambiguous_and_held_actions_are_listed_first(self, store: Store) -> None:
        harness = await make_harness(store)
        await harness.add(
            make_request(key="1"), make_request("bo@example.com", key="2"), make_request(key="3")
        )
        claim = await harness.must_claim()
        parked = Held(claim.entries[0].seq, Problem.ACTION_UNCERTAIN)
        await harness.settle(claim, parked, Accepted(claim.entries[1].seq, "r"))
        found = await store.action_views.find(connection="acme")
        assert [view.state for view in found] == ["uncertain", "waiting", "applied"]
        assert [view.id for view in await store.action_views.find(stuck=True)] == [found[0].id]
        assert not await store.action_views.find(connection="other")

    async def test_backlog_and_throughput_cover_actions(self, store: Store) -> None:
        harness = await make_harness(store)
        await harness.add(make_request(key="1"), make_request("bo@example.com", key="2"))
        claim = await harness.must_claim()
        await harness.settle(claim, Dead(claim.entries[0].seq, Problem.PLATFORM_REFUSED))
        [backlog] = await store.reports.backlog()
        assert (backlog.ready, backlog.claimed, backlog.dead) == (0, 1, 1)
        groups = await store.dead_letters.groups()
        assert groups == [StuckGroup(harness.lane, State.DEAD, "P400", 1)]
        assert (await store.action_views.throughput(harness.lane.id, now=_NOW)).waiting == 0
