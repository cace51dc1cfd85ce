"""A faulty connector.toml stops no one who reads, and nothing that a running daemon does."""

from __future__ import annotations

import json

import pytest

from tests.waiting import until

from .conftest import Call, Folder


def break_file(folder: Folder) -> None:
    """A typo that makes the file invalid TOML."""
    folder.config.write_text(folder.config.read_text().replace('name = "acme"', 'name = "acme'))


@pytest.fixture
def broken(folder: Folder) -> Folder:
    """A folder that has run, whose file has a typo now."""
    folder.ingest("ada@example.com", None)
    break_file(folder)
    return folder


@pytest.mark.parametrize(
    "words",
    [
        ["status"],
        ["dead-letters", "list"],
        ["actions", "list"],
        ["approvals", "list"],
        ["audiences", "list"],
        ["segments", "list"],
        ["explain", "acme", "ada@example.com"],
        ["pause", "acme"],
    ],
    ids=" ".join,
)
def test_a_command_about_the_store_works_and_says_so(
    call: Call, broken: Folder, words: list[str]
) -> None:
    result = call(*words, at=broken)
    assert result.code == 0, result.err
    assert result.err.splitlines()[0] == (
        "the configuration has 1 fault (`connector check` lists them); "
        "this uses the store and what last ran"
    )


def test_an_unknown_connection_is_named_with_those_of_the_store(call: Call, broken: Folder) -> None:
    result = call("pause", "acne", at=broken)
    assert result.code == 2
    assert "no connection 'acne', did you mean 'acme'?" in " ".join(result.err.split())


def test_what_needs_all_of_the_file_reports_its_faults(call: Call, broken: Folder) -> None:
    for words in (["refresh", "acme", "ada@example.com"], ["check"], ["run"]):
        result = call(*words, at=broken)
        assert result.code == 2
        assert "connector.toml: line 14" in result.err


@pytest.mark.parametrize("kind", ["a folder", "other bytes"])
def test_no_default_store_is_used_where_the_file_cannot_be_read(
    call: Call, folder: Folder, kind: str
) -> None:
    folder.config.unlink()
    if kind == "a folder":
        folder.config.mkdir()
    else:
        folder.config.write_bytes(b"\xff\xfe[store]")
    for words in (["status"], ["pause", "acme"], ["healthcheck"]):
        result = call(*words, at=folder)
        assert result.code == 2
        assert result.out == ""
        assert result.err.count("\n") == 1
        assert "connector.toml: " in result.err


def test_a_running_daemon_is_asked_with_a_faulty_file(call: Call, folder: Folder) -> None:
    folder.start()
    until("it has reported", lambda: json.loads(call("status", "--json", at=folder).out)["version"])
    break_file(folder)
    for words in (["healthcheck"], ["healthcheck", "--ready"]):
        result = call(*words, at=folder)
        assert (result.code, result.out, result.err) == (0, "ok\n", "")
    result = call("status", "--json", at=folder)
    found = json.loads(result.out)
    assert found["running"]
    assert found["connections"]["acme"]["title"] == "JeriCommerce"
    result = call("reload", at=folder)
    assert result.code == 2
    assert "line 14" in result.err
    [item] = json.loads(call("status", "--json", at=folder).out)["attention"] or [None]
    assert item is None or item["code"] == "C30"


SECOND = """
[[connections.audiences]]
audience = "vip"
list = "VIP"

[[connections.segments]]
segment = "S1"
target = "tag"
on_join = [{ action = "push", message = "hi" }, { action = "increase", amount = 1, reason = "x" }]

[[connections]]
name = "other"
source = "yotpo"
mapping = "mappings/jericommerce.toml"

[connections.settings]
guid = "guid"
api_key = "key"
webhook_secret = "a-secret-of-some-length"

[connections.klaviyo]
private_key = "pk_other"

[[connections.audiences]]
audience = "vip"
list = "Other VIP"

[[connections]]
name = "third"
source = "wll"
mapping = "mappings/none.toml"

[connections.settings]
api_key = "key"
client_id = "id"
client_secret = "secret"
webhook_secret = "a-secret-of-some-length"

[connections.klaviyo]
private_key = "pk_third"
"""
FAULTS = (
    "connections.acme.audiences: found 1, allowed none: JeriCommerce has no audiences",
    "connections.other.mapping: found a mapping for jericommerce, allowed one for yotpo",
    "connections.other.audiences: found 1, allowed none: Yotpo has no audiences",
    "mappings/none.toml: cannot be read",
)


def test_faults_beside_the_platform_and_the_mapping_are_reported_at_once(
    call: Call, folder: Folder
) -> None:
    folder.config.write_text(folder.config.read_text() + SECOND)
    result = call("run", at=folder)
    assert result.code == 2
    for fault in FAULTS:
        assert fault in result.err
    result = call("check", "--offline", at=folder)
    assert result.code == 1
    for fault in FAULTS:
        assert fault in result.out.replace(" C10: ", ": ")
