"""`connector problem` explains a code without a configuration, a store or a network."""

from __future__ import annotations

from pathlib import Path

import pytest

from connector.domain.errors import Problem
from connector.tools.problem_pages import page

from .conftest import Call


def test_a_code_is_explained_offline(call: Call, tmp_path: Path) -> None:
    result = call("problem", "k401", at=tmp_path)
    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    assert lines[0] == "K401: Klaviyo rejected the key"
    assert lines[1].startswith("meanwhile: the lane is blocked")
    where = "in `.env`, under the variable that `[connections.klaviyo] private_key` names"
    assert lines[2] == f"what to do: enter a valid private key {where}, then `connector reload`"
    assert "- Likely causes. The key was revoked" in result.out
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_code_is_wrong_usage_with_the_closest(call: Call, tmp_path: Path) -> None:
    result = call("problem", "K402", at=tmp_path)
    assert result.code == 2
    assert "no problem code 'K402', did you mean 'K4" in result.err


@pytest.mark.parametrize("problem", Problem, ids=str)
def test_every_page_is_plain_text(problem: Problem) -> None:
    text = page(problem)
    assert text.startswith(text.lstrip("# "))
    assert "](" not in text
    assert "**" not in text
