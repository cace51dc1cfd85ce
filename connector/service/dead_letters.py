"""Retrying and discarding dead letters, many at a time, in steps that hold up no other write."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal

from connector.domain.records import State
from connector.ports import Clock, DeadLetterFilter, DeadLetters

Report = Callable[[Mapping[str, Any]], Awaitable[None]]
"""Stores how far a command has come."""


class CountChanged(Exception):
    """Another number of records matches a filter than the person saw."""

    def __init__(self, now: int, before: int) -> None:
        super().__init__(f"{now} records match by now, not {before}: look again, then repeat")


_STEP = 1_000
_STATES: Mapping[str, State] = {"held": State.HELD, "dead": State.DEAD}


def filter_of(args: Mapping[str, Any]) -> DeadLetterFilter:
    """The filter of a command or of a query string. Raises ValueError for a state that is neither
    `held` nor `dead`."""
    state = args.get("state") or None
    if state is not None and state not in _STATES:
        raise ValueError(f"{state!r} is not a state of dead letters: use held or dead")
    return DeadLetterFilter(
        ids=tuple(args.get("ids") or ()),
        connection=args.get("connection") or None,
        cause=args.get("cause") or None,
        state=_STATES[state] if state else None,
        text=args.get("q") or "",
    )


async def change(
    letters: DeadLetters,
    what: Literal["retry", "discard"],
    args: Mapping[str, Any],
    *,
    clock: Clock,
    report: Report,
) -> int:
    """Retry or discard what `args` choose: by `ids`, by a filter, or with `all` everything. Without
    any of them nothing is chosen. Returns how many were changed. Raises CountChanged where `count`
    is given and another number matches."""
    which = filter_of(args)
    if which == DeadLetterFilter() and not args.get("all"):
        return 0
    total, done = await letters.count(which), 0
    if args.get("count", total) != total:
        raise CountChanged(total, args["count"])
    last: int | None = 0
    while last is not None:
        if what == "retry":
            step = letters.retry(which, after=last, limit=_STEP, now=clock.now())
        else:
            reason = args.get("reason") or "discarded by a person"
            step = letters.discard(which, reason=reason, after=last, limit=_STEP, now=clock.now())
        changed, last = await step
        done += changed
        if last is not None:
            await report({"done": done, "total": total})
    return done
