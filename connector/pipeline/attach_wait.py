"""How long an event waits for its person's read, and which events left without their fields."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from connector.domain.outcomes import Accepted, Outcome

_MARGIN = 1.5
"""How much longer than the longest recent read an event waits."""
_FORGOTTEN = 0.05
"""How much of the distance to the longest recent read one shorter read takes off."""


class AttachWait:
    """The wait of one connection: as long as its reads take, between `least` and `most` seconds.

    It follows the longest recent read, from the receipt of its reason to its result, which shorter
    ones make it forget: the load of this machine counts as the platform's does. Before the first
    result it is `most`. It is 0 where `least` is, and while `starts_in` is longer than the wait or
    None: seconds until the reads' lane may send a request; None: it does not run.
    """

    def __init__(self, least: float, most: float, starts_in: Callable[[], float | None]) -> None:
        self._least = least
        self._most = max(least, most)
        self._starts_in = starts_in
        self._longest: float | None = None

    def observe(self, seconds: float) -> None:
        """A read brought its result this long after its reason was received."""
        if self._longest is None or seconds > self._longest:
            self._longest = seconds
        else:
            self._longest -= (self._longest - seconds) * _FORGOTTEN

    def seconds(self) -> float:
        if self._least <= 0:
            return 0.0
        wait = self._most
        if self._longest is not None:
            wait = min(self._most, max(self._least, self._longest * _MARGIN))
        starts_in = self._starts_in()
        return wait if starts_in is not None and starts_in < wait else 0.0


class LeftWithout:
    """The events that are being sent without the fields that a read should have given them."""

    def __init__(self) -> None:
        self._events: set[int] = set()

    def rendered(self, seq: int, *, without: bool) -> None:
        """An event is about to be sent, perhaps not for the first time."""
        if without:
            self._events.add(seq)
        else:
            self._events.discard(seq)

    def settled(self, outcomes: Sequence[Outcome]) -> int:
        """How many of them were accepted."""
        ended = [outcome for outcome in outcomes if outcome.seq in self._events]
        self._events.difference_update(outcome.seq for outcome in ended)
        return sum(isinstance(outcome, Accepted) for outcome in ended)
