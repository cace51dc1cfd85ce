"""Logs each problem that records meet once when it begins and once when it ends."""

from __future__ import annotations

from connector.domain.lanes import Millis
from connector.runtime import log
from connector.runtime.activity import Activity

_QUIET_MS = 600_000
"""A problem that no record has met for so long has ended."""


class ProblemLog:
    """Thousands of records may meet one problem: two lines of log, not thousands."""

    def __init__(self, activity: Activity) -> None:
        self._activity = activity
        self._begun: set[tuple[str, str]] = set()
        self._log = log.get("problems")

    def update(self, now: Millis) -> None:
        for key, found in list(self._activity.problems.items()):
            connection, problem = key
            if key not in self._begun:
                self._begun.add(key)
                self._log.warning(
                    "problem_began",
                    connection=connection,
                    problem=problem.value,
                    meaning=problem.meaning,
                    records=found.count,
                )
            elif now - found.last > _QUIET_MS:
                self._begun.discard(key)
                del self._activity.problems[key]
                self._log.info(
                    "problem_ended",
                    connection=connection,
                    problem=problem.value,
                    records=found.count,
                )
