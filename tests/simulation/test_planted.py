"""What the simulation is worth: faults of the workers that were found once are put back, one at a
time, and must be found again."""

from __future__ import annotations

import pytest

from .planted import PLANTED
from .scenario import simulate

SEEDS = 500
"""Lives within which a planted fault must be found."""


def seeds_until_found(name: str, most: int) -> tuple[int, list[str]]:
    """How many lives it takes, and what was found; `most` and nothing where it was not."""
    with pytest.MonkeyPatch.context() as patch:
        PLANTED[name](patch)
        for seed in range(most):
            if found := simulate(seed)[0]:
                return seed + 1, found
    return most, []


@pytest.mark.campaign
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_is_found(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    seeds, found = seeds_until_found(name, SEEDS)
    with capsys.disabled():
        print(f"\n{name}: {f'{seeds} seeds, {found[0]}' if found else f'not in {seeds} seeds'}")
    assert found
