"""Points change by an event of a type that the merchant created for it."""

from __future__ import annotations

from typing import Any, Self

import pytest
from pydantic import ValidationError

from connector.domain.actions import Action
from connector.domain.errors import (
    AmbiguousError,
    Blocked,
    Problem,
    Rejected,
    RetryLater,
    StoreOutage,
)
from connector.ports import Actions

from .rig import Rig


async def actions(rig: Rig, statuses: frozenset[int] = frozenset({429, 503})) -> Actions:
    found = (await rig.open(statuses)).actions
    assert found
    return found


def action(amount: int = 50, **who: Any) -> Action:
    """An adjustment for the given customer, else for the first user."""
    given = who or {"person": "crm-1001"}
    return Action("adjust", "ref-1", amount=amount, reason="Birthday", **given)


@pytest.mark.parametrize("amount", [50, -50])
async def test_an_adjustment_is_applied_and_sends_a_webhook(amount: int) -> None:
    rig = Rig()
    user = next(iter(rig.platform.users))
    before = user.points
    side = await actions(rig)
    assert await side.apply(action(amount)) == "event-1"
    assert user.points == before + amount
    assert rig.platform.adjusted("ref-1") == 1
    assert rig.platform.violations == {}
    assert rig.platform.token_calls == 0, "the event type's own secret is proof enough"
    [event] = rig.platform.waiting
    assert (event.type, event.payload) == (
        "POINTS_ADJUSTED",
        {"amount": amount, "reason": "Birthday"},
    )
    assert await side.look_up(action(amount)) == "unknowable"


async def test_a_customer_is_found_by_any_id() -> None:
    rig = Rig()
    user = next(iter(rig.platform.users))
    for number, id in enumerate((user.id, str(user.account), user.auth), start=1):
        assert await (await actions(rig)).apply(action(customer=id)) == f"event-{number}"


@pytest.mark.parametrize(
    ("who", "problem"),
    [
        ({"customer": "no-such-user"}, Problem.PLATFORM_TARGET),
        ({"email": "ana@example.org"}, Problem.NO_IDENTITY),
    ],
)
async def test_an_unknown_customer_is_refused(who: dict[str, Any], problem: Problem) -> None:
    rig = Rig()
    with pytest.raises(Rejected) as caught:
        await (await actions(rig)).apply(action(**who))
    assert caught.value.problem is problem
    assert rig.platform.state()["adjustments"] == 0


async def test_a_customer_lookup_without_a_response_is_not_ambiguous() -> None:
    rig = Rig()
    rig.platform.faults.add("users/{subject}", "status", status=500)
    with pytest.raises(RetryLater):
        await (await actions(rig)).apply(action(customer="crm-1001"))


async def test_a_permit_that_cannot_be_saved_is_not_ambiguous() -> None:
    """It is that of the event, after the one of the look-up."""
    rig = Rig()
    side = await actions(rig)

    class Away(list[Any]):
        def __iadd__(self, _: Any) -> Self:
            raise StoreOutage(Problem.STORE_UNAVAILABLE, "away")

    rig.saved_usage = Away()
    with pytest.raises(RetryLater) as caught:
        await side.apply(action(customer="crm-1001"))
    assert caught.value.problem is Problem.STORE_UNAVAILABLE
    assert rig.platform.state()["adjustments"] == 0


@pytest.mark.parametrize("kind", ["reset_after", "truncate", "reset_before"])
async def test_a_lost_response_is_ambiguous(kind: Any) -> None:
    rig = Rig()
    rig.platform.faults.add("events", kind)
    with pytest.raises(AmbiguousError):
        await (await actions(rig)).apply(action())
    assert rig.platform.adjusted("ref-1") == (0 if kind == "reset_before" else 1)


@pytest.mark.parametrize(
    ("status", "kind"), [(423, RetryLater), (429, RetryLater), (500, AmbiguousError)]
)
async def test_the_connection_configures_which_statuses_mean_not_applied(
    status: int, kind: type[Exception]
) -> None:
    rig = Rig()
    rig.platform.faults.add("events", "status", status=status)
    with pytest.raises(kind):
        await (await actions(rig, frozenset({423, 429, 503}))).apply(action())


async def test_a_user_or_type_unknown_to_wll_is_refused() -> None:
    for rig, who in ((Rig(), "no-such-user"), (Rig(points_event_type="OTHER"), "crm-1001")):
        unknown = Action("increase", "ref-1", person=who, amount=1, reason="x")
        with pytest.raises(Rejected) as caught:
            await (await actions(rig)).apply(unknown)
        assert caught.value.problem is Problem.PLATFORM_TARGET


async def test_a_wrong_event_secret_blocks() -> None:
    rig = Rig(points_event_secret="another")
    with pytest.raises(Blocked) as caught:
        await (await actions(rig)).apply(action())
    assert (caught.value.problem, caught.value.scope) == (Problem.PLATFORM_KEY, "account")
    assert "another" not in str(caught.value)


def test_an_event_type_requires_its_secret() -> None:
    with pytest.raises(ValidationError, match="points_event_secret beside points_event_type"):
        Rig(points_event_secret="")


async def test_without_an_event_type_points_cannot_be_adjusted() -> None:
    assert (await Rig(points_event_type="").open()).actions is None
