"""What a failed request means for the records that it carried: the only place where a delivery
error becomes an outcome. What a status means is connector.net.answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from connector.domain.errors import Blocked, DeliveryError, Problem, Rejected, RetryLater
from connector.domain.outcomes import (
    Ambiguous,
    Dead,
    Delivery,
    Outcome,
    Request,
    Retry,
    Stop,
    Unsent,
)


@dataclass(frozen=True, slots=True)
class Policy:
    """How one kind of request settles its errors.

    `writes`: False where the request changes nothing, so that an ambiguous answer is retried like
    any other. `retry_statuses` mean "not applied" whatever the error. `refusal_statuses` of a
    Blocked error are about this record and not about its target, lane or account. `refusal` says
    what becomes of a record that is refused. With `redirect_ambiguous` a 3xx proves nothing: what
    answered it may have applied the request.
    """

    writes: bool = True
    retry_statuses: frozenset[int] = frozenset()
    refusal_statuses: frozenset[int] = frozenset()
    refusal: Literal["dead", "retry"] = "dead"
    redirect_ambiguous: bool = False


REPEAT_HARMLESS = Policy()
"""A write that may be sent again: what may have been applied is sent again, singly."""

READ = Policy(writes=False)
"""A read whose refusal is final."""

LOOK_UP = Policy(writes=False, refusal="retry")
"""A read that comes before a write: whatever it answered, nothing was written."""


def at_most_once(retry_statuses: frozenset[int], *, writes: bool = True) -> Policy:
    """A write that must not be applied twice (guarantee 4): only what is known not to have been
    applied is sent again. Without `writes`, the look-up of such a write."""
    refusals = frozenset({400, 404, 409, 413, 422})
    return Policy(writes, retry_statuses, refusals, redirect_ambiguous=writes)


def outcome_for(
    seq: int,
    error: DeliveryError,
    policy: Policy,
    *,
    request: str | None = None,
    detail: str | None = None,
) -> tuple[Outcome, Stop | None]:
    """The outcome of the record `seq`, and why its lane stops, if it does. `request` is the id of
    the request that failed, `detail` replaces the error's own."""
    problem, detail = error.problem, error.detail if detail is None else detail
    if problem is Problem.STORE_HELD:
        return Unsent(seq), None  # it was kept back here, so it is no failure of the destination
    after = error.after if isinstance(error, RetryLater) else 0.0
    if isinstance(error, RetryLater) or error.status in policy.retry_statuses:
        return Retry(seq, problem, after, detail), None
    blocked = isinstance(error, Blocked)
    if isinstance(error, Rejected) or (blocked and error.status in policy.refusal_statuses):
        if policy.refusal == "retry":
            return Retry(seq, problem, after, detail), None
        return Dead(seq, problem, detail, request), None
    redirected = error.status is not None and 300 <= error.status < 400
    if isinstance(error, Blocked) and not (redirected and policy.redirect_ambiguous):
        return Unsent(seq), Stop(error.scope, problem, detail)
    if not policy.writes:
        return Retry(seq, problem, after, detail), None
    return Ambiguous(seq, problem, after, detail, request), None


def delivery_for(
    seqs: Sequence[int],
    error: DeliveryError,
    policy: Policy,
    requests: Sequence[Request] = (),
    *,
    detail: str | None = None,
) -> Delivery:
    """The delivery of all records that one request carried. `requests` are those that were sent for
    them, the one that failed last."""
    request = requests[-1].id if requests else None
    settled = [outcome_for(seq, error, policy, request=request, detail=detail) for seq in seqs]
    stop = settled[0][1] if settled else None
    return Delivery([outcome for outcome, _ in settled], requests, stop)
