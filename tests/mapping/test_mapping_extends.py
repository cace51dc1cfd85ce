"""A mapping file extends another: merged table by table, and complete without the other."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connector.domain.errors import ConfigError, Problem
from connector.mapping import CompiledMapping, compile_mapping, load
from connector.mapping.files import merge
from connector.tools.templates import write as init
from tests.paths import MAPPINGS

SLOW_OR_SHARED = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
PARENT = """
version = 1
source = "acme"

[events]
prefix = "Acme "

[events.metrics.Scanned]
add = { shop = "raw.shop", balance_after = "balance" }

[profile.fields.points]
from = ["balance"]
type = "number"

[profile.fields.tier]
from = ["tier.name"]
"""


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        (folder / f"{name}.toml").write_text(text)


def mapping(folder: Path, name: str) -> CompiledMapping:
    return load(folder / f"{name}.toml").mapping


def faults(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert caught.value.problem is Problem.MAPPING_FAULTY
    return "\n".join(caught.value.faults)


def test_the_childs_keys_win_and_the_parents_others_stay(tmp_path: Path) -> None:
    child = """
extends = "parent.toml"

[events.metrics.Scanned]
add = { shop = "raw.place" }

[profile.fields.tier]
enabled = false

[profile.fields.level]
from = ["tier.name"]
"""
    write(tmp_path, parent=PARENT, child=child)
    found = mapping(tmp_path, "child")
    assert (found.source, found.prefix) == ("acme", "Acme ")
    assert found.declared == ("points", "level")
    metrics = tomllib.loads(found.text)["events"]["metrics"]
    assert metrics["Scanned"]["add"] == {"shop": "raw.place", "balance_after": "balance"}


def test_the_text_and_the_version_cover_the_merged_file(tmp_path: Path) -> None:
    write(tmp_path, parent=PARENT, child='extends = "parent.toml"\n[events]\nprefix = "A "\n')
    before = mapping(tmp_path, "child")
    again = compile_mapping(before.text)
    assert again.version == before.version
    assert again.prefix == "A "
    write(tmp_path, parent=PARENT.replace('["balance"]', '["raw.points"]'))
    assert mapping(tmp_path, "child").version != before.version
    write(tmp_path, same=PARENT.replace('"Acme "', '"A "'))
    assert mapping(tmp_path, "same").version == before.version


def test_a_parent_in_another_folder_may_extend_a_third_file(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    write(tmp_path, root=PARENT, child='extends = "shared/middle.toml"\n')
    write(shared, middle='extends = "../root.toml"\n[events]\nunknown = "drop"\n')
    found = mapping(tmp_path, "child")
    assert (found.prefix, found.unknown) == ("Acme ", "drop")


@pytest.mark.parametrize(
    ("files", "says"),
    [
        (
            {"child": 'extends = "gone.toml"'},
            ["child.toml: extends: ", "gone.toml: cannot be read"],
        ),
        ({"child": 'extends = "child.toml"'}, ["child.toml: extends: found ", "child.toml, which"]),
        (
            {"child": 'extends = "a.toml"', "a": 'extends = "b.toml"', "b": 'extends = "a.toml"'},
            ["b.toml: extends: found ", "a.toml, which extends this file"],
        ),
        ({"child": "extends = 3"}, ["child.toml: extends: found 3"]),
        ({"child": 'extends = " "'}, ["child.toml: extends: found"]),
        (
            {"child": 'extends = "parent.toml"\nsource = "other"\nversion = 2', "parent": PARENT},
            ["child.toml: version: found 2", "child.toml: source: found", "as in", "parent.toml"],
        ),
        ({"child": 'extends = "a.toml"', "a": "version ="}, ["a.toml: not a TOML file"]),
        (
            {"child": 'extends = "a.toml"', "a": PARENT + "[profile.fields.bad]"},
            ["a.toml: profile.fields.bad: found no source"],
        ),
        (
            {"child": 'extends = "parent.toml"\n[events]\nprefx = ""', "parent": PARENT},
            ["child.toml: events.prefx: unknown word"],
        ),
    ],
)
def test_a_fault_names_the_files(tmp_path: Path, files: dict[str, str], says: list[str]) -> None:
    write(tmp_path, **files)
    found = faults(tmp_path / "child.toml")
    for text in says:
        assert text in found


def test_a_stored_text_extends_nothing() -> None:
    with pytest.raises(ConfigError, match="extends"):
        compile_mapping(f'extends = "parent.toml"\n{PARENT}')


def test_a_folder_written_by_init_holds_both_files(tmp_path: Path) -> None:
    init(tmp_path, "jericommerce", "acme", token=lambda: "secret")
    shipped = load(MAPPINGS / "jericommerce-generic.toml").mapping
    assert mapping(tmp_path / "mappings", "jericommerce-generic").version == shipped.version


TREES = st.recursive(
    st.integers() | st.text(max_size=3) | st.lists(st.integers(), max_size=2),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=12,
)
TABLES = st.dictionaries(st.sampled_from("abc"), TREES, max_size=3)


def leaves(tree: Any, at: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    if not isinstance(tree, dict) or not tree:
        return {at: tree}
    return {path: leaf for key in tree for path, leaf in leaves(tree[key], (*at, key)).items()}


@given(base=TABLES, changes=TABLES)
def test_a_merge_has_every_change_and_what_no_change_touches(
    base: dict[str, Any], changes: dict[str, Any]
) -> None:
    merged, changed = leaves(merge(base, changes)), leaves(changes)
    for path, leaf in changed.items():
        if leaf != {}:
            assert merged[path] == leaf
    for path, leaf in leaves(base).items():
        touched = any(path[: len(other)] == other[: len(path)] for other in changed)
        assert touched or merged[path] == leaf
    assert merge(base, {}) == base
    assert merge({}, changes) == changes


@given(data=st.data())
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=SLOW_OR_SHARED,
)
def test_a_file_split_in_two_is_the_same_mapping(tmp_path: Path, data: st.DataObject) -> None:
    """Every entry is in the parent alone, in the child alone, or in both with the child's value."""
    whole = tomllib.loads((MAPPINGS / "jericommerce.toml").read_text("utf-8"))
    parent = tomllib.loads((MAPPINGS / "jericommerce.toml").read_text("utf-8"))
    child: dict[str, Any] = {"extends": "parent.toml"}
    for table, key in (("events", "metrics"), ("profile", "fields"), ("profile", "attributes")):
        entries = child.setdefault(table, {})[key] = {}
        for name, entry in whole[table][key].items():
            where = data.draw(st.sampled_from(["parent", "child", "both"]))
            if where == "child":
                del parent[table][key][name]
            elif where == "both":
                parent[table][key][name] = {**entry, "enabled": not entry.get("enabled", True)}
            if where != "parent":
                entries[name] = {"enabled": True, **entry} if where == "both" else entry
    write(tmp_path, parent=tomli_w.dumps(parent), child=tomli_w.dumps(child))
    found, expected = mapping(tmp_path, "child"), load(MAPPINGS / "jericommerce.toml").mapping
    assert sorted(found.declared) == sorted(expected.declared)
    assert {(r.metric, r.enabled) for r in found.rules.values()} == {
        (r.metric, r.enabled) for r in expected.rules.values()
    }
    assert compile_mapping(found.text).version == found.version
