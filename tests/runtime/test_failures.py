"""A streak of failures is logged at its beginning and at its end."""

from __future__ import annotations

import structlog

from connector.runtime.failures import FailureStreak


def test_the_first_failure_and_the_recovery_are_logged_and_nothing_between() -> None:
    with structlog.testing.capture_logs() as logs:
        streak = FailureStreak(structlog.get_logger(), "poll_failed", "poll_recovered")
        streak.clear()
        streak.record("N30: reset", detail="first")
        streak.record("N50: timed out")
        assert (streak.count, streak.last) == (2, "N50: timed out")
        streak.clear()
        streak.clear()
    assert (streak.count, streak.last) == (0, "")
    assert logs == [
        {"event": "poll_failed", "log_level": "error", "error": "N30: reset", "detail": "first"},
        {"event": "poll_recovered", "log_level": "info", "failures": 2},
    ]
