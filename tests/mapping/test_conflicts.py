"""Two connections that write the same thing at one Klaviyo account are reported."""

from __future__ import annotations

import re
from itertools import combinations

import pytest

from connector.mapping import CompiledMapping, Writer, compile_mapping, find_conflicts, load
from tests.paths import MAPPINGS


def mapping(prefix: str = "", field: str = "points", **more: str) -> CompiledMapping:
    return compile_mapping(
        f"""
version = 1
source = "x"
[events]
prefix = "{prefix}"
[events.metrics."Points Changed"]
[events.metrics."Never sent"]
enabled = false
[profile.fields.{field}]
from = ["balance"]
[profile.fields.never_written]
from = ["balance"]
enabled = false
[profile.attributes.first_name]
from = ["first_name"]
enabled = {more.get("first_name", "false")}
"""
    )


def writer(name: str, *accounts: str, of: CompiledMapping, **sends: bool) -> Writer:
    return Writer(name, frozenset(accounts), of, **sends)


def test_the_fault_names_both_connections_the_fields_and_the_fix() -> None:
    fields, metrics = find_conflicts(
        [writer("a", "K", of=mapping()), writer("b", "K", of=mapping())]
    )
    assert fields.startswith('connections.b.mapping: found the profile fields "points"')
    assert metrics.startswith('connections.b.mapping: found the metrics "Points Changed"')
    for fault in (fields, metrics):
        assert "connections.a" in fault
        assert "never" not in fault.lower()
    assert "enabled = false" in fields
    assert "[events] prefix" in metrics


@pytest.mark.parametrize(
    ("second", "found"),
    [
        (writer("b", "other", of=mapping()), []),
        (writer("b", "other", "K", of=mapping()), ["fields", "metrics"]),
        (writer("b", "K", of=mapping(prefix="B ")), ["fields"]),
        (writer("b", "K", of=mapping(field="b_points")), ["metrics"]),
        (writer("b", "K", of=mapping(prefix="B ", field="b_points")), []),
        (writer("b", "K", of=mapping(), events=False), ["fields"]),
        (writer("b", "K", of=mapping(), profiles=False), ["metrics"]),
    ],
)
def test_only_fields_sent_to_the_same_account_clash(second: Writer, found: list[str]) -> None:
    lines = find_conflicts([writer("a", "K", of=mapping()), second])
    assert ["fields" if "profile fields" in line else "metrics" for line in lines] == found


def test_a_klaviyo_attribute_is_a_field_too() -> None:
    one = writer("a", "K", of=mapping(first_name="true"))
    other = writer("b", "K", of=mapping("B ", "b_points", first_name="true"))
    [fault] = find_conflicts([one, other])
    assert '"first_name"' in fault


def test_every_two_of_three_are_compared() -> None:
    three = [writer(name, "K", of=mapping()) for name in "abc"]
    assert len(find_conflicts(three)) == 2 * len(list(combinations("abc", 2)))


def test_the_shipped_mappings_can_share_one_account() -> None:
    shipped = ("jericommerce", "yotpo", "wll")
    there = [name for name in shipped if (MAPPINGS / f"{name}.toml").exists()]
    assert len(there) >= 2
    writers = [writer(name, "K", of=load(MAPPINGS / f"{name}.toml").mapping) for name in there]
    assert find_conflicts(writers) == []


def test_of_many_fields_three_are_named() -> None:
    shipped = load(MAPPINGS / "yotpo.toml").mapping
    fields, metrics = find_conflicts([writer("a", "K", of=shipped), writer("b", "K", of=shipped)])
    for fault in (fields, metrics):
        assert fault.count('"') == 2 * 3
        assert re.search(r'", "[^"]+" and \d+ more, which', fault)
