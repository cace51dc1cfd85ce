"""Alert rules: valid, each fires when it should, each has a page."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from connector.domain.errors import Problem
from connector.runtime.metrics import LATENCY_BUCKETS

from .tools import PAGES, PROMETHEUS, ROOT, RULES, UNIT_TESTS, Alert, alerts, exported, faults

ALERTS = alerts()
# The first test may download Debian's package.
pytestmark = pytest.mark.timeout(240)


def run(promtool: str, *args: str) -> subprocess.CompletedProcess[str]:
    # Go's collector would take a fifth of the CPU.
    environ = {**os.environ, "GOGC": "400"}
    return subprocess.run(
        [promtool, *args], env=environ, capture_output=True, text=True, timeout=180
    )


def name_of(value: Alert | Path) -> str:
    return value.name


# ── Prometheus's own tool ────────────────────────────────────────────────────────────────────────


def test_promtool_accepts_the_configuration_and_the_rules(promtool: str) -> None:
    # Checks the rule file that the configuration names, too.
    done = run(promtool, "check", "config", str(PROMETHEUS / "prometheus.yml"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(ALERTS)} rules found" in done.stdout


@pytest.mark.parametrize("tests", UNIT_TESTS, ids=name_of)
def test_each_alert_fires_when_it_should_and_not_otherwise(promtool: str, tests: Path) -> None:
    done = run(promtool, "test", "rules", str(tests))
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_unit_tests_fail_for_a_rule_that_never_fires(promtool: str, tmp_path: Path) -> None:
    text = re.sub(
        r"^( {8}expr: )(?:\|\n(?: {10}.*\n)+|.+\n)",
        r"\g<1>vector(1) < 0\n",
        RULES.read_text(),
        flags=re.M,
    )
    (tmp_path / RULES.name).write_text(text)
    noticed: set[str] = set()
    for tests in UNIT_TESTS:
        (tmp_path / tests.name).write_text(tests.read_text())
        done = run(promtool, "test", "rules", str(tmp_path / tests.name))
        assert done.returncode == 1
        noticed |= set(re.findall(r'count\(ALERTS\{alertname=\\?"(\w+)', done.stdout + done.stderr))
    assert noticed == {alert.name for alert in ALERTS}


@pytest.mark.parametrize("alert", ALERTS, ids=name_of)
def test_each_alert_has_a_unit_test_in_which_it_fires_and_one_in_which_it_does_not(
    alert: Alert,
) -> None:
    text = "".join(tests.read_text() for tests in UNIT_TESTS)
    test_case = re.escape(f'expr: count(ALERTS{{alertname="{alert.name}", alertstate="firing"}})')
    expected = re.findall(test_case + r"\n +eval_time: \w+\n +exp_samples: (\[.*\])\n", text)
    assert "[]" in expected
    assert [e for e in expected if e != "[]"]


# ── texts of the rules ───────────────────────────────────────────────────────────────────────────


def test_names_of_alerts_are_distinct() -> None:
    assert len({alert.name for alert in ALERTS}) == len(ALERTS) > 15


@pytest.mark.parametrize("alert", ALERTS, ids=name_of)
def test_each_alert_has_summary_description_runbook_and_severity(alert: Alert) -> None:
    assert alert.texts.keys() == {"summary", "description", "runbook", "problems"}
    assert alert.severity in ("critical", "warning")
    assert len(alert.texts["summary"]) < 60
    assert alert.texts["description"].endswith(".")
    assert alert.texts["runbook"] == f"docs/alerts/{alert.name}.md"


@pytest.mark.parametrize("alert", ALERTS, ids=name_of)
def test_each_alert_names_problems_that_exist(alert: Alert) -> None:
    assert alert.problems
    assert set(alert.problems) <= {problem.value for problem in Problem}


@pytest.mark.parametrize("alert", ALERTS, ids=name_of)
def test_each_alert_uses_existing_metrics_and_labels(alert: Alert) -> None:
    assert not faults(alert.expr)


@pytest.mark.parametrize("alert", ALERTS, ids=name_of)
def test_each_alert_text_uses_labels_that_its_query_returns(alert: Alert) -> None:
    used = set(re.findall(r"\$labels\.(\w+)", alert.texts["description"]))
    grouped = re.search(r"\bby \(([^)]*)\)", alert.expr)
    left = set(grouped[1].split(", ")) if grouped else {"instance", "job"}
    assert used <= left


def test_the_bucket_of_the_latency_objective_exists() -> None:
    bounds = {float(le) for alert in ALERTS for le in re.findall(r'le="([\d.]+)"', alert.expr)}
    assert bounds
    assert bounds <= set(LATENCY_BUCKETS)


@pytest.mark.parametrize(
    ("expr", "found"),
    [
        ('sum by (connection) (rate(connector_requests_total{status="429"}[5m])) > 5e3', []),
        ("max_over_time(connector_store_bytes[1h] offset 7d)", []),
        ("connector_no_such_total", ["no metric connector_no_such_total"]),
        ('connector_store_bytes{kind="x"}', ["connector_store_bytes has no label kind"]),
        ("sum by (colour) (up)", ["no metric here has the label colour"]),
    ],
)
def test_queries_for_unknown_metrics_are_detected(expr: str, found: list[str]) -> None:
    assert faults(expr) == found


def test_known_metrics_are_read_from_the_registry() -> None:
    assert exported()["connector_lane_state"] >= {"connection", "destination", "kind", "state"}


# ── pages ────────────────────────────────────────────────────────────────────────────────────────


def test_every_alert_has_a_page_and_every_page_an_alert() -> None:
    pages = {page.stem for page in PAGES.glob("*.md")}
    assert pages == {alert.name for alert in ALERTS} | {"README"}


@pytest.mark.parametrize("alert", ALERTS, ids=name_of)
def test_a_page_says_what_it_means_why_where_to_look_and_what_to_do(alert: Alert) -> None:
    text = (ROOT / alert.texts["runbook"]).read_text()
    assert text.splitlines()[0].lower() == f"# {alert.name}: {alert.texts['summary']}".lower()
    labels = ("Meaning", "Likely causes", "Look at", "What to do")
    assert [f"- **{label}.** " in text for label in labels] == [True] * len(labels)
    assert 8 <= len(text.splitlines()) <= 24
    linked = set(re.findall(r"\]\(\.\./problems/(\w+)\.md\)", text))
    assert linked - {"README"} <= set(alert.problems)
    assert linked


def test_the_index_has_every_alert_with_its_severity_and_summary() -> None:
    text = (PAGES / "README.md").read_text()
    rows = re.findall(r"^\| \[(\w+)\]\((\w+)\.md\) \| (\w+) \| (.+?) \| (.+) \|$", text, re.M)
    assert all(name == page for name, page, *_ in rows)
    assert [(name, severity, summary.lower()) for name, _, severity, summary, _ in rows] == [
        (alert.name, alert.severity, alert.texts["summary"].lower()) for alert in ALERTS
    ]
