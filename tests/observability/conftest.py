"""Prometheus and promtool, if available."""

from __future__ import annotations

import pytest

from .tools import Missing, program


def _program(name: str) -> str:
    try:
        return program(name)
    except Missing as error:
        pytest.skip(f"NOT TESTED, {name} is missing: {error}. Debian's package is `prometheus`.")


@pytest.fixture(scope="session")
def promtool() -> str:
    return _program("promtool")


@pytest.fixture(scope="session")
def prometheus() -> str:
    return _program("prometheus")
