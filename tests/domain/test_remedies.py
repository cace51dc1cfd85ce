"""One remedy for the command line and the console."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.main import get_command

import connector
from connector.cli import app
from connector.domain.errors import Problem
from connector.domain.lanes import (
    LANE_KINDS,
    LIST_MEMBERS,
    PROFILES,
    READS,
    SEGMENT_MEMBERS,
    LaneKind,
)
from connector.domain.oauth import KLAVIYO_SCOPES
from connector.domain.remedies import Page, at_command_line, by, in_console

_HAS_A_BUTTON = re.compile(
    r"`connector (actions|approvals|connect|dead-letters|people|refresh|resume|webhook-builder)\b"
)
REMEDIES = {problem.value: problem.advice for problem in Problem} | {
    kind.title("acme"): kind.dead_remedy for kind in LANE_KINDS
}
REMEDIES |= {
    f"{problem} of {kind.label}": kind.advice(problem) for problem in Problem for kind in LANE_KINDS
}


_KEEP_TEXTS = ("net", "klaviyo", "platforms", "pipeline", "sync", "actions", "app")
"""Layers whose texts are kept: in the detail of a lane, a record, a group or a run."""
_COMMAND = re.compile(rf"\bconnector ({'|'.join(get_command(app).commands)})\b")  # type: ignore[attr-defined]


def _texts(source: str) -> Iterator[str]:
    """The texts of a module, but for its docstrings and what fills a slot."""
    hidden: set[ast.AST] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            hidden.add(node.value)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            hidden |= set(ast.walk(node)) if node.func.id == "by" else set()
        elif isinstance(node, ast.Constant) and node not in hidden:
            yield str(node.value)


@pytest.mark.parametrize("layer", _KEEP_TEXTS)
def test_a_text_that_is_kept_quotes_no_command(layer: str) -> None:
    modules = (Path(connector.__file__).parent / layer).rglob("*.py")
    texts = [text for module in modules for text in _texts(module.read_text())]
    assert len(texts) > 100
    assert [text for text in texts if _COMMAND.search(text)] == []


def test_what_a_missing_scope_affects_quotes_no_command() -> None:
    assert not [text for text in KLAVIYO_SCOPES.values() if _COMMAND.search(text)]


def test_a_slot_is_filled_with_commands_or_with_the_page_of_the_console() -> None:
    decide = "check, then decide " + by(Page.NEEDS_YOU, "with `connector actions applied ID`")
    assert at_command_line(decide) == "check, then decide with `connector actions applied ID`"
    assert in_console(decide) == "check, then decide under [Needs you](/attention)"
    settings = "enter it " + by(Page.SETTINGS, "in `.env`")
    assert in_console(settings, "acme") == "enter it under [Settings](/connections/acme/settings)"
    assert in_console(settings) == "enter it under Settings"
    failed = by(Page.FAILED, "with `connector dead-letters list`")
    assert in_console(failed, "acme", "M20").endswith("(/dead-letters?connection=acme&cause=M20)")
    assert in_console("nothing" + by(Page.NONE, "; or `connector check`"), "acme") == "nothing"


def test_the_console_names_no_command_where_it_has_a_button() -> None:
    for name, remedy in REMEDIES.items():
        for text in (at_command_line(remedy), in_console(remedy, "acme", "M20")):
            assert not re.search(r"[{}]", text), name
        assert not _HAS_A_BUTTON.search(in_console(remedy, "acme")), name


@pytest.mark.parametrize("kind", [PROFILES, READS, LIST_MEMBERS, SEGMENT_MEMBERS])
def test_the_remedies_of_people_name_no_records(kind: LaneKind) -> None:
    for problem in set(Problem) - {Problem.UNKNOWN_EVENT}:
        advice = kind.advice(problem)
        for remedy in (at_command_line(advice), in_console(advice, "acme")):
            assert "dead-letters" not in remedy, problem
            assert remedy.count("](/people") <= 1, problem


def test_people_are_refreshed_by_their_cause() -> None:
    advice = PROFILES.advice(Problem.KLAVIYO_REFUSED)
    assert at_command_line(advice, "acme") == (
        "read which field Klaviyo names with `connector people list --cause K400` and fix it, "
        "then refresh them with `connector people refresh acme --cause K400`"
    )
    assert in_console(advice, "acme", "K400") == (
        "read which field Klaviyo names under [People](/people?connection=acme&cause=K400) and "
        "fix it, then refresh them"
    )
