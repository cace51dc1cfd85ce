"""When the garbage collector looks at what a start creates: never."""

from __future__ import annotations

import gc

_OBJECTS_OF_A_START = 500_000
"""More than are created with 300 connections."""


def postpone_collection() -> None:
    """During a start nearly everything stays, and the collector would scan it again and again: a
    tenth of the CPU with one connection, two fifths with 300. Not off, for a start that waits for a
    database for days."""
    gc.set_threshold(_OBJECTS_OF_A_START, 20, 20)


def freeze_heap() -> None:
    """What start-up created stays for good: keep the collector from scanning it again and again
    (a sixth of the CPU of a drain, bench/README.md). Not collected before: that would find next to
    nothing and keep webhooks waiting for a quarter of a second."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
