"""The shipped mapping files, their examples, and the page that explains the language."""

from __future__ import annotations

import json
import re
from datetime import UTC
from pathlib import Path
from typing import Any

import pytest

from connector.mapping import (
    ATTRIBUTES,
    KEYWORDS,
    TYPES,
    VIEW_PATHS,
    built_in,
    compile_mapping,
    load,
    run_examples,
    warnings,
)
from connector.platforms.jericommerce import PLATFORM
from connector.platforms.jericommerce.view import event_view, person_covers, person_view
from connector.tools.checks import example_views
from tests.paths import MAPPINGS, ROOT

JERI = ("jericommerce.toml", "jericommerce-generic.toml")

NAMES = """Customer created, Customer birthday, Customer scanned, Customer tapped,
Wallet pass requested, Wallet pass installed, Wallet pass uninstalled, Wallet click, Wallet visit,
Balance changed, Tier upgraded, Tier downgraded, Reward redeemed (online),
Reward redeemed (in-store), Referral completed, Campaign assigned, Account verified,
Check-in at location"""
ALIASES = {
    "Loyalty card installed": "Wallet pass installed",
    "Loyalty card uninstalled": "Wallet pass uninstalled",
    "Loyalty card opened": "Wallet visit",
    "Loyalty card clicked": "Wallet click",
    "Customer scanned on POS": "Customer scanned",
    "Balance changed (increase/decrease)": "Balance changed",
    "Wallet Pass Requested": "Wallet pass requested",
}
FIELDS = {
    "jericommerce.toml": """balance, birthdate, jericommerce_tier_name, jericommerce_tier_balance,
jericommerce_tier_entered_at, jericommerce_tier_expires_at,
jericommerce_download_wallet_pass_url""",
    "jericommerce-generic.toml": """balance, birthdate, tier-name, tier-balance, tier-entered-at,
tier-expires-at, download-wallet-pass-url""",
}


def listed(text: str) -> list[str]:
    return [name.strip() for name in text.replace("\n", " ").split(",")]


@pytest.mark.parametrize("path", sorted(MAPPINGS.glob("*.toml")), ids=lambda path: path.name)
def test_a_shipped_mapping_compiles_without_a_warning(path: Path) -> None:
    assert warnings(load(path).mapping) == []


@pytest.mark.parametrize("name", JERI)
def test_jericommerce_has_the_published_names(name: str) -> None:
    mapping = load(MAPPINGS / name).mapping
    names = listed(NAMES)
    assert len(names) == 18
    assert {rule.metric for rule in mapping.rules.values()} == set(names)
    for event in names:
        for spelling in (event, event.upper(), event.lower().replace(" ", "-")):
            rule = mapping.event(spelling)
            assert rule is not None
            assert rule.metric == event
    for alias, event in ALIASES.items():
        rule = mapping.event(alias)
        assert rule is not None
        assert rule.metric == event
    assert sorted(mapping.declared) == sorted(listed(FIELDS[name]))
    assert mapping.attributes == ()


def test_the_examples_of_jericommerce_pass() -> None:
    folder, views = MAPPINGS / "examples" / "jericommerce", example_views(PLATFORM)
    assert run_examples(folder, event_view, person_view, views) == []


def test_an_example_that_differs_is_reported(tmp_path: Path) -> None:
    folder = tmp_path / "examples" / "x"
    folder.mkdir(parents=True)
    (tmp_path / "m.toml").write_text('version = 1\nsource = "x"\n')
    (tmp_path / "bad.toml").write_text("version = 2\n")
    assert run_examples(folder, event_view) == [f"{folder}: no examples"]
    record = {"email": "a@b.co", "properties": {"n": 1}}
    good: dict[str, Any] = {"mapping": "m.toml", "name": "A", "record": record}
    for name, example in {
        "1": good | {"expect": {"metric": "B", "properties": {"n": 1}}},
        "2": good | {"expect": {}, "expected": {}},
        "3": {"mapping": "bad.toml", "expect": {}},
        "4": good | {"customer": {}, "expect": {}},
        "5": good,
        "6": good | {"expect": {"properties": {"n": "1"}}},
    }.items():
        (folder / f"{name}.json").write_text(json.dumps(example))
    (folder / "7.json").write_text("{")
    found = [line.removeprefix(f"{folder}/") for line in run_examples(folder, event_view)]
    assert found[0] == '1.json: expect.metric: found "A", expected "B"'
    assert [line[:1] for line in found] == ["1", "2", "3", "3", "4", "5", "6", "7"]


def test_a_customer_may_lack_every_field() -> None:
    assert person_view({}, {}) == {"raw": {}}
    customer = {"email": None, "userData": None, "loyaltyData": {"tierStatus": {"name": None}}}
    assert person_view(customer, {}) == {"raw": customer}
    assert person_view({"loyaltyData": {"tierStatus": "Gold"}}, {})["tier"] == {"name": "Gold"}


def test_a_tier_that_is_only_a_name_does_not_unset_its_dates() -> None:
    mapping = load(MAPPINGS / "jericommerce.toml").mapping
    customer = {"loyaltyData": {"balance": 1, "tierStatus": "Gold"}}
    message = mapping.render_profile(person_view(customer, {}), person_covers(customer))
    assert message.fields_to_unset() == []
    gone = mapping.render_profile(person_view({}, {}), person_covers({}))
    assert len(gone.fields_to_unset()) == 5


# ── the page ─────────────────────────────────────────────────────────────────────────────────────

PAGE = (ROOT / "docs" / "mappings.md").read_text()
SECTIONS = {
    "": "### The file",
    "identity": "### [identity]",
    "events": "### [events]",
    "events.metrics": '### [events.metrics."Name"]',
    "profile": "### [profile]",
    "profile.attributes": "### [profile.attributes.NAME]",
    "profile.fields": "### [profile.fields.NAME]",
    "function": "### Functions",
}


def documented(heading: str) -> list[str]:
    """The first column of the table below a heading."""
    start = PAGE.index(f"\n{heading}\n")
    section = re.split(r"\n##", PAGE[start + len(heading) + 1 :])[0]
    return re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE)


@pytest.mark.parametrize("table", KEYWORDS)
def test_every_keyword_is_documented_and_every_documented_keyword_exists(table: str) -> None:
    assert documented(SECTIONS[table]) == list(KEYWORDS[table])


def test_every_list_on_the_page_is_complete() -> None:
    assert tuple(documented("## Types")) == TYPES
    assert documented("## Functions by name") == list(built_in(UTC))
    assert tuple(documented("### View words")) == VIEW_PATHS
    heading = PAGE.index("### [profile.attributes.NAME]")
    names = PAGE[heading : PAGE.index("A read sets them", heading)]
    assert set(re.findall(r"`([^`]+)`", names)) == set(ATTRIBUTES)


def test_the_pages_mapping_compiles() -> None:
    block = re.search(r"```toml\n(version = 1.*?)```", PAGE, re.DOTALL)
    assert block is not None
    assert compile_mapping(block[1]).event("balance-changed") is not None
