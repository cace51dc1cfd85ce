"""Types of settings that every adapter with an API declares."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import AfterValidator, Field

from connector.config import Url


def strip_slash(url: str) -> str:
    """An address to which paths that begin with / can be appended."""
    return url.rstrip("/")


BaseUrl: TypeAlias = Annotated[Url, AfterValidator(strip_slash)]
Rate: TypeAlias = Annotated[float, Field(gt=0)]
"""Requests per second."""
