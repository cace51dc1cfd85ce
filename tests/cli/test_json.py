"""What `--json` prints is what docs/json.md says."""

from __future__ import annotations

import json
from typing import Any

import pytest
import typer.main
from pydantic import TypeAdapter

from connector.cli import app
from connector.cli.reports import REPORTS

from .conftest import Call, Folder

AUDIENCE = """
[[connections.segments]]
segment = "Gold"
target = "gold"
"""


def reporting_commands() -> set[str]:
    """Every command with the option `--json`."""
    found: set[str] = set()

    def walk(command: Any, name: str) -> None:
        if any("--json" in getattr(p, "opts", ()) for p in command.params):
            found.add(name)
        for word, inner in getattr(command, "commands", {}).items():
            walk(inner, f"{name} {word}")

    walk(typer.main.get_command(app), "connector")
    return found


def test_every_command_that_prints_json_has_a_schema() -> None:
    assert reporting_commands() == set(REPORTS)


@pytest.fixture
def used(call: Call, folder: Folder) -> Folder:
    """A folder with a person, a dead letter, a link and a backfill."""
    folder.config.write_text(folder.config.read_text() + AUDIENCE)
    folder.ingest("ada@example.com", None)
    addresses = folder.path / "people.csv"
    addresses.write_text("email\nada@example.com\nADA@example.com\nnot an address\n")
    done = call("backfill", "acme", "--emails", str(addresses), "--dry-run", at=folder)
    assert done.code == 0, done.err
    return folder


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("connector status", ["status"]),
        ("connector explain", ["explain", "acme", "ada@example.com"]),
        ("connector backfill list", ["backfill", "list"]),
        ("connector backfill show", ["backfill", "show", "1"]),
        ("connector dead-letters list", ["dead-letters", "list"]),
        ("connector approvals list", ["approvals", "list"]),
        ("connector actions list", ["actions", "list"]),
        ("connector audit", ["audit"]),
        ("connector audiences list", ["audiences", "list"]),
        ("connector segments list", ["segments", "list"]),
    ],
)
def test_the_output_has_exactly_the_documented_fields(
    call: Call, used: Folder, command: str, words: list[str]
) -> None:
    result = call(*words, "--json", at=used)
    assert result.code == 0, result.err
    adapter = TypeAdapter[Any](REPORTS[command])
    printed = json.loads(result.out)
    assert adapter.dump_python(adapter.validate_python(printed), mode="json") == printed
