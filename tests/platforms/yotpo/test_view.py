"""The view of Yotpo's customer, with any part missing or odd."""

from __future__ import annotations

from typing import Any

import pytest

from connector.mapping import compile_mapping, load
from connector.platforms.yotpo.view import listing_covers, person_covers, person_view
from connector.sandbox import YotpoSandbox
from tests.paths import MAPPINGS

MAPPING = load(MAPPINGS / "yotpo.toml").mapping
CATALOGUE = {
    "tiers": [{"name": "Bronze"}, {"name": None}, {"name": "Silver"}, {"name": "Gold"}],
    "rewards": [
        {"amount": 1200, "name": "Tote Bag"},
        {"amount": 250, "name": "$5 Coupon"},
        {"amount": 450, "name": "$10 Coupon"},
        {"amount": "1", "name": "Odd"},
    ],
}


@pytest.mark.parametrize(
    ("parts", "born"),
    [
        ({"birth_day": 17, "birthday_month": 5, "birthday_year": 1990}, "1990-05-17"),
        ({"birth_day": 17, "birth_month": 5, "birth_year": 1990}, "1990-05-17"),
        ({"birthday_day": "17", "birthday_month": "5", "birthday_year": "1990"}, "1990-05-17"),
        ({"birth_day": 17, "birthday_month": 5}, None),
        ({"birth_day": 17, "birthday_month": 5, "birthday_year": None}, None),
        ({"birth_day": 31, "birthday_month": 2, "birthday_year": 1990}, None),
        ({"birth_day": 1.5, "birthday_month": 2, "birthday_year": True}, None),
        ({}, None),
    ],
)
def test_a_birthday_is_put_together_from_its_parts(parts: dict[str, Any], born: str | None) -> None:
    assert person_view(parts, {}).get("birthdate") == born


@pytest.mark.parametrize(
    ("customer", "tier"),
    [
        ({"vip_tier_name": "Gold"}, {"name": "Gold"}),
        ({"vip_tier_expiration": "2027-01-01"}, {"expires_at": "2027-01-01"}),
        ({"vip_tier_ends_at": "2027-01-01"}, {"expires_at": "2027-01-01"}),
        (
            {"vip_tier_ends_at": "2027-01-01", "vip_tier_expiration": "2027-02-02"},
            {"expires_at": "2027-02-02"},
        ),
        ({"vip_tier_actions_completed": {"points_earned": 0}}, {"balance": 0}),
        ({"vip_tier_actions_completed": None, "vip_tier_name": None}, None),
    ],
)
def test_a_tier_in_either_spelling(customer: dict[str, Any], tier: dict[str, Any] | None) -> None:
    assert person_view(customer, {}).get("tier") == tier


@pytest.mark.parametrize(
    ("customer", "found"),
    [
        ({"vip_tier_name": "Silver"}, {"name": "Gold", "points_needed": 150}),
        ({"vip_tier_name": None}, {"name": "Bronze", "points_needed": 150}),
        ({"vip_tier_name": "Renamed"}, {"points_needed": 150}),
        ({"vip_tier_name": "Gold"}, {"points_needed": 150}),
        ({"vip_tier_name": "Gold", "vip_tier_upgrade_requirements": None}, None),
        ({"vip_tier_name": "Gold", "vip_tier_upgrade_requirements": {}}, None),
    ],
)
def test_the_next_tier(customer: dict[str, Any], found: dict[str, Any] | None) -> None:
    needs = {"vip_tier_upgrade_requirements": {"points_needed": 150}}
    assert person_view(needs | customer, CATALOGUE).get("next_tier") == found


@pytest.mark.parametrize(
    ("balance", "found"),
    [
        (0, {"name": "$5 Coupon", "points_needed": 250}),
        (250, {"name": "$10 Coupon", "points_needed": 200}),
        (1199, {"name": "Tote Bag", "points_needed": 1}),
        (1200, None),
        ("455", None),
        (None, None),
    ],
)
def test_the_next_reward_is_the_cheapest_not_yet_affordable(balance: Any, found: Any) -> None:
    view = person_view({"points_balance": balance}, CATALOGUE)
    assert view.get("next_reward") == found


def test_goals_are_off_by_default_and_can_be_enabled() -> None:
    signals = {
        "yotpo_next_tier_name": ("set", "Gold"),
        "yotpo_points_to_next_tier": ("set", 150),
        "yotpo_next_reward_name": ("set", "$10 Coupon"),
        "yotpo_points_to_next_reward": ("set", 50),
    }
    customer = {
        "points_balance": 400,
        "vip_tier_name": "Silver",
        "vip_tier_upgrade_requirements": {"points_needed": 150},
    }
    view = person_view(customer, CATALOGUE)
    assert not signals.keys() & MAPPING.render_profile(view).fields.keys()
    assert not any(word.startswith("next_") for word in MAPPING.reads)
    on = compile_mapping(MAPPING.text.replace("enabled = false", "enabled = true"))
    fields = on.render_profile(view).fields
    assert {name: fields.get(name) for name in signals} == signals


def test_a_listing_never_unsets_what_it_does_not_show() -> None:
    """A read shows the next expiry and the link; a list that comes after it does not."""
    sandbox = YotpoSandbox(people=1)
    ana = sandbox.add("ana@example.com", balance=10, earned=600, tier="Silver")
    read = MAPPING.render_profile(person_view(ana.view(), {}), person_covers(with_catalogue=True))
    assert len(read.attributes_to_set()["properties"]) == 9  # no birthday yet
    listed = ana.view(listed=True)
    shown = MAPPING.render_profile(person_view(listed, {}), listing_covers(listed))
    assert not {name for name in shown.fields if "expire_" in name or "referral" in name}
    assert shown.fields["yotpo_balance"] == ("set", 10)
    ana.change(tier=None)
    listed = ana.view(listed=True)
    shown = MAPPING.render_profile(person_view(listed, {}), listing_covers(listed))
    assert shown.fields["yotpo_tier_name"] == ("unset",)
    # A missing key means less than a null.
    del listed["vip_tier_name"]
    shown = MAPPING.render_profile(person_view(listed, {}), listing_covers(listed))
    assert "yotpo_tier_name" not in shown.fields
