"""Points are adjusted once: what was certainly not applied is tried again, what may have been
applied is looked up by its reference, and what cannot be looked up is never reported absent."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any

import pytest
from pydantic import SecretStr

from connector.app.wiring.oauth import platform_tokens
from connector.config import Config, Connection
from connector.domain.actions import Action
from connector.domain.errors import AmbiguousError, Blocked, Rejected, RetryLater
from connector.platforms.yotpo.actions import TITLE_MAX, YotpoActions
from connector.sandbox import YotpoSandbox
from connector.sandbox.yotpo.people import Customer
from connector.testing.fakes.store import memory_store

from .rig import Rig

ACTION = Action("adjust", "kr7-1a2b", email="ana@example.com", amount=40, reason="Survey")


@pytest.fixture
async def rig() -> Any:
    async with Rig() as made:
        ana = made.platform.add("ana@example.com", balance=0, earned=0)
        ana.adjust_points(100, "Welcome", made.platform.moment())
        yield made


def balance(rig: Rig) -> int:
    ana = rig.platform.person("ana@example.com")
    assert ana is not None
    return ana.balance


# ── the request ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("amount", "earned", "flag"),
    [
        (40, None, True),  # reward
        (40, False, False),  # refund
        (-40, None, False),  # redeem
        (-40, True, True),  # remove earned points
        (-40, False, False),  # expire
    ],
)
def test_sign_and_flag_match_yotpos_table(
    rig: Rig, amount: int, earned: bool | None, flag: bool
) -> None:
    assert isinstance(rig.actions, YotpoActions)
    body = rig.actions.body(replace(ACTION, amount=amount, earned=earned))
    assert body == {
        "customer_email": "ana@example.com",
        "point_adjustment_amount": amount,
        "apply_adjustment_to_points_earned": flag,
        "history_title": "kr7-1a2b · Survey",
        "visible_to_customer": True,
    }


async def test_points_ever_earned_follow_the_flag(rig: Rig) -> None:
    await rig.apply(replace(ACTION, earned=False))
    await rig.apply(replace(ACTION, ref="kr7-2"))
    ana = rig.platform.person("ana@example.com")
    assert ana is not None
    assert (ana.balance, ana.earned) == (180, 140)


async def test_a_person_without_an_address_is_identified_by_id(rig: Rig) -> None:
    ana = rig.platform.person("ana@example.com")
    assert ana is not None
    for known in ({"person": ana.id}, {"customer": ana.id}, {"person": ana.id, "customer": "k"}):
        await rig.apply(replace(ACTION, email=None, **known))
    assert balance(rig) == 220


@pytest.mark.parametrize(
    ("form", "reason", "title"),
    [
        ("{ref} · {title}", "Survey", "kr7-1a2b · Survey"),
        ("{ref} · {title}", "x" * 400, "kr7-1a2b · " + "x" * (TITLE_MAX - 11)),
        ("{title} · {ref}", "Survey", "Survey · kr7-1a2b"),
        ("{title} · {ref}", "", "kr7-1a2b"),
        ("[{ref}] {title}", "Survey", "[kr7-1a2b] Survey"),
        ("{title}", "Survey", "Survey"),
        ("{title}", "", ""),
        ("{title} · {ref}", "{ref} {title}", "{ref} {title} · kr7-1a2b"),
        ("{title} · {ref}", "x" * 400, "x" * (TITLE_MAX - 11) + " · kr7-1a2b"),
    ],
)
async def test_the_history_item_text(form: str, reason: str, title: str) -> None:
    async with Rig(reference_format=form) as rig:
        assert isinstance(rig.actions, YotpoActions)
        assert rig.actions.title(replace(ACTION, reason=reason)) == title
        assert len(title) <= TITLE_MAX


async def test_yotpos_own_id_is_returned(rig: Rig) -> None:
    assert await rig.apply(ACTION) == "1"
    assert rig.platform.state()["violations"] == {}


# ── refused, and tried again ─────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "action",
    [
        replace(ACTION, email="nobody@example.com"),
        replace(ACTION, amount=-101),
        replace(ACTION, amount=0),
        replace(ACTION, email=None),
        replace(ACTION, name="push"),
    ],
)
async def test_an_action_yotpo_never_accepts_is_refused_alone(rig: Rig, action: Action) -> None:
    with pytest.raises(Rejected):
        await rig.apply(action)
    assert balance(rig) == 100


@pytest.mark.parametrize("status", [423, 429, 503])
async def test_a_locked_customer_is_retried(rig: Rig, status: int) -> None:
    rig.platform.faults.add("points/adjust", "status", status=status, count=1)
    with pytest.raises(RetryLater):
        await rig.apply(ACTION)
    await rig.apply(ACTION)
    assert balance(rig) == 140


# ── ambiguous outcomes ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("kind", "how", "found"),
    [
        ("status", {"status": 500, "applied": True}, "applied"),
        ("status", {"status": 502, "applied": False}, "absent"),
        ("reset_after", {}, "applied"),
        ("reset_before", {}, "absent"),
    ],
)
async def test_an_ambiguous_outcome_is_found_by_its_reference(
    rig: Rig, kind: Any, how: dict[str, Any], found: str
) -> None:
    rig.platform.faults.add("points/adjust", kind, count=1, **how)
    with pytest.raises(AmbiguousError):
        await rig.apply(ACTION)
    assert await rig.actions.look_up(ACTION) == found
    assert balance(rig) == (140 if found == "applied" else 100)


@pytest.mark.parametrize("length", [12, 20, 100, 255])
async def test_a_title_that_yotpo_cuts_still_shows_the_reference(
    rig: Rig, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No page states how long a line of the history may be."""
    kept = Customer.adjust_points

    def cut(self: Customer, points: int, title: str, *args: Any, **how: Any) -> None:
        kept(self, points, title[:length], *args, **how)

    monkeypatch.setattr(Customer, "adjust_points", cut)
    long = replace(ACTION, ref="lc0123456789", reason="x" * 300)
    await rig.apply(long)
    assert await rig.actions.look_up(long) == "applied"


@pytest.mark.parametrize(
    "form", ["{title} · {ref}", "{title} {ref}", "a long text before the {ref}"]
)
async def test_a_missing_reference_proves_nothing_where_it_may_be_cut_off(form: str) -> None:
    async with Rig(reference_format=form) as rig:
        ana = rig.platform.add("ana@example.com", balance=0)
        ana.adjust_points(5, "Welcome", rig.platform.moment())
        assert await rig.actions.look_up(ACTION) == "unknowable"
        await rig.apply(ACTION)
        assert await rig.actions.look_up(ACTION) == "applied"


async def test_the_history_of_another_customer_proves_nothing(rig: Rig) -> None:
    assert await rig.actions.look_up(replace(ACTION, person="another")) == "unknowable"


async def test_a_different_reference_does_not_match(rig: Rig) -> None:
    for ref in ("kr7-1a2bc", "xkr7-1a2b", "kr7-1a2b-2", "KR7-1A2B"):
        await rig.apply(replace(ACTION, ref=ref))
    assert await rig.actions.look_up(ACTION) == "absent"
    await rig.apply(ACTION)
    assert await rig.actions.look_up(ACTION) == "applied"


async def test_adjustments_hidden_from_the_customer_cannot_be_looked_up(rig: Rig) -> None:
    hidden = replace(ACTION, visible=False)
    await rig.apply(hidden)
    assert await rig.actions.look_up(hidden) == "unknowable"


async def test_without_the_reference_in_the_history_nothing_can_be_looked_up() -> None:
    async with Rig(reference_format="{title}") as rig:
        rig.platform.add("ana@example.com")
        assert await rig.actions.look_up(ACTION) == "unknowable"


async def test_a_lookup_for_a_deleted_customer_is_unknowable(rig: Rig) -> None:
    ana = rig.platform.person("ana@example.com")
    assert ana is not None
    await rig.apply(ACTION)
    rig.platform.remove(ana)
    assert await rig.actions.look_up(ACTION) == "unknowable"


@pytest.mark.parametrize(
    "items",
    [
        {},
        {"history_items": None},
        {"history_items": "none"},
        {"history_items": ["Survey"]},
        {"history_items": [{"id": 7}]},
        {"history_items": [], "points_balance": 100},
    ],
)
async def test_a_response_without_a_readable_history_is_unknowable(
    rig: Rig, items: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = {"email": "ana@example.com", "referral_link": None, **items}
    monkeypatch.setattr(Customer, "view", lambda self, **how: dict(shown))
    assert await rig.actions.look_up(ACTION) == "unknowable"


# ── the API of an app ────────────────────────────────────────────────────────────────────────────

APP: dict[str, Any] = {
    "api": "app",
    "app_key": "app-1",
    "adjust_url": "http://127.0.0.1/app/{app_key}/points/adjust",
}
RENEWED = {
    "token_url": "http://127.0.0.1/app/oauth2/token",
    "client_id": "client-1",
    "client_secret": "client-secret-1",
    "refresh_token": "refresh-0",
}
IN_QUERY = {"adjust_url": APP["adjust_url"] + "?access_token={access_token}"}


@pytest.mark.parametrize(("how", "place"), [({}, "header"), (IN_QUERY, "query")])
async def test_an_app_adjusts_with_its_token(how: dict[str, str], place: str) -> None:
    sandbox = {"app_token_in": place}
    async with Rig(sandbox=sandbox, **{**APP, **how, "access_token": "app-token-0"}) as rig:
        rig.platform.add("ana@example.com", balance=100)
        assert await rig.apply(ACTION) == "1"
        await rig.apply(replace(ACTION, visible=False))
        assert balance(rig) == 180
        assert rig.platform.state()["violations"] == {}
        assert await rig.actions.look_up(ACTION) == "unknowable"


@pytest.mark.parametrize(("how", "place"), [({}, "header"), (IN_QUERY, "query")])
async def test_an_apps_access_token_and_refresh_token_are_renewed(
    how: dict[str, str], place: str
) -> None:
    async with Rig(sandbox={"app_token_in": place}, **{**APP, **RENEWED, **how}) as rig:
        rig.platform.add("ana@example.com", balance=0)
        for _ in range(3):
            await rig.apply(ACTION)
            # The token has expired each time: the sandbox replaces both.
            rig.clock.move(3600)
        assert balance(rig) == 120
        assert rig.platform.refresh_token == "refresh-3"


async def test_a_refresh_token_that_yotpo_replaced_outlives_the_process() -> None:
    store, key = memory_store(), SecretStr(base64.urlsafe_b64encode(b"k" * 32).decode())
    connection = Connection(name="acme", source="yotpo")
    config = Config.model_validate({"security": {"encryption_key": [key]}})
    platform: YotpoSandbox | None = None
    for later, expected in ((7_200, "refresh-1"), (20_000, "refresh-2")):
        rig = Rig(platform=platform, **{**APP, **RENEWED})
        rig.refreshed_token = platform_tokens(config, store, connection, rig.clock)
        async with rig:
            platform = rig.platform
            platform.add("ana@example.com", balance=0)
            rig.clock.move(later)
            await rig.apply(ACTION)
            assert platform.refresh_token == expected
            row = await store.secrets.get("acme", "platform_oauth")
            assert row is not None
            assert expected not in repr(row)


async def test_a_newly_configured_refresh_token_replaces_the_stored_one() -> None:
    store, key = memory_store(), SecretStr(base64.urlsafe_b64encode(b"k" * 32).decode())
    connection = Connection(name="acme", source="yotpo")
    config = Config.model_validate({"security": {"encryption_key": [key]}})
    async with Rig(**{**APP, **RENEWED, "refresh_token": "revoked"}) as rig:
        pass
    for token in ("revoked", "refresh-0"):
        other = Rig(platform=rig.platform, **{**APP, **RENEWED, "refresh_token": token})
        other.refreshed_token = platform_tokens(config, store, connection, other.clock)
        async with other:
            rig.platform.add("ana@example.com", balance=0)
            if token == "revoked":
                with pytest.raises(Blocked):
                    await other.apply(ACTION)
            else:
                await other.apply(ACTION)


async def test_an_app_identifies_people_by_address_only() -> None:
    async with Rig(**APP, access_token="app-token-0") as rig:
        with pytest.raises(Rejected, match="address"):
            await rig.apply(replace(ACTION, email=None, person="7"))


async def test_a_wrong_app_url_does_not_refuse_the_action() -> None:
    wrong = {**APP, "adjust_url": "http://127.0.0.1/app/nowhere"}
    async with Rig(**wrong, access_token="app-token-0") as rig:
        with pytest.raises(Blocked) as caught:
            await rig.apply(ACTION)
        assert caught.value.scope == "target"


async def test_an_app_adjusts_a_hundred_times_a_minute() -> None:
    async with Rig(**APP, access_token="app-token-0") as rig:
        rig.platform.add("ana@example.com")
        began = rig.clock.monotonic()
        for _ in range(250):
            await rig.apply(ACTION)
        assert 120 <= rig.clock.monotonic() - began < 135
        assert rig.platform.state()["throttled"] == 0
