"""Calls what a test serves on loopback."""

from __future__ import annotations

from typing import Any

import httpx


def caller_of(url: str = "", **options: Any) -> httpx.AsyncClient:
    """A client without certificate authorities, which take longer to read than most tests."""
    return httpx.AsyncClient(base_url=url, verify=False, trust_env=False, **options)
