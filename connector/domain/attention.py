"""Findings for a person: results of checks and items that need attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from connector.domain.errors import Problem


@dataclass(frozen=True, slots=True)
class Check:
    """One line of `connector check`: what was looked at, whether it is well, and what to do."""

    name: str
    level: Literal["ok", "warning", "fault"]
    detail: str = ""
    problem: Problem | None = None


@dataclass(frozen=True, slots=True)
class AttentionItem:
    """Something that a person must look at. `key` stays the same while it is the same thing."""

    key: str
    text: str
