"""What was released is sent, whatever fails after that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from connector.domain.errors import Problem, StoreError

from .conftest import Rig


async def test_a_lane_is_woken_for_what_was_released_before_the_store_failed(
    make_rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = make_rig()
    await rig.start()
    woken: list[int] = []

    async def some(*_: Any, **__: Any) -> int:
        return 1

    async def fails(*_: Any, **__: Any) -> Any:
        raise StoreError(Problem.STORE_UNAVAILABLE, "away")

    async def releasable() -> set[str]:
        return {rig.lane.connection}

    monkeypatch.setattr(rig.store.action_decisions, "releasable", releasable)
    monkeypatch.setattr(rig.store.action_decisions, "release_identified", some)
    monkeypatch.setattr(rig.store.approvals, "about", fails)
    monkeypatch.setattr(rig.held_worker, "_on_released", lambda: woken.append(1))
    with pytest.raises(StoreError):
        await rig.held_worker.run_once()
    assert woken == [1]
