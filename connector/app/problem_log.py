"""Logs each problem that records or callers meet once when it begins and once when it ends."""

from __future__ import annotations

from connector.domain.lanes import Millis
from connector.runtime import log
from connector.runtime.activity import Activity

_QUIET_MS = 600_000
"""A problem that nothing has met for so long has ended."""


class ProblemLog:
    """Thousands of records may meet one problem: two lines of log, not thousands. Refused calls are
    logged where they are answered; here is their end."""

    def __init__(self, activity: Activity) -> None:
        self._activity = activity
        self._begun: set[tuple[str, str]] = set()
        self._refused: dict[tuple[str, str], int] = {}
        self._log = log.get("problems")

    def update(self, now: Millis) -> None:
        self._update_records(now)
        self._update_refusals(now)

    def _update_records(self, now: Millis) -> None:
        for key, found in list(self._activity.problems.items()):
            connection, problem = key
            fields = {"connection": connection, "problem": problem.value, "records": found.count}
            if now - found.last > _QUIET_MS:
                self._begun.discard(key)
                del self._activity.problems[key]
                self._log.info("problem_ended", **fields)
            elif key not in self._begun:
                self._begun.add(key)
                self._log.warning("problem_began", meaning=problem.meaning, **fields)

    def _update_refusals(self, now: Millis) -> None:
        for key, refusals in self._activity.refused.items():
            connection, reason = key
            continues = refusals.in_a_row > 0 and now - refusals.last <= _QUIET_MS
            if continues:
                self._refused.setdefault(key, refusals.count - refusals.in_a_row)
            elif (before := self._refused.pop(key, None)) is not None:
                self._log.info(
                    "refusals_ended",
                    connection=connection,
                    reason=reason,
                    problem=refusals.problem,
                    calls=refusals.count - before,
                )
