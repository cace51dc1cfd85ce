"""Every delivery error under every policy: which outcome, and whether the lane stops."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.domain.errors import (
    AmbiguousError,
    Blocked,
    DeliveryError,
    Problem,
    Rejected,
    RetryLater,
)
from connector.domain.lanes import Millis
from connector.domain.outcomes import Ambiguous, Dead, Request, Retry, Stop, Unsent
from connector.domain.settlement import (
    LOOK_UP,
    READ,
    REPEAT_HARMLESS,
    Policy,
    at_most_once,
    delivery_for,
    outcome_for,
)

P = Problem.PLATFORM_REFUSED
WAIT = RetryLater(P, "why", status=429, after=7.0)
NO_ANSWER = AmbiguousError(P, "why")
SERVER = AmbiguousError(P, "why", status=502)
REJECTED = Rejected(P, "why", status=400)
GONE = Blocked(P, "why", scope="target", status=404)
KEY = Blocked(P, "why", scope="account", status=401)
SCOPE = Blocked(P, "why", scope="lane", status=403)
MOVED = Blocked(P, "why", scope="lane", status=302)
NO_LEASE = RetryLater(Problem.STORE_HELD, "why")

ONCE = at_most_once(frozenset({423, 429, 503}))
ONCE_502 = at_most_once(frozenset({502}))
LOOKED_UP = at_most_once(frozenset(), writes=False)

DEAD = Dead(1, P, "why", "r")
LATER = Retry(1, P, 7.0, "why")
NOW = Retry(1, P, 0.0, "why")
MAYBE = Ambiguous(1, P, 0.0, "why", "r")

TABLE: list[tuple[Policy, DeliveryError, Any]] = [
    (REPEAT_HARMLESS, WAIT, LATER),
    (REPEAT_HARMLESS, NO_ANSWER, MAYBE),
    (REPEAT_HARMLESS, SERVER, MAYBE),
    (REPEAT_HARMLESS, REJECTED, DEAD),
    (REPEAT_HARMLESS, GONE, "target"),
    (REPEAT_HARMLESS, KEY, "account"),
    (REPEAT_HARMLESS, SCOPE, "lane"),
    (READ, WAIT, LATER),
    (READ, NO_ANSWER, NOW),
    (READ, SERVER, NOW),
    (READ, REJECTED, DEAD),
    (READ, GONE, "target"),
    (READ, KEY, "account"),
    (LOOK_UP, WAIT, LATER),
    (LOOK_UP, NO_ANSWER, NOW),
    (LOOK_UP, REJECTED, NOW),
    (LOOK_UP, GONE, "target"),
    (LOOK_UP, KEY, "account"),
    (ONCE, WAIT, LATER),
    (ONCE, NO_ANSWER, MAYBE),
    (ONCE, SERVER, MAYBE),
    (ONCE, REJECTED, DEAD),
    (ONCE, GONE, DEAD),
    (ONCE, KEY, "account"),
    (ONCE, SCOPE, "lane"),
    (ONCE, MOVED, MAYBE),
    (REPEAT_HARMLESS, MOVED, "lane"),
    (LOOKED_UP, MOVED, "lane"),
    (ONCE_502, SERVER, NOW),
    (LOOKED_UP, WAIT, LATER),
    (LOOKED_UP, SERVER, NOW),
    (LOOKED_UP, REJECTED, DEAD),
    (LOOKED_UP, GONE, DEAD),
    (LOOKED_UP, KEY, "account"),
    (Policy(refusal_statuses=frozenset({404}), refusal="retry"), REJECTED, NOW),
    (Policy(refusal_statuses=frozenset({404}), refusal="retry"), GONE, NOW),
    (Policy(refusal_statuses=frozenset({404}), refusal="retry"), SERVER, MAYBE),
]


@pytest.mark.parametrize("policy", [REPEAT_HARMLESS, READ, LOOK_UP, ONCE, LOOKED_UP])
def test_a_request_that_the_lease_kept_back_says_nothing_about_its_destination(
    policy: Policy,
) -> None:
    assert outcome_for(1, NO_LEASE, policy, request="r") == (Unsent(1), None)


@pytest.mark.parametrize(("policy", "error", "expected"), TABLE)
def test_an_error_has_one_outcome(policy: Policy, error: DeliveryError, expected: Any) -> None:
    outcome, stop = outcome_for(1, error, policy, request="r")
    if isinstance(expected, str):
        assert (outcome, stop) == (Unsent(1), Stop(expected, P, "why"))  # type: ignore[arg-type]
    else:
        assert (outcome, stop) == (expected, None)


ERRORS = st.sampled_from([WAIT, NO_ANSWER, SERVER, REJECTED, GONE, KEY, SCOPE, MOVED])
POLICIES = st.builds(
    Policy,
    st.booleans(),
    st.frozensets(st.sampled_from([400, 404, 429, 502])),
    st.frozensets(st.sampled_from([400, 404, 401])),
    st.sampled_from(["dead", "retry"]),
)


@given(error=ERRORS, policy=POLICIES)
def test_a_request_that_may_have_been_applied_is_never_a_plain_retry(
    error: DeliveryError, policy: Policy
) -> None:
    outcome, stop = outcome_for(1, error, policy)
    if isinstance(error, AmbiguousError) and policy.writes:
        retried = error.status in policy.retry_statuses
        assert isinstance(outcome, Retry if retried else Ambiguous)
    if not policy.writes:
        assert not isinstance(outcome, Ambiguous)
    assert (stop is not None) == isinstance(outcome, Unsent)


def test_all_records_of_a_request_share_its_end() -> None:
    first, last = (Request(id, "POST /x", Millis(0), 400, 1, P) for id in ("looked up", "sent"))
    found = delivery_for([1, 2], REJECTED, REPEAT_HARMLESS, [first, last], detail="named")
    assert found.outcomes == [Dead(1, P, "named", "sent"), Dead(2, P, "named", "sent")]
    assert (found.requests, found.stop) == ([first, last], None)
    assert delivery_for([1, 2], KEY, REPEAT_HARMLESS).stop == Stop("account", P, "why")
    assert delivery_for([], KEY, REPEAT_HARMLESS).outcomes == []
