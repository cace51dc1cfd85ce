"""Faults of the workers that were found once, each put back as a patch, to see that the simulation
finds it. Every function plants one; its docstring says what is wrong."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import and_, update

from connector.actions.sink import ActionSink
from connector.app import connections, daemon
from connector.app.connections import Connections
from connector.app.daemon import App
from connector.app.wiring.limiters import RateLimiters
from connector.domain.errors import AmbiguousError, DeliveryError, Problem, RetryLater, StoreError
from connector.domain.messages import Fault, Skip
from connector.domain.outcomes import Dead, Retry
from connector.net import http
from connector.net.rate_limit import RateLimiter
from connector.pipeline import breaker
from connector.pipeline.breaker import LaneBreaker
from connector.pipeline.claims import Claimer
from connector.pipeline.dispatch import Dispatcher
from connector.pipeline.import_jobs import UntrackedJobs
from connector.pipeline.lease import ResourceLease
from connector.pipeline.outcome_writer import OutcomeWriter
from connector.pipeline.rendering import GatedRenderer
from connector.ports import BackfillPage, MembersPage, ReadyCounts
from connector.store.admin import retention
from connector.store.admin.commands import SqlCommands
from connector.store.admin.retention import NO_BODY
from connector.store.queues import actions, membership_changes, profile_unsets, queue
from connector.store.queues.action_decisions import SqlActionDecisions
from connector.store.queues.membership_state import OUT
from connector.store.queues.receipts import ReceiptedQueue
from connector.store.tables import memberships, outbox
from connector.sync.backfill.sources import PlatformListing
from connector.sync.flow_guard import FlowGuard, Verdict
from connector.sync.memberships.remote_groups import PlatformAudiences
from connector.sync.memberships.removals import RemovalGuard, RemovalLimit
from connector.sync.memberships.scans import GroupScan
from connector.sync.memberships.target_sync import TargetSync

_M = memberships.c
Plant = Callable[[pytest.MonkeyPatch], None]


async def _nothing(*_: Any, **__: Any) -> int:
    return 0


async def _once(work: Callable[[], Awaitable[Any]], *_: Any, **__: Any) -> Any:
    return await work()


# ── points ───────────────────────────────────────────────────────────────────────────────────────


def an_identified_action_stays_held(patch: pytest.MonkeyPatch) -> None:
    """An action that waited for its person is not released when the person is known."""
    patch.setattr(SqlActionDecisions, "release_identified", _nothing)


def refusals_about_people_hold_the_lane(patch: pytest.MonkeyPatch) -> None:
    """And people who are not known yet are refused at once."""
    refused = ActionSink._refused

    def at_once(self: Any, *args: Any) -> Any:
        outcome = refused(self, *args)
        if isinstance(outcome, Retry):
            return Dead(outcome.seq, outcome.problem, outcome.detail)
        return outcome

    patch.setattr(ActionSink, "_refused", at_once)
    patch.setattr(breaker, "_ABOUT_ONE_PERSON", frozenset())


def what_waits_for_its_module_is_skipped(patch: pytest.MonkeyPatch) -> None:
    render = GatedRenderer.render

    def skips(self: Any, entry: Any) -> Any:
        message = render(self, entry)
        waits = isinstance(message, Fault) and message.problem is Problem.NOT_LIVE
        return Skip("module off") if waits else message

    patch.setattr(GatedRenderer, "render", skips)


def a_redirect_is_repeated(patch: pytest.MonkeyPatch) -> None:
    meaning = http.error_for

    def repeated(vendor: Any, status: int, *args: Any, **options: Any) -> DeliveryError | None:
        if vendor == "platform" and 300 <= status < 400:
            return RetryLater(Problem.PLATFORM_UNAVAILABLE, status=status)
        return meaning(vendor, status, *args, **options)

    patch.setattr(http, "error_for", repeated)


def a_sent_action_is_sent_again_after_a_kill(patch: pytest.MonkeyPatch) -> None:
    """The mark that it was sent does not count."""

    def recover(self: Any, c: Any, now: Any, of: Any) -> int:
        return queue.recover(c, actions.actions_queue, now, of)

    patch.setattr(actions.SqlActionQueue, "_recover", recover)


# ── loops, leases, start and stop ────────────────────────────────────────────────────────────────


def a_reload_gives_up(patch: pytest.MonkeyPatch) -> None:
    """One write that fails while connections are replaced leaves none running."""
    patch.setattr(connections, "until_available", _once)


def an_unanswered_claim_is_kept(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Claimer, "give_back", _nothing)


def a_scan_ends_when_its_failure_cannot_be_noted(patch: pytest.MonkeyPatch) -> None:
    note = GroupScan._record_failure

    async def or_ends(self: Any, error: Any) -> float:
        try:
            return await note(self, error)
        except StoreError:
            await asyncio.Event().wait()
            raise

    patch.setattr(GroupScan, "_record_failure", or_ends)


def a_regained_lease_keeps_the_states_of_lanes(patch: pytest.MonkeyPatch) -> None:
    async def refresh(self: Connections, resource: str) -> None:
        await self.limiters.reload({runtime.name for runtime in self._of(resource)})

    patch.setattr(Connections, "refresh", refresh)


def a_restart_forgets_spent_quota(patch: pytest.MonkeyPatch) -> None:
    async def none_spent(self: Any, account: str, limits: Any) -> list[Any]:
        return []

    patch.setattr(RateLimiters, "_spent", none_spent)


def a_standby_ends_when_the_store_fails(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(daemon, "until_available", _once)


def a_start_waits_for_klaviyo(patch: pytest.MonkeyPatch) -> None:
    build = App._build_connections

    async def and_asks(self: App) -> None:
        await build(self)
        accounts = [account.read() for account in self.connections.accounts.values()]
        await asyncio.gather(*accounts, return_exceptions=True)

    patch.setattr(App, "_build_connections", and_asks)


def lanes_claim_after_a_stop(patch: pytest.MonkeyPatch) -> None:
    never = property(lambda self: False, lambda self, value: None)
    patch.setattr(Dispatcher, "_stopping", never, raising=False)


def a_call_has_no_deadline(patch: pytest.MonkeyPatch) -> None:
    init = http.Http.__init__

    def without(self: Any, *args: Any, **options: Any) -> None:
        init(self, *args, **options)
        self._deadline = 100_000.0

    patch.setattr(http.Http, "__init__", without)


def a_lease_is_believed_in(patch: pytest.MonkeyPatch) -> None:
    """Whoever had it sends on, however long ago it was renewed."""
    patch.setattr(ResourceLease, "valid", lambda self: self._active)


def a_takeover_recovers_nothing(patch: pytest.MonkeyPatch) -> None:
    recover = queue.SqlQueue.recover

    async def only_one(self: Any, fence: Any, *, claim: Any = None, **options: Any) -> int:
        return await recover(self, fence, claim=claim, **options) if claim else 0

    patch.setattr(queue.SqlQueue, "recover", only_one)


def a_command_dies_with_its_process(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SqlCommands, "requeue", _nothing)


def an_outcome_is_stored_at_the_first_attempt_or_never(patch: pytest.MonkeyPatch) -> None:
    settle = OutcomeWriter._settle

    async def once(self: Any, *args: Any) -> bool:
        self._aborted = True
        return await settle(self, *args)

    patch.setattr(OutcomeWriter, "_settle", once)


# ── Klaviyo, memberships, approvals ──────────────────────────────────────────────────────────────


def a_leave_crosses_a_join(patch: pytest.MonkeyPatch) -> None:
    """A change is sent while an earlier one may still be applied."""
    patch.setattr(membership_changes, "_not_while_ambiguous", lambda due: due)


def an_unfinished_scan_removes_people(patch: pytest.MonkeyPatch) -> None:
    """A page without an answer counts as the last one."""
    members = PlatformAudiences.members

    async def or_none(self: Any, *args: Any, **options: Any) -> MembersPage:
        try:
            return await members(self, *args, **options)
        except AmbiguousError:
            return MembersPage((), None, False)

    patch.setattr(PlatformAudiences, "members", or_none)
    patch.setattr(TargetSync, "apply_removals", _apply_all)


async def _apply_all(self: Any, source: Any) -> None:
    """However many people a scan did not find, they are removed."""
    if source.applied_scan != source.completed_scan:
        await self._scans.apply(source.id, now=self._clock.now())
        self.notify_lane()


def a_first_sync_is_not_asked_for(patch: pytest.MonkeyPatch) -> None:
    async def allowed(self: Any, *_: Any, **__: Any) -> tuple[str, list[str]]:
        return "allowed", []

    patch.setattr(FlowGuard, "evaluate", allowed)


def a_lost_job_counts_as_done(patch: pytest.MonkeyPatch) -> None:
    """An import job that had no answer, or was cancelled, confirms what it carried."""

    async def close(self: Any, lane: Any, receipt: str, *, now: Any) -> int:
        return int(await self.close_receipt(lane, receipt, now=now, failed={}))

    patch.setattr(ReceiptedQueue, "requeue_receipt", close)


# ── crowds, retention, import jobs that are refused ──────────────────────────────────────────────


def a_mass_unset_is_not_asked_for(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(profile_unsets, "held_fields", lambda c, lane: frozenset())


def an_approved_unset_stays_held(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(profile_unsets.SqlUnsetFields, "release", _nothing)


def a_mass_removal_is_not_asked_for(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(RemovalLimit, "exceeded_by", lambda self, removals: False)


def who_is_being_added_does_not_count_as_a_removal(patch: pytest.MonkeyPatch) -> None:
    def added(target: Any) -> Any:
        return and_(_M.added_by_us == 1, _M.confirmed.is_distinct_from(OUT))

    patch.setattr(membership_changes, "is_removable", added)


def an_approved_removal_stays_held(patch: pytest.MonkeyPatch) -> None:
    async def allows(
        self: Any, subject: str, target: Any, removals: Any, limit: RemovalLimit
    ) -> Verdict:
        return "waiting" if limit.exceeded_by(removals) else "allowed"

    patch.setattr(RemovalGuard, "allows", allows)


def a_backfill_goes_before_what_is_live(patch: pytest.MonkeyPatch) -> None:
    """What is live waits until nothing of a backfill is ready."""
    count_ready = Claimer._count_ready

    async def backfill_first(self: Claimer, limit: int) -> ReadyCounts:
        ready = await count_ready(self, limit)
        if ready.backfill_batch or ready.backfill_single:
            return replace(ready, batch=0, single=0)
        return ready

    patch.setattr(Claimer, "_count_ready", backfill_first)


def a_backfill_takes_the_live_share(patch: pytest.MonkeyPatch) -> None:
    adjust = RateLimiter.adjust

    def without(self: Any, limits: Any, *, share: float, live_reserve: float = 0.0) -> None:
        adjust(self, limits, share=share)

    patch.setattr(RateLimiter, "adjust", without)


def a_backfill_ends_with_a_page_that_fails(patch: pytest.MonkeyPatch) -> None:
    page = PlatformListing.page

    async def or_none(self: Any, cursor: str | None) -> BackfillPage:
        try:
            return await page(self, cursor)
        except DeliveryError:
            return BackfillPage(cursor, False)

    patch.setattr(PlatformListing, "page", or_none)


def retention_empties_what_waits(patch: pytest.MonkeyPatch) -> None:
    def clear(c: Any, before: Any, after: int, limit: int) -> None:
        c.execute(update(outbox).where(outbox.c.received_at < before).values(data=NO_BODY))

    patch.setattr(retention, "clear_bodies", clear)


def retention_deletes_what_waits(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(retention, "_is_old", lambda state, cutoff: outbox.c.received_at < cutoff)


def refused_import_jobs_are_given_up(patch: pytest.MonkeyPatch) -> None:
    """And whatever else is too much for single requests waits for one."""

    def never(self: Any, outcome: Any, now: float) -> None:
        self._unanswered += 1
        self._bulk_at = math.inf

    patch.setattr(LaneBreaker, "_fail_bulk", never)


def no_one_follows_the_jobs_of_a_module_that_is_off(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(UntrackedJobs, "_current", lambda self: [])


PLANTED: dict[str, tuple[Plant, str]] = {
    plant.__name__: (plant, act)
    for plant, act in (
        (an_identified_action_stays_held, "newcomer"),
        (refusals_about_people_hold_the_lane, "strangers"),
        (what_waits_for_its_module_is_skipped, "switch_off_with_a_backlog"),
        (a_redirect_is_repeated, "redirect_that_was_applied"),
        (a_sent_action_is_sent_again_after_a_kill, "kill_before_settling"),
        (a_reload_gives_up, "reload_while_the_store_fails"),
        (an_unanswered_claim_is_kept, "claim_without_an_answer"),
        (a_scan_ends_when_its_failure_cannot_be_noted, "fail_while_a_failure_is_noted"),
        (a_regained_lease_keeps_the_states_of_lanes, "regain_a_lease"),
        (a_restart_forgets_spent_quota, "restart_with_spent_quota"),
        (a_standby_ends_when_the_store_fails, "standby_without_a_store"),
        (a_start_waits_for_klaviyo, "start_while_nothing_remote_answers"),
        (lanes_claim_after_a_stop, "stop_with_a_backlog"),
        (a_call_has_no_deadline, "trickle"),
        (a_lease_is_believed_in, "freeze_after_a_claim"),
        (a_takeover_recovers_nothing, "kill_at_a_commit"),
        (a_command_dies_with_its_process, "kill_at_a_commit"),
        (an_outcome_is_stored_at_the_first_attempt_or_never, "store_outage"),
        (a_leave_crosses_a_join, "return_around_a_late_removal"),
        (an_unfinished_scan_removes_people, "fail_while_a_failure_is_noted"),
        (a_first_sync_is_not_asked_for, "cross"),
        (a_lost_job_counts_as_done, "refuse_bulk"),
        (a_mass_unset_is_not_asked_for, "lose_a_field"),
        (an_approved_unset_stays_held, "lose_a_field"),
        (a_mass_removal_is_not_asked_for, "leave_at_once"),
        (who_is_being_added_does_not_count_as_a_removal, "leave_at_once"),
        (an_approved_removal_stays_held, "leave_at_once"),
        (a_backfill_goes_before_what_is_live, "live_in_a_backfill"),
        (a_backfill_takes_the_live_share, "backfill_of_many"),
        (a_backfill_ends_with_a_page_that_fails, "backfill_of_many"),
        (retention_empties_what_waits, "night"),
        (retention_deletes_what_waits, "night"),
        (refused_import_jobs_are_given_up, "bulk_away"),
        (no_one_follows_the_jobs_of_a_module_that_is_off, "burst"),
    )
}
"""By name: what plants it, and the act that is in every life in which it is searched for."""
