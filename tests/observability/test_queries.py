"""Every query of dashboards and rules, run by a real Prometheus that scrapes a real daemon."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.cli.conftest import Folder, Platforms
from tests.waiting import until

from .running import Prometheus, post
from .tools import DASHBOARDS, RULES, Alert, Query, alerts, dashboard, queries

pytestmark = pytest.mark.timeout(240)

# Metrics that a healthy daemon does not have: these panels may be empty here.
QUIET = re.compile(
    r"connector_(?:records_skipped|retries)_total|connector_checkpoint|ALERTS"
    r'|connector_rate_limit_wait|reason="not_stored"|status="429"|status=~"4\.\.'
    r'|endpoint="GET /api/profile-bulk-import-jobs"'
)
VARIABLES = {
    "$connection": "acme",
    "$destination": ".*",
    "$account": ".*",
    "$__rate_interval": "10s",
    "$__range": "1m",
}


@dataclass(frozen=True, slots=True)
class Watched:
    """A daemon and a Prometheus that has scraped it for a while."""

    daemon: Folder
    prometheus: Prometheus


@pytest.fixture(scope="module")
def watched(prometheus: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    path = tmp_path_factory.mktemp("observed")
    platforms = Platforms()
    daemon = Folder(path / path.name, platforms)
    watcher = Prometheus(prometheus, path / "prometheus", daemon.port, RULES.read_text())
    try:
        daemon.start()
        watcher.wait()
        keep_busy(daemon, watcher)
        yield Watched(daemon, watcher)
    finally:
        watcher.stop()
        daemon.stop()
        platforms.stop()


def keep_busy(daemon: Folder, watcher: Prometheus) -> None:
    """Cause events of every kind before and between scrapes: a rate needs two samples."""

    def post_events() -> None:
        headers, body = post(daemon, 3)
        assert daemon.request("POST", "/webhooks/acme", body, headers)[0] == 202
        assert daemon.request("POST", "/webhooks/acme", body, {})[0] == 401

    def has_samples(count: int) -> bool:
        post_events()
        time.sleep(0.1)
        metric = "count_over_time(connector_last_delivered_timestamp_seconds"
        found = watcher.query(f'{metric}{{destination="klaviyo", kind="profile"}}[1m])')
        return bool(found) and float(found[0]["value"][1]) >= count

    # One dead letter.
    daemon.platforms.klaviyo.faults.add("events", "status", status=400, count=1)
    until("prometheus has samples of delivered profiles", lambda: has_samples(4))


def expand_variables(expr: str) -> str:
    for name, value in VARIABLES.items():
        expr = expr.replace(name, value)
    assert "$" not in expr
    return expr


@pytest.mark.parametrize("query", queries(), ids=lambda q: f"{q.dashboard}: {q.panel}")
def test_every_panel_query_succeeds_and_expected_panels_have_data(
    watched: Watched, query: Query
) -> None:
    found = watched.prometheus.query(expand_variables(query.expr))
    assert found or QUIET.search(query.expr), query.expr
    # NaN is not data: it is 0 divided by 0.
    if found and "histogram" not in query.expr and not QUIET.search(query.expr):
        assert any(series["value"][1] != "NaN" for series in found), query.expr


@pytest.mark.parametrize("alert", alerts(), ids=lambda a: a.name)
def test_every_rule_query_succeeds(watched: Watched, alert: Alert) -> None:
    watched.prometheus.query(alert.expr)


def test_prometheus_loads_the_rules_without_a_fault(watched: Watched) -> None:
    def rules() -> list[dict[str, Any]]:
        groups = watched.prometheus.api("rules")["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]

    until("every rule was evaluated", lambda: all(r["health"] != "unknown" for r in rules()))
    assert {rule["health"] for rule in rules()} == {"ok"}
    read = {r["name"]: (r["labels"]["severity"], r["annotations"]) for r in rules()}
    assert read == {a.name: (a.severity, a.texts) for a in alerts()}


def test_a_healthy_daemon_fires_only_the_provoked_alerts(watched: Watched) -> None:
    # keep_busy causes the dead letter and the forged webhooks.
    assert watched.prometheus.firing() <= {"DeadLetters", "WebhookSignatureRefused"}


def test_every_variable_has_values(watched: Watched) -> None:
    for path in DASHBOARDS:
        for variable in dashboard(path)["templating"]["list"]:
            metric, label = re.findall(r"(connector_\w+).*, (\w+)\)", variable["definition"])[0]
            assert watched.prometheus.query(f"group by ({label}) ({metric})")
