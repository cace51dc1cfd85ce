"""Results of checks and items that need a person's attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from connector.domain.errors import Problem


@dataclass(frozen=True, slots=True)
class Check:
    """One line of `connector check`: what was checked, the result, and what to do about it."""

    name: str
    level: Literal["ok", "warning", "fault"]
    detail: str = ""
    problem: Problem | None = None


@dataclass(frozen=True, slots=True)
class AttentionItem:
    """Something that needs a person. `key` identifies it: the same problem keeps the same key."""

    key: str
    text: str
