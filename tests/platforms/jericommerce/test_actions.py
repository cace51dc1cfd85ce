"""Points change once and by the right amount, or certainly not at all."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import httpx
import orjson
import pytest

from connector.app.wiring.context import SharedServices
from connector.config import Actions as ActionRules
from connector.config import Config, Connection
from connector.domain.actions import Action
from connector.domain.errors import (
    AmbiguousError,
    Blocked,
    DeliveryError,
    Problem,
    Rejected,
    RetryLater,
)
from connector.platforms.jericommerce import PLATFORM
from connector.runtime.metrics import Metrics
from connector.sandbox import Traffic
from connector.testing.fakes.clock import FakeClock
from connector.testing.fakes.lease import FakeLease
from connector.testing.fakes.store import memory_store

from .rig import Rig

UP = Action("increase", "act_1", email="ana@example.com", amount=40, reason="Welcome")
PUSH = Action("push", "act_2", message="Your reward is ready", url="https://shop.example/rewards")


@pytest.fixture
async def rig() -> Rig:
    rig = await Rig().open()
    rig.platform.add(UP.email or "", balance=100)
    return rig


def balance(rig: Rig) -> int:
    person = rig.platform.person("ana@example.com")
    assert person is not None
    return person.balance


# ── points ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("action", "after"),
    [
        (UP, 140),
        (replace(UP, name="decrease", amount=-40), 60),
        (replace(UP, name="adjust", amount=7), 107),
        (replace(UP, name="adjust", amount=-7), 93),
    ],
)
async def test_an_amount_increases_or_decreases_by_its_sign(
    rig: Rig, action: Action, after: int
) -> None:
    assert await rig.apply(action) is None
    assert balance(rig) == after
    [change] = rig.platform.ledger
    assert (change.email, change.amount, change.reason) == (UP.email, action.amount, "Welcome")
    assert rig.platform.state()["violations"] == {}


@pytest.mark.parametrize("earned", [None, True, False])
@pytest.mark.parametrize("visible", [True, False])
async def test_fields_of_other_platforms_change_nothing(earned: bool | None, visible: bool) -> None:
    bodies: list[bytes] = []

    def answer(request: httpx.Request) -> httpx.Response:
        bodies.append(request.content)
        return httpx.Response(201)

    rig = await Rig(answer=answer).open()
    await rig.apply(replace(UP, name="adjust", earned=earned, visible=visible))
    [body] = bodies
    assert orjson.loads(body) == [{"email": UP.email, "amount": 40, "reason": "Welcome"}]


async def test_the_platforms_webhook_carries_the_reason(rig: Rig) -> None:
    """So that the connector recognises the event that its own action caused."""
    await rig.apply(UP)
    headers, body = Traffic(rig.platform, "").make_event()
    assert headers["x-jericommerce-event-type"] == "Balance changed"
    properties = orjson.loads(body)["properties"]
    assert (properties["amount"], properties["reason"], properties["balance"]) == (
        40,
        "Welcome",
        140,
    )


async def test_nothing_can_be_looked_up(rig: Rig) -> None:
    await rig.apply(UP)
    assert await rig.actions.look_up(UP) == "unknowable"


# ── every response: applied, not applied, or ambiguous ───────────────────────────────────────────


@pytest.mark.parametrize(
    ("fault", "error", "after"),
    [
        ({"kind": "status", "status": 423}, RetryLater, 100),
        ({"kind": "status", "status": 429, "retry_after": 9}, RetryLater, 100),
        ({"kind": "status", "status": 503}, RetryLater, 100),
        ({"kind": "status", "status": 400}, Rejected, 100),
        ({"kind": "status", "status": 404}, Rejected, 100),
        ({"kind": "status", "status": 409}, Rejected, 100),
        ({"kind": "status", "status": 413}, Rejected, 100),
        ({"kind": "status", "status": 422}, Rejected, 100),
        ({"kind": "status", "status": 401}, Blocked, 100),
        ({"kind": "status", "status": 403}, Blocked, 100),
        ({"kind": "status", "status": 500}, AmbiguousError, 100),
        ({"kind": "status", "status": 500, "applied": True}, AmbiguousError, 140),
        ({"kind": "status", "status": 502, "applied": True}, AmbiguousError, 140),
        ({"kind": "status", "status": 504, "applied": True}, AmbiguousError, 140),
        ({"kind": "reset_before"}, AmbiguousError, 100),
        ({"kind": "reset_after"}, AmbiguousError, 140),
        ({"kind": "truncate"}, AmbiguousError, 140),
    ],
)
async def test_a_response_maps_to_what_it_proves(
    rig: Rig, fault: dict[str, Any], error: type[DeliveryError], after: int
) -> None:
    rig.platform.faults.parse({"endpoint": "balance/increase", "count": 1, **fault})
    with pytest.raises(error) as caught:
        await rig.apply(UP)
    assert balance(rig) == after
    if "retry_after" in fault:
        assert isinstance(caught.value, RetryLater)
        assert caught.value.after == 9


async def test_the_connection_configures_which_statuses_mean_nothing_was_applied() -> None:
    """Without 503 in retry_statuses, a 503 may have been applied and is ambiguous."""
    rig = await Rig(retry_statuses=(418,)).open()
    rig.platform.add(UP.email or "")
    rig.platform.faults.add("balance/increase", "status", status=503, count=1)
    with pytest.raises(AmbiguousError):
        await rig.apply(UP)
    rig.platform.faults.add("balance/increase", "status", status=418, count=1)
    with pytest.raises(RetryLater):
        await rig.apply(UP)


@pytest.mark.parametrize("status", [200, 201, 204])
async def test_an_empty_response_is_a_response(status: int) -> None:
    rig = await Rig(answer=lambda request: httpx.Response(status)).open()
    await rig.apply(UP)


async def test_an_html_page_instead_of_a_response_is_ambiguous() -> None:
    page = httpx.Response(200, content=b"<html>Please wait", headers={"content-type": "text/html"})
    rig = await Rig(answer=lambda request: page).open()
    with pytest.raises(AmbiguousError):
        await rig.apply(UP)


@pytest.mark.parametrize(
    ("action", "problem"),
    [
        (replace(UP, email="nobody@example.com"), Problem.PLATFORM_TARGET),
        (replace(UP, email=None, person="a-known-id"), Problem.NO_IDENTITY),
        (replace(UP, amount=0), Problem.PLATFORM_REFUSED),
        (replace(UP, name="decrease", amount=-101), Problem.PLATFORM_REFUSED),
        (replace(UP, reason=""), Problem.PLATFORM_REFUSED),
    ],
)
async def test_a_refused_action_changes_nothing_and_blocks_no_one(
    rig: Rig, action: Action, problem: Problem
) -> None:
    with pytest.raises(Rejected) as caught:
        await rig.apply(action)
    assert caught.value.problem is problem
    assert balance(rig) == 100
    assert not rig.platform.ledger
    assert "example.com" not in str(caught.value)


# ── pushes ───────────────────────────────────────────────────────────────────────────────────────


async def test_a_push_goes_to_the_platforms_own_id(rig: Rig) -> None:
    person = rig.platform.people[0]
    await rig.apply(replace(PUSH, person=person.id, email="another@example.com"))
    [push] = rig.platform.pushes
    assert (push.person, push.message, push.url) == (person.id, PUSH.message, PUSH.url)
    assert not rig.platform.read_log


async def test_a_push_resolves_the_id_by_address_before_using_the_callers(rig: Rig) -> None:
    person = rig.platform.people[0]
    await rig.apply(replace(PUSH, email=person.email, customer="01KLAVIYO"))
    assert [push.person for push in rig.platform.pushes] == [person.id]


async def test_a_push_uses_the_callers_id_as_a_fallback(rig: Rig) -> None:
    person = rig.platform.people[0]
    await rig.apply(replace(PUSH, customer=person.id, url=""))
    assert [(push.person, push.url) for push in rig.platform.pushes] == [(person.id, None)]


@pytest.mark.parametrize(
    ("push", "problem"),
    [
        (replace(PUSH, email="nobody@example.com"), Problem.PLATFORM_TARGET),
        (replace(PUSH, person="no-such-person"), Problem.PLATFORM_TARGET),
        (PUSH, Problem.NO_IDENTITY),
        (replace(PUSH, email="ana@example.com", url="not an address"), Problem.PLATFORM_REFUSED),
    ],
)
async def test_a_push_that_is_refused_is_not_sent(rig: Rig, push: Action, problem: Problem) -> None:
    with pytest.raises(Rejected) as caught:
        await rig.apply(push)
    assert caught.value.problem is problem
    assert not rig.platform.pushes


@pytest.mark.parametrize("fault", [{"kind": "status", "status": 500}, {"kind": "reset_after"}])
async def test_a_lost_person_lookup_is_not_ambiguous(rig: Rig, fault: dict[str, Any]) -> None:
    rig.platform.faults.parse({"endpoint": "customers", "count": 1, **fault})
    push = replace(PUSH, email="ana@example.com")
    with pytest.raises(RetryLater):
        await rig.apply(push)
    assert not rig.platform.pushes
    await rig.apply(push)
    assert len(rig.platform.pushes) == 1


async def test_a_push_with_a_lost_response_is_ambiguous(rig: Rig) -> None:
    rig.platform.faults.add("push", "reset_after", count=1)
    with pytest.raises(AmbiguousError):
        await rig.apply(replace(PUSH, email="ana@example.com"))
    assert len(rig.platform.pushes) == 1


@pytest.mark.parametrize("auth", ["bearer", "api-key"])
async def test_a_push_authenticates_as_configured(auth: str) -> None:
    rig = await Rig(push_auth=auth, sandbox={"push_auth": auth}).open()
    await rig.apply(replace(PUSH, person=rig.platform.people[0].id))
    other = await Rig(
        push_auth=auth, sandbox={"push_auth": {"bearer": "api-key"}.get(auth, "bearer")}
    ).open()
    with pytest.raises(Blocked):
        await other.apply(replace(PUSH, person=other.platform.people[0].id))


async def test_a_push_uses_its_own_url() -> None:
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(str(request.url))
        return httpx.Response(201)

    rig = await Rig(answer=answer, push_url="https://push.example/v2/notify?program=7").open()
    await rig.apply(replace(PUSH, person="7"))
    assert seen == ["https://push.example/v2/notify?program=7"]


# ── quota ────────────────────────────────────────────────────────────────────────────────────────


async def test_actions_and_reads_share_one_quota() -> None:
    """No mix of calls causes a 429."""
    rig = await Rig(rate=5, rate_per_second=5).open()
    for person in rig.platform.people:
        await rig.apply(replace(UP, email=person.email))
        await rig.read(person)
        await rig.apply(replace(PUSH, email=person.email))
    state = rig.platform.state()
    assert state["throttled"] == 0
    assert len(rig.platform.ledger) == len(rig.platform.pushes) == 20


def test_the_platform_declares_its_offers() -> None:
    assert {"increase", "decrease", "adjust", "push", "segments"} <= PLATFORM.offers


def test_a_connections_retry_statuses_reach_its_adapter() -> None:
    clock: Any = FakeClock()
    none = cast(Any, None)
    store, metrics = memory_store(), Metrics("0")
    services = SharedServices(Config(), store, none, clock, metrics, none, none, none, none)
    plain = Connection(name="shop", source="jericommerce")
    own = plain.model_copy(update={"actions": ActionRules(secret=("x",), retry_statuses=(418,))})
    assert services.kit(plain, FakeLease()).retry_statuses == {423, 429, 503}
    assert services.kit(own, FakeLease()).retry_statuses == {418}
