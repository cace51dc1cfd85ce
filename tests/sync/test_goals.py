"""The next tier and reward, by the tables of connector.toml."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.config import Reward, Tier
from connector.ports import PersonSnapshot
from connector.sync.goals import goals

TIERS = [Tier(name="Gold", points=1000), Tier(name="Silver", points=500)]
REWARDS = [Reward(name="10 off", cost=500), Reward(name="5 off", cost=200)]
ALL = frozenset({"balance", "tier", "email", "raw"})


def with_goals(view: dict[str, Any], covers: frozenset[str] = ALL) -> PersonSnapshot:
    return goals(TIERS, REWARDS)(PersonSnapshot(view, covers))


@pytest.mark.parametrize(
    ("view", "tier", "reward"),
    [
        ({"balance": 0}, ("Silver", 500), ("5 off", 200)),
        ({"balance": 200, "tier": {"balance": 499}}, ("Silver", 1), ("10 off", 300)),
        ({"balance": "30", "tier": {"balance": "500"}}, ("Gold", 500), ("5 off", 170)),
        ({"balance": 0.5, "tier": {"balance": 999.5}}, ("Gold", 0.5), ("5 off", 199.5)),
        ({"balance": 500, "tier": {"balance": 1000}}, None, None),
        ({"tier": {"name": "gold", "balance": 300}}, None, None),
        ({"tier": {"name": "silver", "balance": 300}}, ("Gold", 500), None),
        ({"tier": {"name": "Silver"}, "balance": 10}, None, ("5 off", 190)),
        ({"balance": "many"}, None, None),
    ],
)
def test_the_next_goal_is_the_first_above_the_points(
    view: dict[str, Any], tier: Any, reward: Any
) -> None:
    result = with_goals(view).view
    for name, expected in (("next_tier", tier), ("next_reward", reward)):
        goal = result.get(name)
        assert (goal and (goal["name"], goal["points_needed"])) == expected


def test_above_the_last_goal_the_fields_are_unset_and_without_points_they_stay() -> None:
    top = with_goals({"balance": 9_999})
    assert {"next_tier", "next_reward"} <= top.covers
    unknown = with_goals({"tier": {"name": "Gold"}})
    assert unknown.covers == ALL


def test_values_from_the_platform_are_kept() -> None:
    view = {"balance": 0, "next_tier": {"points_needed": 7}}
    assert with_goals(view, ALL | {"next_tier.points_needed"}).view["next_tier"] == {
        "points_needed": 7
    }
    covered = with_goals({"balance": 0}, ALL | {"next_tier", "next_reward.name"})
    assert covered == PersonSnapshot({"balance": 0}, ALL | {"next_tier", "next_reward.name"})


def test_without_tables_nothing_is_added() -> None:
    snapshot = PersonSnapshot({"balance": 5}, ALL)
    assert goals((), ())(snapshot) is snapshot


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=3,
)


@given(balance=JSON, tier=JSON | st.fixed_dictionaries({"name": JSON, "balance": JSON}))
def test_any_view_is_left_unchanged_and_nothing_is_raised(balance: Any, tier: Any) -> None:
    view = {"balance": balance, "tier": tier}
    before = repr(view)
    result = with_goals(view).view
    assert repr(view) == before
    for name in ("next_tier", "next_reward"):
        if name in result:
            assert result[name]["points_needed"] > 0
