"""What an outcome or an observation changes in the row of a profile. Pure."""

from __future__ import annotations

from connector.domain import profile_state
from connector.domain.errors import Problem
from connector.domain.lanes import Millis
from connector.domain.outcomes import (
    Accepted,
    Ambiguous,
    Dead,
    Held,
    Outcome,
    Pending,
    Retry,
    Skipped,
    Unsent,
)
from connector.domain.profile_state import Profile
from connector.domain.profiles import ALONE_AFTER, Observation, ProfileWrite, WriteMode
from connector.domain.records import State
from connector.store.queues.profile_rows import (
    NOT_IN_FLIGHT,
    ProfileRow,
    Values,
    idle_columns,
    profile_columns,
)

AMBIGUOUS_WAIT_MS = 30_000
"""A request that timed out may still be applied this long after it was sent."""


def after_outcome(
    row: ProfileRow, write: ProfileWrite, outcome: Outcome, now: Millis, horizon: int
) -> Values:
    """What the outcome of `write` changes. Fields that were observed while it was in flight are
    ready at once."""
    profile = row.profile
    match outcome:
        case Accepted():
            after = profile_state.apply_accepted(profile, write, now, profile_id=outcome.ref)
            return ready_or_idle(row, after, now) | {"request": outcome.request, "lost_jobs": 0}
        case Pending():
            return {
                "state": State.CLAIMED,
                "receipt": outcome.receipt,
                "position": outcome.position,
                "sent": profile_state.write_to_json(write),
                "request": outcome.request,
                "person": row.person,
                "since": now,
            }
        case Retry():
            return _retry_later(row, profile, outcome, now, horizon)
        case Ambiguous():
            unsure = profile_state.apply_ambiguous(profile, now)
            late = Millis(now + AMBIGUOUS_WAIT_MS)
            return _retry_later(row, unsure, outcome, now, horizon) | {"ambiguous_until": late}
        case Unsent():
            return after_unsent(row, now)
        case Dead() | Held():
            if _has_other_changes(profile, write):
                return ready_or_idle(row, profile, now)
            state = State.DEAD if isinstance(outcome, Dead) else State.HELD
            return idle_columns(profile) | {
                "state": state,
                "settled_at": now,
                "problem": outcome.problem.value,
                "detail": outcome.detail,
            }
        case Skipped():
            # Shadow mode: the profile is not sent until shadow mode ends.
            return idle_columns(profile) | {
                "state": State.SKIPPED,
                "settled_at": now,
                "request": None,
            }
        case _:
            raise TypeError(f"a profile write has no outcome {outcome!r}")


def _retry_later(
    row: ProfileRow, profile: Profile, outcome: Retry | Ambiguous, now: Millis, horizon: int
) -> Values:
    failing_since = row.failing_since or now
    least = AMBIGUOUS_WAIT_MS if isinstance(outcome, Ambiguous) else 0
    delay = max(least, round(outcome.after * 1000))
    if now - failing_since >= horizon:
        if row.problem == Problem.SHARED_ADDRESS.value:
            return ready_or_idle(row, profile, now)
        return idle_columns(profile) | {
            "state": State.DEAD,
            "settled_at": now,
            "problem": Problem.RETRIES_EXHAUSTED.value,
            "detail": f"last: {outcome.problem} {outcome.detail}".strip(),
        }
    values = ready_or_idle(row, profile, now, due=Millis(now + delay))
    if values["state"] == State.HELD:
        return values
    return values | {
        "attempts": row.attempts,
        "failing_since": failing_since,
        "problem": outcome.problem.value,
        "detail": outcome.detail,
    }


def _has_other_changes(profile: Profile, write: ProfileWrite) -> bool:
    """Whether the next write differs from the one that was refused."""
    following = profile_state.next_write(profile)
    return following is not None and (
        (following.identity, following.sets, following.is_cleanup)
        != (write.identity, write.sets, write.is_cleanup)
        or set(following.unsets) != set(write.unsets)
    )


def ready_or_idle(
    row: ProfileRow, profile: Profile, now: Millis, *, due: Millis | None = None
) -> Values:
    """A row whose write has ended: ready where the profile has more to send. It is held where its
    address became another person's in the meantime."""
    if row.problem == Problem.SHARED_ADDRESS.value:
        return idle_columns(profile) | {
            "state": State.HELD,
            "problem": row.problem,
            "confirmed": "{}",
            "settled_at": now,
        }
    write = profile_state.next_write(profile)
    return idle_columns(profile) | {
        "state": State.READY if write else State.ACCEPTED,
        "write_mode": _write_mode(write),
        "due": due if due is not None else now,
        "settled_at": now,
        "since": row.since,
    }


def after_unsent(row: ProfileRow, now: Millis) -> Values:
    """A row whose write was claimed and not sent."""
    values = ready_or_idle(row, row.profile, now, due=row.due)
    return values | {"attempts": row.attempts - 1}


def after_lost_job(row: ProfileRow, now: Millis) -> Values:
    """A row whose import job has no known result: all fields are sent again, in a smaller job, so
    that one bad profile cannot fail a whole job for ever. A person who was alone in it is sent
    singly: the answer is about them, and ends at the retry horizon."""
    values = ready_or_idle(row, profile_state.apply_ambiguous(row.profile, now), now)
    retry = {"lost_jobs": row.lost_jobs + 1, "failing_since": row.failing_since or now}
    alone = {"write_mode": WriteMode.SINGLE} if row.lost_jobs >= ALONE_AFTER else {}
    return NOT_IN_FLIGHT | values | retry | alone


def after_observation(row: ProfileRow, profile: Profile, o: Observation, now: Millis) -> Values:
    """What an observation changes, of which `profile` is the result."""
    if o.partial and row.state == State.HELD and row.problem != Problem.MASS_UNSET.value:
        return profile_columns(profile)
    problem = o.problem or (None if profile.identity else Problem.NO_IDENTITY)
    if problem:
        held = {"state": State.HELD, "problem": problem.value, "settled_at": now}
        return profile_columns(profile) | (held if row.state != State.CLAIMED else {})
    values = requeue(row, profile, now, since=o.since or now, backfill=o.backfill)
    if row.state == State.CLAIMED and o.address:
        # The person has an address of their own again, if the problem was a shared one.
        values["problem"] = None
        if row.address is None:
            values["address"] = o.address
    return values


def requeue(
    row: ProfileRow, profile: Profile, now: Millis, *, since: Millis, backfill: bool = False
) -> Values:
    """A row whose profile has changed: ready where it has something to send, unless a write is in
    flight. A row that waits at live priority keeps it when a backfill observes the person."""
    busy = row.state in (State.READY, State.CLAIMED)
    priority = row.priority if backfill and busy else int(backfill)
    if row.state == State.CLAIMED:
        return profile_columns(profile) | {"priority": priority}
    write = profile_state.next_write(profile)
    if write is None:
        return idle_columns(profile) | {"state": State.ACCEPTED, "problem": None}
    waiting = row.state == State.READY
    return idle_columns(profile) | {
        "state": State.READY,
        "write_mode": _write_mode(write),
        "priority": priority,
        "due": row.due if waiting else now,
        "since": row.since if waiting else since,
        **({} if waiting else {"attempts": 0, "failing_since": None, "problem": None}),
    }


def _write_mode(write: ProfileWrite | None) -> WriteMode:
    single = write is not None and profile_state.needs_single_call(write)
    return WriteMode.SINGLE if single else WriteMode.BULK


def journal_entry(outcome: Outcome, write: ProfileWrite, now: Millis) -> Values | None:
    """A row of the journal, None for an outcome that the timeline does not show."""
    if not isinstance(outcome, Accepted | Pending | Dead | Ambiguous):
        return None
    labels = {Accepted: "accepted", Pending: "queued", Dead: "dead", Ambiguous: "ambiguous"}
    return {
        "person": outcome.seq,
        "at": now,
        "kind": "write",
        "outcome": labels[type(outcome)],
        "request": outcome.request,
        "data": profile_state.write_to_json(write),
    }
