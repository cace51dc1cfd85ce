"""The pages of the problem codes, as shipped with the program."""

from __future__ import annotations

import re
from pathlib import Path

from connector.domain.errors import Problem

SHIPPED = Path(__file__).parents[1] / "shipped" / "problems"
CHECKOUT = Path(__file__).parents[2] / "docs" / "problems"
_LINK = re.compile(r"\[([^\]]+)\]\([^)]+\)")
_BOLD = re.compile(r"\*\*([^*]+)\*\*")


def page(problem: Problem) -> str:
    """The page as plain text: links and marks of Markdown are removed."""
    folder = SHIPPED if SHIPPED.is_dir() else CHECKOUT
    text = (folder / f"{problem}.md").read_text(encoding="utf-8")
    text = text.removeprefix(f"# {problem}: {problem.meaning}\n").strip()
    return _BOLD.sub(r"\1", _LINK.sub(r"\1", text))
