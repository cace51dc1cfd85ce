"""The planned faults of a simulation are no news."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def mute_logs(silenced_logs: None) -> None: ...
