"""`python -m tests.simulation.again SEED [UNTIL]`: what happened in the life of a seed, with every
request; or, up to UNTIL, which seeds fail. `--digests SEED...`: a line for each, which is the same
for the same life."""

from __future__ import annotations

import hashlib
import resource
import sys
import time

from connector.runtime import log

from .scenario import simulate


def main(first: int, until: int | None = None) -> int:
    log.configure(level="critical")
    bad = requests = acknowledged = 0
    virtual, started = 0.0, time.process_time()
    for seed in range(first, until or first + 1):
        found, world = simulate(seed, traces=until is None)
        requests += world.network.sent
        acknowledged += len(world.oracle.events) + len(world.oracle.actions)
        virtual += world.loop.time()
        if until is None:
            print(world.explain())
        if found:
            bad += 1
            print(f"seed {seed} failed:", *found, sep="\n  ", flush=True)
    seconds = time.process_time() - started
    print(f"{bad} of {(until or first + 1) - first} seeds failed")
    print(f"{acknowledged} calls acknowledged, {requests} requests, {virtual / 3600:.1f} h of life")
    print(f"{seconds:.0f} s of CPU: {virtual / 60 / seconds:.1f} h a minute")
    print(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB at most")
    return min(bad, 1)


def print_digests(seeds: list[int]) -> None:
    log.configure(level="critical")
    for seed in seeds:
        lines = simulate(seed, traces=True)[1].lines
        print(seed, len(lines), hashlib.sha256("\n".join(lines).encode()).hexdigest())


if __name__ == "__main__":
    if sys.argv[1] == "--digests":
        print_digests([int(seed) for seed in sys.argv[2:]])
    else:
        sys.exit(main(*map(int, sys.argv[1:])))
