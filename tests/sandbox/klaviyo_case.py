"""One request to Klaviyo and the shape of its answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .klaviyo_bodies import Body
from .shapes import Shape

JSON_API = "application/vnd.api+json"


@dataclass(frozen=True, slots=True)
class Case:
    """One request and the shape of its answer. `fault`: an injected fault, as its JSON form."""

    name: str
    operation: str
    status: int
    path: str
    shape: Shape | None
    quota: str | None
    body: Body | None = None
    content_type: str | None = JSON_API
    headers: Mapping[str, str] | None = None
    fault: Mapping[str, Any] | None = None
    remaining: str | None = None
    retry_after: str | None = None
    calls: int = 1

    def __str__(self) -> str:
        return f"{self.name}-{self.status}"


XS, S, M = "1, 1;w=1, 15;w=60", "3, 3;w=1, 60;w=60", "10, 10;w=1, 150;w=60"
L, XL = "75, 75;w=1, 750;w=60", "350, 350;w=1, 3500;w=60"
"""Texts of `RateLimit-Limit`."""
JOBS = "/api/profile-bulk-import-jobs"
