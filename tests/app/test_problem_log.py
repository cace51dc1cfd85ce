"""A problem that records or callers meet is logged when it begins and when it ends."""

from __future__ import annotations

import structlog

from connector.app.problem_log import ProblemLog
from connector.domain.errors import Problem
from connector.domain.lanes import Millis
from connector.runtime.activity import Activity

NOW = Millis(1_790_000_000_000)


def later(seconds: float) -> Millis:
    return Millis(NOW + round(seconds * 1000))


def test_thousands_of_records_with_one_problem_are_two_lines() -> None:
    activity = Activity()
    problems = ProblemLog(activity)
    with structlog.testing.capture_logs() as logs:
        for n in range(3_000):
            activity.record_problem("acme", Problem.MAPPING_FAILED, later(n / 10))
            if n % 50 == 0:
                problems.update(later(n / 10))
        problems.update(later(800))
        problems.update(later(900 + 1))
        problems.update(later(2_000))
    assert [(x["event"], x["log_level"], x["problem"]) for x in logs] == [
        ("problem_began", "warning", "M10"),
        ("problem_ended", "info", "M10"),
    ]
    assert logs[1]["records"] == 3_000
    assert activity.problems == {}


def test_a_problem_that_comes_back_begins_again() -> None:
    activity = Activity()
    problems = ProblemLog(activity)
    with structlog.testing.capture_logs() as logs:
        for at in (0, 1_000):
            activity.record_problem("acme", Problem.NO_IDENTITY, later(at))
            problems.update(later(at))
            problems.update(later(at + 601))
    assert [x["event"] for x in logs] == ["problem_began", "problem_ended"] * 2


def test_refused_calls_end_when_one_is_accepted() -> None:
    activity = Activity()
    problems = ProblemLog(activity)
    with structlog.testing.capture_logs() as logs:
        for n in range(90):
            activity.record_refused("acme", "signature", later(n), Problem.WEBHOOK_UNSIGNED)
        problems.update(later(90))
        activity.record_received("acme", "webhook", later(91))
        problems.update(later(92))
        problems.update(later(93))
    [ended] = logs
    assert (ended["event"], ended["problem"], ended["calls"]) == ("refusals_ended", "W401", 90)
