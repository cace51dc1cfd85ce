"""`python -m tests.simulation.again SEED [UNTIL]`: what happened in the life of a seed, with every
request; or, up to UNTIL, which seeds fail."""

from __future__ import annotations

import sys

from connector.runtime import log

from .scenario import simulate


def main(first: int, until: int | None = None) -> int:
    log.configure(level="critical")
    bad = 0
    for seed in range(first, until or first + 1):
        found, world = simulate(seed, traces=until is None)
        if until is None:
            print(world.explain())
        if found:
            bad += 1
            print(f"seed {seed} failed:", *found, sep="\n  ")
    print(f"{bad} of {(until or first + 1) - first} seeds failed")
    return min(bad, 1)


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
